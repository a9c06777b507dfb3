"""Dataset report: rows read, used and skipped, statistics, and possible issues."""
