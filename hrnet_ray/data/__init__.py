"""Annotations to rows, rows to shards, shards to arrays. No Ray in here."""
