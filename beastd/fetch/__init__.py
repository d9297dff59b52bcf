"""Downloads: a tool process that brings a model's files into the store, whole and verified."""
