"""One product a file, or a file and its parts: `DEFECTS`, and `draw(streams, size, defect, severity)`.

`draw` gets the random streams of the image, its side in pixels, one of `DEFECTS` or None, and a severity from 0 to 1
that is ignored when good. It returns the image, `(size, size, 3)` uint8 RGB, and the mask, `(size, size)` bool.
"""
