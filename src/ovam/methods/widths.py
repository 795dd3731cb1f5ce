"""Widths of trained modules: the published ones for Stable Diffusion's UNet, smaller ones for a smaller UNet."""

PUBLISHED = 320
"""Channels of the finest level of the UNet for which the published widths were made."""
HEADS = 8
"""Heads of every attention layer in the trained modules. All scaled widths are multiples of it."""


def scaled(width: int, finest: int) -> int:
    """Return a published width, scaled down for a small UNet.

    UNets of 320 channels or more at the finest level get the published width. Smaller ones get it in proportion to
    these channels, rounded to a multiple of 8, and at least 8.

    Args:
        width: The published width.
        finest: Channels of the UNet's finest level, which are those of `conv_in`.

    Example:
        >>> scaled(512, 320), scaled(512, 64), scaled(16, 64)
        (512, 104, 8)
    """
    if finest >= PUBLISHED:
        return width
    return max(HEADS, round(width * finest / PUBLISHED / HEADS) * HEADS)
