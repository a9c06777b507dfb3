"""Ray Data: shards to the object store, and batches of each worker."""
