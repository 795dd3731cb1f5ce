"""A trace with fewer channels a head: what a fit on queries of a reduced head dimension gains in time and costs."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ovam.trace.quantised import floats
from ovam.trace.static_text import StaticText
from ovam.trace.trace import BlockTrace, Trace


@torch.no_grad()
def narrowed(trace: Trace, share: float) -> Trace:
    """Queries of the conditional half along their strongest directions in each head, and keys likewise.

    Scores are dot products, so that what is lost is what the queries have along the other directions. Tokens that are
    fitted to such a trace are vectors as ever, and can be asked of whole ones.

    Args:
        trace: With keys that depend on the text alone.
        share: Of each head's channels that is kept, in (0, 1].
    """
    text, blocks, projections = cast("StaticText", trace.text), dict[str, BlockTrace](), dict[str, Tensor]()
    for name, block in trace.blocks.items():
        query = floats(block.query["cond"]).float()
        rows = query.flatten(1, 2)
        kept = max(1, round(share * rows.shape[-1]))
        ways = torch.linalg.eigh(rows.mT @ rows).eigenvectors[..., -kept:]  # (head, head_dim, kept), strongest last
        narrow = (rows @ ways).unflatten(1, query.shape[1:3])
        blocks[name] = BlockTrace(name, block.grid, block.scale, {"cond": narrow})
        projection = text.projections[name].float().unflatten(0, (block.heads, -1))
        projections[name] = (ways.mT @ projection).flatten(0, 1)
    return replace(trace, blocks=blocks, text=StaticText(projections, text.heads, text.reader, text.space))
