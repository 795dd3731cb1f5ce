"""Features of a UNet2DConditionModel: the outputs of its input blocks, its middle block and its output blocks.

The layers have the names that diffusers gives them. An input or output block, as Stable Diffusion's first code counts
them, is one ResNet and the transformer after it, if there is one; the layer is the last of the two. `conv_in` and the
layers that change the grid count as well. Before a layer that enlarges the grid, the output is kept in addition.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import BlockSpec, Observation, Report
from ovam.shapes import Grid

FEATURES = "features"
"""Name of the part (`ovam.tracing.parts`)."""
Attention = Callable[[list[str]], list[RemovableHandle]]
"""Installs the hooks of these attention blocks."""


def feature_specs(unet: Any) -> dict[str, BlockSpec]:
    """Return all layers with features, in running order, with the number of their channels as `head_dim`."""
    return {name: BlockSpec(name, 1, channels, 1.0) for name, _, channels in _layers(unet)}


def feature_grids(unet: Any, levels: list[Grid]) -> dict[str, Grid]:
    """Return the grid of every layer.

    Args:
        unet: The UNet.
        levels: Grid of each level; the first is the latent's own.
    """
    return {name: levels[level] for name, level, _ in _layers(unet)}


def watch_blocks(unet: Any, names: Sequence[str], report: Report, attention: Attention) -> list[RemovableHandle]:
    """Install the hooks of layers with features, and those that `attention` installs on the other blocks.

    The layers report copies of their outputs: FreeU changes some outputs in place afterwards.
    """
    layers = feature_specs(unet)
    handles = attention([name for name in names if name not in layers])
    try:
        for name in (name for name in names if name in layers):
            handles.append(unet.get_submodule(name).register_forward_hook(_watcher(name, report)))
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _watcher(name: str, report: Report) -> Callable[..., None]:
    def on_output(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = output if isinstance(output, Tensor) else output[0]  # transformers return a tuple or an object like one
        report(name, Observation(None, further={FEATURES: found.detach().clone()}))

    return on_output


def _layers(unet: Any) -> Iterator[tuple[str, int, int]]:
    """Yield name, level (0 is the finest) and channels of each layer."""
    last = len(unet.down_blocks) - 1
    yield "conv_in", 0, unet.conv_in.out_channels
    for level, block in enumerate(unet.down_blocks):
        yield from _of_block(f"down_blocks.{level}", block, level)
        for i, layer in enumerate(block.downsamplers or ()):
            yield f"down_blocks.{level}.downsamplers.{i}", level + 1, layer.out_channels
    if unet.mid_block is not None:
        yield "mid_block", last, unet.mid_block.resnets[-1].out_channels
    for i, block in enumerate(unet.up_blocks):
        yield from _of_block(f"up_blocks.{i}", block, last - i)
        for j, layer in enumerate(block.upsamplers or ()):
            yield f"up_blocks.{i}.upsamplers.{j}", last - i - 1, layer.out_channels


def _of_block(name: str, block: Any, level: int) -> Iterator[tuple[str, int, int]]:
    """Yield the last layer of each pair of a ResNet and a transformer."""
    kind = "attentions" if hasattr(block, "attentions") else "resnets"
    for i, resnet in enumerate(block.resnets):
        yield f"{name}.{kind}.{i}", level, resnet.out_channels
