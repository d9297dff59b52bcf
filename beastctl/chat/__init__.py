"""The interactive chat of `beast run`."""
