"""The library: which models exist on disk, and what their files say."""
