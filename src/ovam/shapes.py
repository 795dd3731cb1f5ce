"""Axis names, in one place. A name means the same axis wherever it stands.

head      attention heads of one block
step      kept denoiser calls, in the order they were made
pixel     positions of a block's grid, row-major: height * width
head_dim  channels of one head
token     positions of an attribution prompt, special tokens included
width     channels of a token embedding
"""

from typing import Literal

from jaxtyping import Bool, Float, Integer
from torch import Tensor

Grid = tuple[int, int]
"""Height and width of a block's lattice of pixels."""

Axis = Literal["block", "head", "step"]
"""An axis that maps can be averaged over."""

Query = Float[Tensor, "head step pixel head_dim"]
"""Pixel queries as the block used them (after normalisation and rotary embedding), unscaled."""

Key = Float[Tensor, "head token head_dim"]
"""Keys of an attribution prompt, before the scale."""

Embedding = Float[Tensor, "token width"]
"""What a block makes keys from: one vector per token."""

TokenMaps = Float[Tensor, "*kept token height width"]
"""Attention of every grid position to every token, in [0, 1]."""

Map = Float[Tensor, "*kept height width"]
"""Attention of every grid position to one word, in [0, 1]."""

Mask = Bool[Tensor, "height width"]
"""Where a word is, at the image's size."""

LabelMap = Integer[Tensor, "height width"]
"""Which word is where, at the image's size; 0 is background."""
