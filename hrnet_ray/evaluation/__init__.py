"""Evaluate a model on a split: predictions, metrics, intervals and comparisons."""
