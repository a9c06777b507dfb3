"""Training and validation in plain PyTorch, on any iterable of batches."""
