"""The data report: what was read, used and skipped, and what deserves a look."""
