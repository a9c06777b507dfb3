"""How a model learns and is judged: plain PyTorch, any iterable of batches."""
