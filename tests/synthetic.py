"""Traces of random queries, for tests that need no pipeline, and a text side that cuts words into pieces."""

import re
import zlib

import torch

from ovam.prompt import locate, parse, phrase
from ovam.trace.calls import Call
from ovam.trace.static_text import StaticText
from ovam.trace.text_side import Space, TokenEmbedding
from ovam.trace.trace import BlockTrace, Source, Trace

WIDTH, PADDED = 6, 10
SPACE = Space("Pieces", "last", WIDTH)
GRIDS = {"fine": (5, 7), "coarse": (3, 4), "again": (5, 7)}
HEADS = {"fine": 2, "coarse": 3, "again": 1}


class Pieces:
    """Reads a text in pieces of three letters at most, each with a vector of its own at every position."""

    space = SPACE
    limit = PADDED

    def embed(self, text, *, as_phrase=False, padded=False):
        plain, units = phrase(text) if as_phrase else parse(text)
        found = [(match.group(), match.span()) for match in re.finditer(r"\w{1,3}", plain)]
        pieces = [("<start>", (0, 0)), *found, ("<end>", (0, 0))]
        pieces += [("<pad>", (0, 0))] * (PADDED - len(pieces) if padded else 0)
        names, offsets = zip(*pieces, strict=True)
        vectors = torch.stack([self._vector(name, i) for i, name in enumerate(names)])
        return TokenEmbedding(vectors, locate(plain, units, names, offsets), self.space)

    def space_in(self, dtype):
        return SPACE

    def check_length(self, text):
        """Every text is read whole."""

    def _vector(self, name, position):
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()) + position))


def make_trace(seed=0, grids=GRIDS, heads=HEADS, head_dim=4, steps=3, dtype=torch.float32, halves=("cond",), sharp=3.0):
    """A trace whose queries are drawn at random; `sharp` makes the attention uneven, so that errors show."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    blocks = {
        name: BlockTrace(
            name,
            grid,
            head_dim**-0.5,
            {half: (sharp * normal(heads[name], steps, grid[0] * grid[1], head_dim)).to(dtype) for half in halves},
        )
        for name, grid in grids.items()
    }
    projections = {name: normal(heads[name] * head_dim, WIDTH) for name in grids}
    height, width = max(grids.values())
    return Trace(
        blocks=blocks,
        calls=tuple(Call(i, i, float(900 - i)) for i in range(steps)),
        text=StaticText(projections, dict(heads), Pieces(), SPACE),
        source=Source("synthetic", "none", "generated", versions={"ovam": "test"}),
        size=(3 * height, 2 * width),
    )
