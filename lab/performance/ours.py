"""This library on the synthetic queries."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lab.performance.queries import HEADS, WIDTH, Block, make_vectors
from ovam.masks.annotations import annotation_of
from ovam.prompt import AttributionPrompt, Span
from ovam.tokens.objective import Objective, target_on
from ovam.tokens.options import PULL
from ovam.trace.calls import Call
from ovam.trace.quantised import Stored
from ovam.trace.static_text import StaticText
from ovam.trace.text_side import Space, TokenEmbedding
from ovam.trace.trace import BlockTrace, Source, Trace

SPACE = Space("synthetic", "last", WIDTH)


class _Reader:
    """Reads any word as one token of a random vector of its own, between start and end."""

    space, limit = SPACE, 3

    def embed(self, text: str, *, as_phrase: bool = False, padded: bool = False) -> TokenEmbedding:
        prompt = AttributionPrompt(text, ("<start>", text, "<end>"), (Span(text, (1,)),))
        vectors = make_vectors(0, self.limit)
        vectors[1] = make_vectors(zlib.crc32(text.encode()), 1)[0]
        return TokenEmbedding(vectors, prompt, SPACE)

    def space_in(self, dtype: torch.dtype) -> Space:
        """There are no weights that could be rounded."""
        return SPACE

    def check_length(self, text: str) -> None:
        """Every text is one word."""


class Subject:
    """Answers with a trace, as a user would ask one."""

    def __init__(self, blocks: Sequence[Block], dtype: torch.dtype) -> None:
        projections = {block.name: block.projection for block in blocks}
        side = max(block.side for block in blocks)
        self.trace = Trace(
            blocks={
                block.name: BlockTrace(
                    block.name, (block.side, block.side), block.scale, {"cond": block.query.to(dtype)}
                )
                for block in blocks
            },
            calls=tuple(Call(i, i, float(999 - i)) for i in range(blocks[0].query.shape[1])),
            text=StaticText(projections, dict.fromkeys(projections, HEADS), _Reader()),
            source=Source("synthetic", "none", "generated"),
            size=(8 * side, 8 * side),
        )

    def stored(self) -> list[Stored]:
        """The queries as they are kept."""
        return [block.query["cond"] for block in self.trace.blocks.values()]

    def maps(self, vectors: Tensor) -> Tensor:
        """Mean over (step, block, head), (token, height, width)."""
        return self.trace.maps(vectors).token_maps

    def fit(self, mask: Tensor, against: Sequence[str] = (), rows: int = 1) -> None:
        """The objective of one class of so many rows, and of further rows of the background, ready for `iteration`."""
        classes = ("thing",)
        annotation = annotation_of({"thing": mask}, self.trace.size)
        target = target_on(self.trace, annotation, classes)
        self.objective = Objective([self.trace], [target], classes, against=against, rows=rows)
        self.steps = torch.zeros(self.objective.parameters, requires_grad=True)

    def iteration(self) -> None:
        """What an evaluation of the optimiser costs: the loss, and its gradient."""
        torch.autograd.grad(self.objective.loss(self.steps, PULL), [self.steps])
