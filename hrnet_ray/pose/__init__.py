"""Points, heatmaps, losses and scores in pure torch: batch first, no loops, no settings.

Three frames: the image and the crop, in pixels, and the heatmap, in cells. A point is (x, y), a
size is `_hw`, and a whole number is the middle of a pixel or of a cell.
"""
