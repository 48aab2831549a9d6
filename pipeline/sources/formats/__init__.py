"""One module for each shape in which raw images come."""
