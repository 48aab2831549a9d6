"""List and read raw images, with one module for each shape in which they come."""
