"""Poses on images, image grids, plots and pieces of HTML."""
