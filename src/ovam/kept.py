"""What a capture keeps, block by block: the table of `ovam.plan`, and of a capture that is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ovam.quantised import Stored
from ovam.run import Plan
from ovam.shapes import Grid

_MIB = 2**20


@dataclass(frozen=True)
class BlockBytes:
    """What a capture keeps of one block, all steps, images and halves together.

    Attributes:
        name: Module path in the denoiser.
        grid: Height and width of its pixels.
        query: Bytes of queries; 0 where the block was not chosen.
        replay: Bytes of image keys, values and modulation, which late words need in joint attention.
        output: Bytes of attention outputs, where they were asked for.
        self_attention: Bytes of averaged self-attention, of the blocks it was asked of.
    """

    name: str
    grid: Grid
    query: int
    replay: int
    output: int
    self_attention: int = 0

    @property
    def nbytes(self) -> int:
        """All of it."""
        return self.query + self.replay + self.output + self.self_attention


def block_bytes(plan: Plan, layout: Mapping[tuple[str, str], Stored]) -> tuple[BlockBytes, ...]:
    """Bytes of each watched block, in running order, from the layout of one image and half."""
    kinds = ("query", "replay", "output", "self_attention")
    bytes_of = {name: dict.fromkeys(kinds, 0) for name in plan.watched}
    for (name, part), kept in layout.items():
        kind = part if part in kinds else "replay"
        bytes_of[name][kind] += kept.nbytes * plan.images * len(plan.halves)
    return tuple(BlockBytes(name, plan.grids[name], **parts) for name, parts in bytes_of.items())


def table(rows: Sequence[BlockBytes]) -> str:
    """Lines of plain text; blocks in a row that are alike share one."""
    asked = {"outputs": "output", "self-attention": "self_attention"}
    kinds = {"queries": "query", "for replay": "replay"} | {
        kind: part for kind, part in asked.items() if any(getattr(row, part) for row in rows)
    }
    lines: list[tuple[str, ...]] = [("block", "grid", *(f"{kind}, MiB" for kind in kinds))]
    for _, group in groupby(rows, key=lambda row: replace(row, name="")):
        first, *others = group
        names = [first.name, *(row.name for row in others)]
        (height, width), parts = first.grid, [getattr(first, part) for part in kinds.values()]
        name = names[0] if len(names) == 1 else f"{len(names)} from {names[0]} on"
        lines.append((name, f"{height}x{width}", *(f"{part / _MIB:.2f}" for part in parts)))
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip() for line in lines
    )
