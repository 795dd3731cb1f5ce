"""FLUX.1: joint attention over text, then image; first in blocks with two streams, then with a single stream.

* Latents are packed two by two: one pixel of a block's grid is four latent pixels.
* Rotary embedding changes only the image's queries and keys. All text is at position zero, where it is the identity.
  Text positions of a custom loop are not read.
* Words are read by T5; CLIP gives only the pooled vector.
* Guidance is a number that the model takes as input. True guidance is a second pass, after the conditional one, for the
  negative prompt.
* Kontext appends the reference image to the generated image, as further pixels. The text attends to them; maps do not
  cover them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ovam.backbones.base import Backbone, BlockSpec, Evaluation, Report, Request
from ovam.backbones.common import check_lora_scale, per_image, plain_denoiser, read_by, require_text
from ovam.backbones.joint import JointStream, Passed, ReplayedText, attended, clipped, joined, through_double
from ovam.backbones.joint_text import JointText, Reader
from ovam.backbones.joint_watch import by_head, watch_joint
from ovam.backbones.no_text import reader_or_none
from ovam.backbones.offload import device_of
from ovam.errors import UnsupportedPipelineError
from ovam.shapes import Embedding, Grid
from ovam.trace.calls import Half
from ovam.trace.replay import ImageStream

_T5_LENGTH = 512  # the pipeline's default max_sequence_length


@dataclass(frozen=True)
class FluxRequest(Request):
    """Request of one run, with the tensor that identifies its second pass.

    Attributes:
        negative: The negative prompt's vectors, the same tensor object that the denoiser gets; None without true
            guidance.
    """

    negative: Tensor | None = None


class FluxBackbone(Backbone):
    """FluxTransformer2DModel, with T5 for words and CLIP for the pooled vector."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxFillPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
    )
    text_kind: ClassVar[Literal["static", "replayed"]] = "replayed"
    flow: ClassVar[bool] = True

    @property
    def side_multiple(self) -> int:
        return int(self.pipe.vae_scale_factor) * self.latent_multiple

    @property
    def latent_multiple(self) -> int:
        """Latents are packed two by two."""
        return 2

    @property
    def latent_channels(self) -> int:
        """A quarter of the denoiser's input channels, which hold four latent pixels."""
        return int(self.denoiser.config.in_channels) // 4

    @property
    def denoiser(self) -> Any:
        return plain_denoiser(self.pipe, "transformer", "FluxTransformer2DModel")

    def _modules(self) -> dict[str, Any]:
        """Return the attention modules in running order."""
        return {
            f"{stack}.{i}.attn": block.attn
            for stack in ("transformer_blocks", "single_transformer_blocks")
            for i, block in enumerate(getattr(self.denoiser, stack))
        }

    def blocks(self) -> Mapping[str, BlockSpec]:
        """Return all joint-attention blocks, with two streams and with one."""
        head_dim, width = self.denoiser.config.attention_head_dim, self.denoiser.inner_dim
        return {
            name: BlockSpec(name, module.heads, head_dim, head_dim**-0.5, conditioning=width)
            for name, module in self._modules().items()
        }

    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        """Return the same grid for all blocks: one pixel for four latent pixels."""
        return dict.fromkeys(self._modules(), (latent[0] // 2, latent[1] // 2))

    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> FluxRequest:
        encoders = [self.pipe.text_encoder, self.pipe.text_encoder_2]
        check_lora_scale(self.pipe, arguments.get("lora_scale"), "text encoders", encoders)
        images = len(result[0])
        prompts = per_image(arguments.get("prompt"), images)
        if earlier is None:
            return FluxRequest(images=images, prompts=prompts, tokens=result[0].shape[1])
        return FluxRequest(  # the second call of a run encodes the negative prompt
            images=earlier.images,
            prompts=earlier.prompts,
            negative_prompts=per_image(arguments.get("prompt"), earlier.images),
            guided=True,
            tokens=earlier.tokens,
            negative=result[0],
        )

    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        scale = (arguments.get("joint_attention_kwargs") or {}).get("scale")
        check_lora_scale(self.pipe, scale, "denoiser", [self.denoiser])
        packed = arguments["hidden_states"]
        height, width = self._grid(packed.shape[1], arguments["img_ids"])
        negative = request.negative if isinstance(request, FluxRequest) else None
        half: Half = "uncond" if arguments["encoder_hidden_states"] is negative else "cond"
        return Evaluation(
            latent=(2 * height, 2 * width),
            timestep=self._timestep(float(torch.as_tensor(arguments["timestep"]).flatten()[0]) * 1000),
            halves={half: slice(0, len(packed))},
            further=packed.shape[1] - height * width,
        )

    def _grid(self, count: int, positions: Tensor) -> Grid:
        """Return height and width of the generated image; Kontext's reference images follow it in the sequence.

        Raises:
            UnsupportedPipelineError: the sequence does not begin with all positions of the generated image.
        """
        places = positions.reshape(-1, 3)[:count].int()
        own = places[:, 0] == 0  # the first coordinate numbers the images
        height, width = (places[own].amax(0)[1:] + 1).tolist()
        pixels = height * width
        if int(own.sum()) != pixels or not bool(own[:pixels].all()):
            raise UnsupportedPipelineError(
                f"{type(self.pipe).__name__}: the denoiser got {count} image positions, {int(own.sum())} of them of "
                f"the generated image: expected first its {height} x {width}, then those of other images; other "
                "images are supported if the first number of their positions is 1 or more, as in FLUX Kontext"
            )
        return height, width

    def _timestep(self, found: float) -> float:
        """Return the scheduler's own time step for the one that the denoiser received.

        The denoiser receives a thousandth of it, rounded to the latents' type, which is too coarse for long runs.
        """
        scheduler = self.pipe.scheduler
        planned = [float(t) for t in getattr(scheduler, "timesteps", ())]
        step = getattr(scheduler, "step_index", None)
        place = getattr(scheduler, "begin_index", None) if step is None else step
        there = [] if place is None else planned[place : place + 1]  # may be left over from another run
        nearest = (min(times, key=lambda t: abs(t - found)) for times in (there, planned) if times)
        return next((t for t in nearest if abs(t - found) <= 0.01 * max(1.0, found)), found)

    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        modules = self._modules()
        return watch_joint(self.denoiser, {name: modules[name] for name in names}, report)

    def text_side(self, names: Sequence[str], request: Request | None = None) -> ReplayedText:
        denoiser, length = self.denoiser, None if request is None else request.tokens
        words = reader_or_none(lambda: _text(self.pipe, request), denoiser.config.joint_attention_dim, length)
        return ReplayedText(words, denoiser, lambda vectors: JointStream(denoiser, vectors, _through))

    def reader(self, layer: str | None = None) -> JointText:
        """Return a reader with the pipeline's default number of tokens."""
        return _text(self.pipe, None)

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        """See `Backbone.conditions`; models that take a guidance value get 1, which means no guidance."""
        device, dtype = device_of(self.denoiser), self.denoiser.dtype
        vectors, pooled, places = self.pipe.encode_prompt(prompt, None, device)
        guided = self.denoiser.config.guidance_embeds
        return {
            "encoder_hidden_states": vectors.to(device, dtype),
            "pooled_projections": pooled.to(device, dtype),
            "txt_ids": places,
            "guidance": torch.ones(1, device=device, dtype=torch.float32) if guided else None,
        }

    def look(
        self, latents: Float[Tensor, "row channel height width"], timestep: int, conditions: Mapping[str, Any]
    ) -> Float[Tensor, "row channel height width"]:
        """See `Backbone.look`; packs the latents two by two and passes a thousandth of the time step."""
        rows, channels, height, width = latents.shape
        predicted = self.denoiser(
            hidden_states=self.pipe._pack_latents(latents, rows, channels, height, width),
            timestep=torch.full((rows,), timestep / 1000, device=latents.device, dtype=latents.dtype),
            img_ids=self.pipe._prepare_latent_image_ids(1, height // 2, width // 2, latents.device, latents.dtype),
            **conditions,
        )[0]
        factor = self.pipe.vae_scale_factor
        unpacked: Tensor = self.pipe._unpack_latents(predicted, height * factor, width * factor, factor)
        return unpacked


def _through(owner: Any, hidden: Tensor, image: ImageStream) -> Passed:
    """Run the text through one block."""
    if hasattr(owner, "norm1_context"):
        key, output, onward = through_double(owner, hidden, image, text_first=True)
        return key, output, None if onward is None else clipped(onward)
    attn = owner.attn
    rows, gate = owner.norm(hidden, emb=image.conditioning)
    query, key, value = (by_head(layer(rows), attn.heads) for layer in (attn.to_q, attn.to_k, attn.to_v))
    query, key = attn.norm_q(query), attn.norm_k(key)
    output = attended(query, key, value, image, text_first=True)
    both = torch.cat([joined(output), owner.act_mlp(owner.proj_mlp(rows))], dim=2)
    return key, output, clipped(hidden + gate.unsqueeze(1) * owner.proj_out(both))


def _text(pipe: Any, request: Request | None) -> JointText:
    """Return a reader with the pipeline's T5 that reads texts as this run did."""
    require_text(pipe, "tokenizer_2", "text_encoder_2")
    length = _T5_LENGTH if request is None or request.tokens is None else request.tokens
    encoder = pipe.text_encoder_2

    def encode(ids: Sequence[Tensor]) -> Embedding:
        return encoder(ids[0].to(device_of(encoder)))[0][0]

    reader = Reader(pipe.tokenizer_2, encoder, 0, length, all_vectors=True, read=read_by(request, "text_encoder_2"))
    return JointText([reader], encode, layer="last", length=length, width=encoder.config.d_model)
