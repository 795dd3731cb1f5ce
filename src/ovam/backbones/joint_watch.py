"""Watch joint-attention blocks: record the pixels' queries, keys, values and attention outputs."""

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
    """Report image queries, keys and values of joint-attention modules, from the outputs of their own projections.

    Nothing is projected twice. Normalisation and rotary embedding are applied again; they are cheap and work row by
    row. Attention outputs are the inputs of the output projection; single-stream blocks return them directly.
    """
    shared: dict[str, Any] = {}  # for the current denoiser call
    handles: list[RemovableHandle] = []

    def note_conditioning(module: nn.Module, inputs: object, output: Tensor) -> None:
        shared["conditioning"] = output.detach()

    def note_tokens(module: nn.Module, inputs: object, output: Tensor) -> None:
        shared.setdefault("tokens", output.shape[1])  # the run's text comes first, then words that stream their maps

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
    seen: dict[str, list[Tensor]] = {}  # perturbed attention projects its rows separately, after the others

    def begin(layer: nn.Module, inputs: object) -> None:
        seen.clear()  # replayed words may have run through these layers since the last call

    def note_output(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault("output", []).append(inputs[0].detach())

    def attended(layer: nn.Module, inputs: object, options: Mapping[str, Any], output: Any) -> None:
        if seen:  # else the projections did not run; the block reports nothing, which is checked elsewhere
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
    for projection in (*_PROJECTIONS, "to_qkv"):  # the fused layer exists besides the three
        if hasattr(module, projection):
            yield getattr(module, projection).register_forward_hook(_noting(seen, projection))
            if projection in ("to_q", "to_qkv"):
                yield from RowsGiven(name, module).watch(getattr(module, projection))
    projects = getattr(module, "to_out", None) is not None
    if projects:
        yield module.to_out[0].register_forward_pre_hook(note_output)
    yield module.register_forward_hook(attended, with_kwargs=True)


def _check_once(name: str, rows: Mapping[str, Tensor], batch: int) -> None:
    """Check that each layer ran once for each row of the batch.

    Raises:
        UnsupportedPipelineError: a layer ran for more or fewer rows.
    """
    for part, found in rows.items():
        if len(found) != batch:
            raise UnsupportedPipelineError(
                f"block {name!r} has {len(found)} rows of {part!r} in one call for a batch of {batch}, so ovam does "
                "not know which ones its attention used: expected each row projected once; remove the attention "
                "processor or patch that runs its layers again, or leave the block out with blocks=[...]"
            )


def _shares_output(module: Any, options: Mapping[str, Any]) -> bool:
    """Whether an image prompt's attention was added before the output projection; FLUX's adapters add it after."""
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
    """Return the image rows by head, (batch, head, pixel, head_dim); single-stream blocks have the text first."""
    image = projected if module.added_kv_proj_dim is not None else projected[:, tokens:]
    return by_head(image, module.heads)


@torch.no_grad()
def _positioned(
    module: Any, query: Tensor, key: Tensor, rotary: tuple[Tensor, Tensor] | None, tokens: int
) -> tuple[Tensor, Tensor]:
    """Return queries and keys after normalisation and rotary embedding, as attention receives them."""
    query, key = normed(module.norm_q, query), normed(module.norm_k, key)
    if rotary is None:
        return query, key
    from diffusers.models.embeddings import apply_rotary_emb

    table = (rotary[0][tokens:], rotary[1][tokens:])
    return apply_rotary_emb(query, table, sequence_dim=2), apply_rotary_emb(key, table, sequence_dim=2)


def by_head(rows: Tensor, heads: int) -> Tensor:
    """Reshape (batch, row, head * head_dim) to (batch, head, row, head_dim)."""
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)


def normed(norm: Any, rows: Tensor) -> Tensor:
    """Apply a normalisation, if the model has one."""
    return rows if norm is None else norm(rows)
