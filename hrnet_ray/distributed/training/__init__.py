"""One experiment on Ray Train, from resources to the summary of the run."""
