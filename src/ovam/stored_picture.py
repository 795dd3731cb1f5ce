"""The picture of a run as traces and maps carry it: a PNG of a size that is known."""

from io import BytesIO

from PIL import Image

from ovam.errors import ImageInputError


def decoded(png: bytes, size: tuple[int, int]) -> Image.Image:
    """Return the picture, RGB.

    Args:
        png: The file's bytes.
        size: (height, width) that it must have.

    Raises:
        ImageInputError: it is damaged or has another size.
    """
    height, width = size
    try:
        picture = Image.open(BytesIO(png), formats=["PNG"])
        if picture.size != (width, height):  # checked before decoding: a file may claim a picture of gigabytes
            raise ValueError(f"it has {picture.height} x {picture.width} pixels")
        return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageInputError(
            f"the trace's picture is damaged ({error}): expected a PNG of {height} x {width} pixels"
        ) from error


def encoded(picture: Image.Image) -> bytes:
    """Return a picture as PNG; equal pictures give equal bytes."""
    stream = BytesIO()
    picture.save(stream, "PNG", compress_level=4)  # level 6 takes twice as long for 2 to 5 % less
    return stream.getvalue()
