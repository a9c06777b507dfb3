"""Synthetic tigers and people, written in the layout of ATRW and MPII."""
