"""The backbone contract for joint attention, where text is replayed through the model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ovam.backbones.registry import backbone_of
from ovam.maps.options import SoftmaxOver
from ovam.shapes import Grid
from ovam.testing.assertions import Attended, spied_kernel
from ovam.testing.contract import BackboneContract
from ovam.trace.quantised import floats
from ovam.tracing.capture import capture


class ExplicitJointSoftmax:
    """Attention processor for the joint attention of SD3 and FLUX, with plain matrix products; it records the weights.

    `call` has the arguments of the current denoiser call: the `text` vectors and the `timestep`. A second pass at the
    same time step is the other half of guidance; its rows are appended to the batch of the first.
    """

    def __init__(self, call: Mapping[str, Tensor]) -> None:
        self.call = call
        self.seen: list[Attended] = []
        self.timesteps: list[float] = []

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        assert attention_mask is None, "masked text is not covered by this contract"
        text_first, tokens = image_rotary_emb is not None, self.call["text"].shape[1]
        query, key, value = _projected(attn, hidden_states, ("to_q", "to_k", "to_v"), (attn.norm_q, attn.norm_k))
        if encoder_hidden_states is not None:
            names, norms = ("add_q_proj", "add_k_proj", "add_v_proj"), (attn.norm_added_q, attn.norm_added_k)
            added = _projected(attn, encoder_hidden_states, names, norms)
            pairs = zip(added, (query, key, value), strict=True)
            query, key, value = (torch.cat(pair if text_first else pair[::-1], dim=2) for pair in pairs)
        if image_rotary_emb is not None:
            query, key = (_turned(rows, *image_rotary_emb) for rows in (query, key))
        weights = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
        pixels = weights.shape[-1] - tokens
        text, image = (slice(0, tokens), slice(tokens, None)) if text_first else (slice(pixels, None), slice(0, pixels))
        vectors = self.call["text"].detach()
        everything = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        self._note(Attended(weights[:, :, image, text].detach(), vectors, everything))
        rows = (weights @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return rows
        texts = rows[:, text] if attn.context_pre_only else attn.to_add_out(rows[:, text])
        return attn.to_out[1](attn.to_out[0](rows[:, image])), texts

    def _note(self, seen: Attended) -> None:
        timestep = float(self.call["timestep"].flatten()[0])
        if self.timesteps[-1:] == [timestep]:
            first = self.seen.pop()
            pairs = zip(vars(first).values(), vars(seen).values(), strict=True)
            seen = Attended(*(torch.cat(pair) for pair in pairs))
        else:
            self.timesteps.append(timestep)
        self.seen.append(seen)


def _projected(attn: Any, rows: Tensor, names: Sequence[str], norms: Sequence[Any]) -> list[Tensor]:
    """Return query, key and value (batch, head, row, head_dim); the first two normalised if the model does it."""
    parts = [getattr(attn, name)(rows).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for name in names]
    return [part if norm is None else norm(part) for part, norm in zip(parts, (*norms, None), strict=True)]


def _turned(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embedding: each pair of channels is rotated by the angle of its position."""
    first, second = rows[..., ::2], rows[..., 1::2]
    cos, sin = cos[:, ::2], sin[:, ::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)


class JointContract(BackboneContract):
    """Tests of a backbone with joint attention; see `BackboneContract`."""

    softmax_over: ClassVar[SoftmaxOver] = "joint"
    key_tolerance: ClassVar[float] = 1e-5  # measured: 0; but replay has fewer rows, which may round differently

    @contextmanager
    def recorded_attention(self, pipe: Any, names: Sequence[str]) -> Iterator[Mapping[str, Sequence[Attended]]]:
        denoiser, call = backbone_of(pipe).denoiser, dict[str, Tensor]()

        def note(module: nn.Module, args: object, given: Mapping[str, Any]) -> None:
            call.update(text=given["encoder_hidden_states"], timestep=given["timestep"])

        with ExitStack() as installed:
            installed.callback(denoiser.register_forward_pre_hook(note, with_kwargs=True).remove)
            processors = {name: ExplicitJointSoftmax(call) for name in names}
            for name, processor in processors.items():
                block: Any = denoiser.get_submodule(name)
                installed.callback(block.set_processor, block.processor)
                block.set_processor(processor)
            yield {name: processor.seen for name, processor in processors.items()}

    @contextmanager
    def observed_grids(self, pipe: Any, names: Sequence[str]) -> Iterator[Mapping[str, Grid]]:
        """Fill in the same grid for all blocks: half the height and width of the decoder's input."""
        grids: dict[str, Grid] = {}

        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            grids.update(dict.fromkeys(names, (args[0].shape[-2] // 2, args[0].shape[-1] // 2)))

        handle = pipe.vae.decoder.register_forward_pre_hook(note)
        try:
            yield grids
        finally:
            handle.remove()

    def test_image_keys_are_those_the_kernel_receives(self) -> None:
        pipe = self.make_pipe()
        names = self._names(pipe)
        with spied_kernel(backbone_of(pipe).denoiser, names) as received:
            trace = self._captured(pipe, names, guidance_scale=1.0)[0]
        for name in names:
            kept = floats(trace.replay.blocks[name].key["cond"])
            for entry, (_, kernel) in enumerate(received[name]):
                image, pixels = kept[:, entry], kept.shape[2]
                exact = any(torch.equal(image, part) for part in (kernel[0, :, :pixels], kernel[0, :, -pixels:]))
                assert exact, f"block {name!r}: image keys are not those of the kernel"

    def test_some_blocks_and_steps_alone_give_the_same_keys(self) -> None:
        pipe = self.make_pipe()
        names = self._names(pipe)
        whole = self._captured(pipe, names)[0]
        chosen = names[len(names) // 2]
        with capture(pipe, blocks=[chosen], steps=[1], dtype=torch.float32) as traces:
            self._run(pipe)
        assert [*traces[0].replay.blocks] == names[: names.index(chosen) + 1], "blocks after the chosen one were stored"
        found = traces[0].maps(self.other_prompt).token_maps
        expected = whole.maps(self.other_prompt, blocks=[chosen], steps=[1]).token_maps
        assert torch.equal(found, expected), "keys differ if fewer blocks and steps are captured"
