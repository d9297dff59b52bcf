"""The workshop: long work that outlives the client who asked for it, watched by any number of them."""
