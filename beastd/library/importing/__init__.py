"""Finding the models that are on this machine already: GGUF files, and the stores of other programs."""
