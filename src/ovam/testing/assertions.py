"""Record what a pipeline does without the library's hooks, and compare it with what the library captured."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovam.maps.options import SoftmaxOver
from ovam.trace.calls import Half
from ovam.trace.quantised import Quantised, Stored, floats
from ovam.trace.trace import Trace

SHARP = 0.5
"""Lower limit for sharp attention: the median, over all pixels, of the largest attention weight in the text."""

SHARE = 0.1
"""Lower limit for the text's share in the attention: the mean over all pixels."""


@dataclass(frozen=True, eq=False)
class Attended:
    """Attention of one block in one denoiser call, recorded without the library's hooks.

    Attributes:
        weights: Attention probabilities.
        text: Text vectors that the block attended to; they show which rows of the batch are conditional.
        attended: Whether each text vector is not masked.
    """

    weights: Float[Tensor, "batch head pixel token"]
    text: Float[Tensor, "batch token width"]
    attended: Bool[Tensor, "batch token"]


class ExplicitSoftmax:
    """Attention processor for diffusers' `Attention`, with plain matrix products; it records the probabilities."""

    def __init__(self) -> None:
        self.seen: list[Attended] = []

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None, "a cross-attention block was run without text"
        text = encoder_hidden_states
        bias = text.new_zeros(len(text), 1, text.shape[1]) if attention_mask is None else attention_mask
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = torch.softmax(scores + bias[:, None], dim=-1)
        self.seen.append(Attended(weights.detach(), text.detach(), bias[:, 0] == 0))
        return attn.to_out[1](attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2)))


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Assert that shapes are equal and that no element differs by more than the tolerance."""
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    worst = (found.float() - expected.float()).abs().max().item()
    assert worst <= tolerance, f"{what}: largest difference {worst:.3g}, expected at most {tolerance:.3g}"


def assert_same_image(found: Any, expected: Any) -> None:
    """Assert that two pictures are equal bit by bit."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"image shape {found.shape}, expected {expected.shape}"
    different = int((found != expected).sum())
    assert not different, f"{different} of {expected.size} image values differ: watching must not change a number"


def assert_sharp(blocks: Mapping[str, Sequence[Attended]]) -> None:
    """Assert that attention is sharp enough to show errors; text of zeros, as in SDXL, is ignored."""
    seen = [one for calls in blocks.values() for one in calls]
    every = [one.weights[one.text.flatten(1).any(1)] for one in seen]
    shares = [weights.sum(-1) for weights in every]  # 1, unless the text shares the attention with the image
    largest = [(weights.amax(-1) / share).flatten() for weights, share in zip(every, shares, strict=True)]
    median = torch.cat(largest).nanmedian().item()
    assert median > SHARP, (
        f"median largest attention weight {median:.2f}, expected over {SHARP}: uniform attention hides errors; "
        "scale up the weights of the blocks' to_q and to_k in make_pipe"
    )
    mean = torch.cat([share.flatten() for share in shares]).mean().item()
    assert mean > SHARE, (
        f"mean share of the text in the attention {mean:.2f}, expected over {SHARE}: the image takes most of it, which "
        "hides errors; scale up the text keys, or the image keys less, in make_pipe"
    )


def snapshot(pipe: Any) -> dict[str, object]:
    """Return everything that a capture could change: attributes, hooks, processors, and versions of weights."""
    owners: dict[str, Any] = {"pipe": pipe, "image_processor": pipe.image_processor}
    for part, component in pipe.components.items():
        if isinstance(component, nn.Module):
            owners |= {f"{part}.{name}": module for name, module in component.named_modules()}
    return {f"{name}: {key}": _pinned(value) for name, owner in owners.items() for key, value in vars(owner).items()}


def _pinned(value: object) -> object:
    """Return a copy that later changes of the original do not affect."""
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, dict):
        return tuple((key, _pinned(item)) for key, item in value.items())
    if isinstance(value, list | set):
        return tuple(value)
    return value


def assert_restored(pipe: Any, before: Mapping[str, object], occasion: str, notes: Collection[str] = ()) -> None:
    """Assert that the pipeline equals its snapshot, except for attributes in `notes`."""
    after = snapshot(pipe)
    changed = [key for key in {**before, **after} if key not in before or key not in after or before[key] != after[key]]
    changed = [key for key in changed if key.removeprefix("pipe: ") not in notes]
    assert not changed, f"{occasion}, the pipeline is not as before: {', '.join(changed[:5])}"


def assert_reproduced(
    trace: Trace,
    half: Half,
    prompt: str,
    expected: Mapping[str, Float[Tensor, "step head pixel token"]],
    tolerance: float,
    softmax_over: SoftmaxOver = "padded",
) -> None:
    """Assert that the trace gives the expected weights over the padded prompt, for each block."""
    for name, own in expected.items():
        answer = trace.maps(prompt, guidance=half, blocks=[name], keep=("head", "step"), softmax_over=softmax_over)
        maps = answer.token_maps  # (head, step, token, height, width)
        found = maps.flatten(-2).permute(1, 0, 3, 2)
        assert_close(found, own, tolerance, f"block {name!r}, half {half!r}: weights (step, head, pixel, token)")


