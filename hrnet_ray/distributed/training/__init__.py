"""One experiment on Ray Train, from the check of resources to the summary of the run."""
