"""Check that a block projects the rows of its batch in their order; a processor may repeat, merge or exchange rows.

The order tells which row belongs to which image and which half of guidance.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.errors import UnsupportedPipelineError


class RowsGiven:
    """The rows of a block's current call, and the number of rows that its query layer has projected.

    Args:
        name: Name of the block, for errors.
        module: The block.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self._module = name, module
        self._given: Tensor | None = None
        self._done = 0

    def watch(self, layer: nn.Module) -> Iterator[RemovableHandle]:
        """Install hooks that check the rows projected by this layer, in each call of the block."""
        yield self._module.register_forward_pre_hook(self._note, with_kwargs=True)
        yield layer.register_forward_hook(self._check)
        yield self._module.register_forward_hook(self._forget)

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = kwargs.get("hidden_states", args[0] if args else None)
        self._given, self._done = (given if isinstance(given, Tensor) else None), 0

    def _forget(self, module: nn.Module, args: object, output: object) -> None:
        self._given = None

    def _check(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        """Check that the layer has projected the next rows of the block, in their order.

        Perturbed attention leaves out some rows, or projects them in a separate call. A processor may have changed the
        numbers of a row. Rows are compared only if the layer did not receive the block's own tensor. A layer that runs
        twice is an error elsewhere.

        Raises:
            UnsupportedPipelineError: there are too many rows, or a row is at the place of another one.
        """
        given, first, projected = self._given, self._done, inputs[0]
        self._done += len(projected)
        if given is None or (projected.data_ptr() == given.data_ptr() and projected.shape == given.shape):
            return
        if len(projected) > len(given):
            raise self._refused(f"projects {len(projected)} rows for the {len(given)} of its batch")
        if projected.shape[1:] != given.shape[1:] or self._done > len(given):
            return
        for i, row in enumerate(projected):
            if not torch.equal(row, given[first + i]):
                others = (k for k in range(len(given)) if k != first + i and torch.equal(row, given[k]))
                other = next(others, None)
                if other is not None:
                    raise self._refused(f"projects row {other} of its batch in the place of row {first + i}")

    def _refused(self, does: str) -> UnsupportedPipelineError:
        return UnsupportedPipelineError(
            f"block {self.name!r} {does}, so ovam does not know which row belongs to which image and half of guidance: "
            "expected every row once and in its place; remove the attention processor or patch that repeats or "
            "reorders the batch, pipe.unet.set_default_attn_processor() for a UNet, or leave the block out with "
            "blocks=[...]"
        )
