"""Geometry, augmentation, heatmaps and losses as pure, batch-first tensor functions.

There are three frames: image and crop in pixels, heatmap in cells. Points are (x, y), sizes are
`_hw`. An integer coordinate is the center of a pixel or of a cell.
"""
