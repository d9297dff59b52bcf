"""Days of a fleet in seconds: traces of requests, a world with a virtual clock, and the policies to compare."""
