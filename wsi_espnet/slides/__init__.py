"""Slides as images at a wanted scale: reading, chunked views, tissue, samples."""
