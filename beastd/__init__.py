"""Beast's daemon: a registry of GGUF models and the workers that serve them."""

__version__ = "0.1.0"
