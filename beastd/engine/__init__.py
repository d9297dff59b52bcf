"""The forge: the batching engine. Runs only inside a worker process, synchronously."""
