"""Text, figures and HTML page of an evaluation."""
