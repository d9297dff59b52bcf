"""Beast's command line: it talks to beastd over its Unix socket and starts it when needed."""
