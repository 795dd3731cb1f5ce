"""The paper's authors' own code, a checkout of vpulab/ovam, on the same queries.

Runs only in a process of its own, because its package is called `ovam` too. It imports a few packages that
its maps do not use; where those are not installed, empty modules stand in for them.
"""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lab.performance.queries import HEADS, Block, make_vectors

UNUSED = (
    "denseCRF",
    "jupyter_bbox_widget",
    "matplotlib",
    "matplotlib.pyplot",
    "pydensecrf",
    "pydensecrf.densecrf",
    "pydensecrf.utils",
    "requests",
    "segment_anything",
)


def stub_unused() -> None:
    """Stand-ins for what the peer imports on the way and its maps never call."""
    for name in UNUSED:
        package = name.partition(".")[0]
        if isinstance(sys.modules.get(package), _Stub) or importlib.util.find_spec(package) is None:
            sys.modules[name] = _Stub(name)


class _Stub(ModuleType):
    """A module of which any public name can be imported."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return SimpleNamespace()


class Subject:
    """Answers with the peer's module, its own aggregation: sums over steps, heads and blocks."""

    def __init__(self, blocks: Sequence[Block], checkout: Path) -> None:
        stub_unused()
        sys.path.insert(0, str(checkout))
        from ovam.stable_diffusion.daam_block import CrossAttentionDAAMBlock
        from ovam.stable_diffusion.daam_module import StableDiffusionDAAM

        self.queries = [block.query.transpose(0, 1).contiguous() for block in blocks]  # its layout: step first
        parts: list[Any] = [
            CrossAttentionDAAMBlock(
                to_k=_linear(block.projection),
                hidden_states=[query],
                scale=block.scale,
                heads=HEADS,
                name=block.name,
                heads_epochs_activation="token_softmax",
            )
            for block, query in zip(blocks, self.queries, strict=True)
        ]
        pipe = SimpleNamespace(tokenizer=None, text_encoder=None)
        size = 8 * max(block.side for block in blocks)
        self.module = StableDiffusionDAAM(parts, pipe, heatmaps_aggregation="sum")
        self.enlarging = StableDiffusionDAAM(parts, pipe, heatmaps_aggregation="sum", expand_size=(size, size))
        self.count = sum(query.shape[0] * query.shape[1] for query in self.queries)

    def stored(self) -> list[Tensor]:
        """The queries as they are kept."""
        return self.queries

    def maps(self, vectors: Tensor) -> Tensor:
        """What the peer answers, its sum divided by the number of (step, block, head): (token, height, width)."""
        with torch.no_grad():
            return self.module(vectors)[0] / self.count

    def fit(self, mask: Tensor) -> None:
        """What its optimiser is given for one class: the start token's vector and the class's, and a map of each."""
        self.vectors = make_vectors(0, 2)
        self.target = torch.stack([~mask, mask])[None].float()

    def iteration(self) -> None:
        """One iteration of its own optimiser: the loss at the image's size, its gradient and a step."""
        from ovam.optimize import optimize_embedding

        optimize_embedding(self.enlarging, self.vectors, self.target, epochs=1)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer
