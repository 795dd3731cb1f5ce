"""Kinds of picture files that are read: formats that hold pixels, and none that starts a program, as EPS does."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Names as Pillow's `Image.open(..., formats=)` takes them."""
