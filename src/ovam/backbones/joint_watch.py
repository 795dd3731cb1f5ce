"""Watching blocks whose image and text attend to each other: the pixels' queries, keys, values and outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Observation, Report
from ovam.backbones.rows import RowsGiven
from ovam.errors import UnsupportedPipelineError

_PROJECTIONS = ("to_q", "to_k", "to_v")


def watch_joint(denoiser: Any, modules: Mapping[str, Any], report: Report) -> list[RemovableHandle]:
    """Report image queries, keys and values of joint-attention modules, from what their own projections put out.

    Nothing is projected anew. Normalisation and rotary embedding are applied again: they are cheap, and row by row.
    Attention outputs are what the output projection takes in; blocks of a single stream give them out as they are.
    """
    shared: dict[str, Any] = {}  # of the current denoiser call
    handles: list[RemovableHandle] = []

    def note_conditioning(module: nn.Module, inputs: object, output: Tensor) -> None:
        shared["conditioning"] = output.detach()

    def note_tokens(module: nn.Module, inputs: object, output: Tensor) -> None:
        shared.setdefault("tokens", output.shape[1])  # the run's come first; streamed words pass here within the call

    def forget(module: nn.Module, inputs: object) -> None:
        shared.clear()

    try:
        handles.append(denoiser.register_forward_pre_hook(forget))
        handles.append(denoiser.time_text_embed.register_forward_hook(note_conditioning))
        handles.append(denoiser.context_embedder.register_forward_hook(note_tokens))
        for name, module in modules.items():
            for handle in _watch_block(name, module, shared, report):
                handles.append(handle)
    except BaseException:
        for handle in handles:
            handle.remove()
        raise
    return handles


def _watch_block(name: str, module: Any, shared: Mapping[str, Any], report: Report) -> Iterator[RemovableHandle]:
    seen: dict[str, list[Tensor]] = {}  # perturbed attention projects its rows apart, behind the others

    def begin(layer: nn.Module, inputs: object) -> None:
        seen.clear()  # words that are run through the same layers between two calls

    def note_output(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault("output", []).append(inputs[0].detach())

    def attended(layer: nn.Module, inputs: object, options: Mapping[str, Any], output: Any) -> None:
        if seen:  # else the projections were passed by, and the block stays silent, which is noticed
            if not projects:
                seen["output"] = [output.detach()]
            rows = {part: _joined(seen.pop(part)) for part in (*_PROJECTIONS, "output")}
            _check_once(name, rows, len(output[0] if isinstance(output, tuple) else output))
            query, key, value, taken = (_image_part(module, part, shared["tokens"]) for part in rows.values())
            query, key = _positioned(module, query, key, options.get("image_rotary_emb"), shared["tokens"])
            conditioning = shared["conditioning"].expand(len(query), -1)
            output = None if _shares_output(module, options) else taken
            report(name, Observation(query, {"key": key, "value": value, "conditioning": conditioning}, output))

    yield module.register_forward_pre_hook(begin)
    for projection in (*_PROJECTIONS, "to_qkv"):  # fused projections are one layer beside the three
        if hasattr(module, projection):
            yield getattr(module, projection).register_forward_hook(_noting(seen, projection))
            if projection in ("to_q", "to_qkv"):
                yield from RowsGiven(name, module).watch(getattr(module, projection))
    projects = getattr(module, "to_out", None) is not None
    if projects:
        yield module.to_out[0].register_forward_pre_hook(note_output)
    yield module.register_forward_hook(attended, with_kwargs=True)


def _check_once(name: str, rows: Mapping[str, Tensor], batch: int) -> None:
    """Whether each layer saw each row of the batch once.

    Raises:
        UnsupportedPipelineError: one did not.
    """
    for part, found in rows.items():
        if len(found) != batch:
            raise UnsupportedPipelineError(
                f"block {name!r} has {len(found)} rows of {part!r} in one call for a batch of {batch}, so that which "
                "of them its attention used is not known: expected each row projected once; take off the attention "
                "processor or patch that runs its layers again, or leave the block out by blocks=[...]"
            )


def _shares_output(module: Any, options: Mapping[str, Any]) -> bool:
    """Whether an image prompt's attention was added before the output projection; FLUX's adapters add theirs behind."""
    processor = module.processor
    adapter = type(processor).__name__.startswith("SD3IPAdapter")
    return adapter and processor.scale != 0 and options.get("ip_hidden_states") is not None


def _noting(seen: dict[str, list[Tensor]], projection: str) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(layer: nn.Module, inputs: object, output: Tensor) -> None:
        outputs = output.detach().chunk(3, dim=-1) if projection == "to_qkv" else (output.detach(),)
        for part, rows in zip(_PROJECTIONS if projection == "to_qkv" else (projection,), outputs, strict=True):
            seen.setdefault(part, []).append(rows)

    return hook


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _image_part(module: Any, projected: Tensor, tokens: int) -> Tensor:
    """Image rows by head: (batch, head, pixel, head_dim). Blocks of a single stream have the text before the image."""
    image = projected if module.added_kv_proj_dim is not None else projected[:, tokens:]
    return by_head(image, module.heads)


@torch.no_grad()
def _positioned(
    module: Any, query: Tensor, key: Tensor, rotary: tuple[Tensor, Tensor] | None, tokens: int
) -> tuple[Tensor, Tensor]:
    """After normalisation and rotary embedding, as attention takes them."""
    query, key = normed(module.norm_q, query), normed(module.norm_k, key)
    if rotary is None:
        return query, key
    from diffusers.models.embeddings import apply_rotary_emb

    table = (rotary[0][tokens:], rotary[1][tokens:])
    return apply_rotary_emb(query, table, sequence_dim=2), apply_rotary_emb(key, table, sequence_dim=2)


def by_head(rows: Tensor, heads: int) -> Tensor:
    """(batch, row, head * head_dim) as (batch, head, row, head_dim)."""
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)


def normed(norm: Any, rows: Tensor) -> Tensor:
    """Through a normalisation that some models do not have."""
    return rows if norm is None else norm(rows)
