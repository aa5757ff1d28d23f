"""One product a file, or a file and its parts: `DEFECTS` and `draw(streams, size, defect, severity)`."""
