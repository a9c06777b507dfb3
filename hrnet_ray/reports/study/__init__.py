"""The page of a search: which setting won, how sure that is, and what it cost."""
