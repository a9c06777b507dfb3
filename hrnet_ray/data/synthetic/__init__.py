"""Drawn tigers and people, written as ATRW and MPII are: data for whoever has none."""
