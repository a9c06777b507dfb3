"""Reading, checking and writing image files."""
