"""Safe extraction of zip and tar archives."""
