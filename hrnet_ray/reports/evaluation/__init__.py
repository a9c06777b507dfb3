"""Text, JSON, plots and HTML page of an evaluation."""