def assert_same_queries(found: Trace, expected: Trace, half: Half) -> None:
    """Assert that two traces have equal queries in one half."""
    assert [*found.blocks] == [*expected.blocks], f"blocks {[*found.blocks]}, expected {[*expected.blocks]}"
    for name, block in found.blocks.items():
        same = torch.equal(floats(block.query[half]), floats(expected.blocks[name].query[half]))
        assert same, f"block {name!r}: the queries of the half {half!r} differ between two equal runs"


def assert_rounded(found: Stored, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    """Assert that queries are the float32 ones, rounded once to this type.

    In int8 the error is at most half a step; a step is 1/127 of the channel's largest value.
    """
    if dtype != torch.int8:
        same = isinstance(found, Tensor) and torch.equal(found, expected.to(dtype))
        assert same, f"{what}: {dtype} queries are not the float32 ones, rounded once"
        return
    assert isinstance(found, Quantised), f"{what}: queries are in {found.dtype}, expected {dtype}"
    steps = (found.float() - expected).abs() / (expected.abs().amax(2, keepdim=True) / 127)
    worst = steps.nan_to_num().max().item()
    assert worst <= 0.5001, f"{what}: a query in eight bits is off by {worst:.3g} steps, expected at most 0.5"


def assert_received(trace: Trace, received: Mapping[str, Sequence[Tensor]]) -> None:
    """Assert that a run's conditional queries equal the kernel's bit by bit; the run has no guidance."""
    for name, block in trace.blocks.items():
        kernel = torch.cat([*received[name]]).transpose(0, 1)  # without guidance the batch is one image
        kept = floats(block.query["cond"])
        pixels = kept.shape[2]
        image_parts = (kernel[:, :, :pixels], kernel[:, :, -pixels:])  # joint attention has text at one end
        exact = any(torch.equal(kept, part) for part in image_parts)
        assert exact, f"block {name!r}: the queries are not those that attention was computed with"


def rows_of(
    half: Half, calls: Sequence[Attended], prompt_text: Float[Tensor, "token width"]
) -> Float[Tensor, "step head pixel attended"]:
    """Return the weights of one half, without masked tokens: one row of the batch per call.

    The conditional row is the one whose text is nearest to the prompt's; the unconditional row is the farthest.
    """
    rows = []
    for seen in calls:
        distances = [(text - prompt_text).abs().max().item() for text in seen.text]
        order = sorted(range(len(distances)), key=distances.__getitem__)
        row = order[0] if half == "cond" else order[-1]
        rows.append(seen.weights[row][..., seen.attended[row]])
    return torch.stack(rows)


@contextmanager
def spatial_shapes(denoiser: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, tuple[int, int]]]:
    """Fill in each block's (height, width): the size of the last image-shaped input or output before the block."""
    shapes: dict[str, tuple[int, int]] = {}
    seen: list[tuple[int, int]] = []

    def note(values: Iterable[Any]) -> None:
        images = [value for value in values if isinstance(value, Tensor) and value.ndim == 4]
        seen.extend((image.shape[-2], image.shape[-1]) for image in images[:1])

    def note_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note((*args, *kwargs.values()))

    def note_output(module: nn.Module, args: object, output: Any) -> None:
        note(output if isinstance(output, tuple) else (output,))

    with ExitStack() as installed:
        for module in denoiser.modules():
            installed.callback(module.register_forward_pre_hook(note_input, with_kwargs=True).remove)
            installed.callback(module.register_forward_hook(note_output).remove)
        for name in names:

            def note_block(module: nn.Module, args: object, name: str = name) -> None:
                shapes[name] = seen[-1]

            installed.callback(denoiser.get_submodule(name).register_forward_pre_hook(note_block).remove)
        yield shapes


@contextmanager
def spied_kernel(denoiser: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, list[tuple[Tensor, Tensor]]]]:
    """Fill in, for each block, the queries and keys that torch's attention kernel receives."""
    received: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    running: list[str] = []
    kernel = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for name in running[-1:]:
            received[name].append((query.detach().clone(), key.detach().clone()))
        return kernel(query, key, *args, **kwargs)

    with ExitStack() as installed:
        for name in names:
            block = denoiser.get_submodule(name)
            installed.callback(block.register_forward_pre_hook(lambda *_, name=name: running.append(name)).remove)
            installed.callback(block.register_forward_hook(lambda *_: running.clear()).remove)
        installed.enter_context(patch.object(F, "scaled_dot_product_attention", spy))
        yield received
