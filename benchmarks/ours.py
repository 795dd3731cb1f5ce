"""This library on the synthetic queries."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.queries import HEADS, WIDTH, Block
from ovam.backbones.clip_text import StaticText
from ovam.maps import attention_maps
from ovam.trace import BlockTrace, Call, Source, Space, Trace


class Subject:
    """Answers with a trace, as a user would ask one."""

    def __init__(self, blocks: Sequence[Block], dtype: torch.dtype) -> None:
        projections = {block.name: block.projection for block in blocks}
        space = Space("synthetic", "last", WIDTH)
        side = max(block.side for block in blocks)
        self.trace = Trace(
            blocks={
                block.name: BlockTrace(
                    block.name, (block.side, block.side), block.scale, {"cond": block.query.to(dtype)}
                )
                for block in blocks
            },
            calls=tuple(Call(i, i, float(999 - i)) for i in range(blocks[0].query.shape[1])),
            text=StaticText(projections, dict.fromkeys(projections, HEADS), None, space),
            source=Source("synthetic", "none", "generated"),
            size=(8 * side, 8 * side),
        )

    def stored(self) -> list[Tensor]:
        """The queries as they are kept."""
        return [block.query["cond"] for block in self.trace.blocks.values()]

    def maps(self, vectors: Tensor) -> Tensor:
        """Mean over (step, block, head), (token, height, width)."""
        return attention_maps(self.trace, vectors).token_maps
