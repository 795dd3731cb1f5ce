"""Watch the self-attention of a denoiser's pixels, at the layers that make its queries and keys.

The attention kernel receives the outputs of `to_q` and `to_k`, whichever processor runs. If projections are fused,
`to_qkv` gives queries, keys and values.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ovam.backbones.base import Observation, Report
from ovam.backbones.common import heads_apart
from ovam.errors import UnsupportedPipelineError

_PLAIN = {"AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor"}

Watcher = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
"""A forward hook."""


def is_self(name: str, module: Any) -> bool:
    """Whether an attention module is self-attention of the pixels; adapters may add modules that mix in other rows."""
    return name.endswith(".attn1") and not module.is_cross_attention


def is_plain(module: Any) -> bool:
    """Return whether a processor runs an attention module whose queries and keys are known to be made once a call."""
    return type(module.processor).__name__ in _PLAIN


def pair_watchers(name: str, module: Any, report: Report) -> list[tuple[nn.Module, Watcher]]:
    """Return layers to watch and hooks for them, which report the block's queries and keys together.

    The processor tells whether projections are fused; the module does not, because it still has the fused layer after
    `unfuse_qkv_projections`.
    """
    waiting: list[Tensor] = []  # query of the current call, until its key is there

    def report_pair(query: Tensor, key: Tensor) -> None:
        report(name, Observation(heads_apart(query, module.heads), key=heads_apart(key, module.heads)))

    def on_query(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if waiting:
            raise _unpaired(name, "two queries")
        waiting.append(output)

    def on_key(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not waiting:
            raise _unpaired(name, "a key before its query, or two keys")
        report_pair(waiting.pop(), output)

    def on_end(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        waiting.clear()

    def on_fused(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        query, key, _ = output.chunk(3, dim=-1)
        report_pair(query, key)

    if type(module.processor).__name__.startswith("Fused"):
        return [(module.to_qkv, on_fused)]
    return [(module.to_q, on_query), (module.to_k, on_key), (module, on_end)]


def _unpaired(name: str, made: str) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"block {name!r} made {made} in one call, so ovam does not know which belong together: expected one query, "
        "then one key; remove the attention processor or patch that runs its layers again, "
        "pipe.unet.set_default_attn_processor(), or leave the block out of self_attention"
    )
