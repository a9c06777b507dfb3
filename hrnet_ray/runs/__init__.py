"""Files of one run: folder, metrics, events, lock, stop request, progress. No Ray, no MLflow."""
