"""The contract between capture and a model family. `docs/decisions/0001-backbone-contract.md` says why it is so."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovam.errors import UnsupportedPipelineError
from ovam.shapes import Grid
from ovam.trace.calls import Half
from ovam.trace.text_side import TextReader, TextSide


@dataclass(frozen=True)
class BlockSpec:
    """A cross-, joint- or self-attention block, before anything has run.

    Attributes:
        name: Module path in the denoiser.
        heads: Number of heads.
        head_dim: Channels of a head.
        scale: Factor on the scores.
        default: Whether it is captured when the user names no blocks.
        conditioning: In joint attention, channels of the vector that modulates the block; see `ovam.trace.replay`.
    """

    name: str
    heads: int
    head_dim: int
    scale: float
    default: bool = True
    conditioning: int = 0


@dataclass(frozen=True)
class Request:
    """What one run of the pipeline was asked for, as far as its text goes.

    Attributes:
        images: Number of images; those of one prompt lie side by side in the batch.
        prompts: One text an image, or None where embeddings were passed instead.
        negative_prompts: Likewise; None where there was none.
        guided: Whether the pipeline runs both halves of guidance.
        tokens: Positions of the text sequence that the denoiser was handed; None where it is always the same.
        clip_skip: Layers of CLIP that the run left out; None as the pipeline does by itself.
        told: The vectors that the pipeline made of the prompts and of the negative ones, as far as it tells them.
        read: Of each text encoder, by its name in the pipeline, the token numbers that it read of each text.
    """

    images: int
    prompts: tuple[str, ...] | None = None
    negative_prompts: tuple[str, ...] | None = None
    guided: bool = False
    tokens: int | None = None
    clip_skip: int | None = None
    told: Mapping[Half, Tensor] = field(default_factory=dict, repr=False, compare=False)
    read: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """One call of the denoiser, read from its arguments.

    Attributes:
        latent: Height and width of the latent, as the decoder takes it, before any patching or packing.
        timestep: The scheduler's own value, also where the pipeline rescales it for the denoiser.
        halves: How the batch is divided: for each half its images' positions in the batch. A family that
            evaluates the halves one after the other names one half a call. Rows that serve neither, as perturbed-
            attention guidance adds, are in none; a call that serves neither, as skip-layer guidance makes, names none.
        further: Positions behind the image's own pixels, of other images that the run looks at; in joint attention.
    """

    latent: Grid
    timestep: float
    halves: Mapping[Half, slice]
    further: int = 0


@dataclass(frozen=True, eq=False)
class Observation:
    """What a block showed in one call: queries of image pixels, and what a replay of its text would need.

    Attributes:
        query: (batch, head, pixel, head_dim), after normalisation and rotary embedding, unscaled; may be a view. Pixels
            of further images stand behind the image's own, here and in the rest.
        replay: In joint attention, what `ovam.trace.replay.ImageStream` names, each with the batch before it: `key` and
            `value` (batch, head, pixel, head_dim), `conditioning` (batch, channel). Empty for static keys.
        output: In joint attention, what attention gave the pixels, before any projection of it; else None.
        key: In self-attention, keys of the same pixels, as the query; else None.
        further: What else a backbone tells of a block, by part (`ovam.tracing.parts`), each with the batch before it.
    """

    query: Float[Tensor, "batch head pixel head_dim"]
    replay: Mapping[str, Tensor] = field(default_factory=dict)
    output: Float[Tensor, "batch head pixel head_dim"] | None = None
    key: Float[Tensor, "batch head key_pixel head_dim"] | None = None
    further: Mapping[str, Tensor] = field(default_factory=dict)


Report = Callable[[str, Observation], None]
"""Called with a block's name each time the block has run."""


class Backbone(ABC):
    """Reads one family of pipelines. It observes and never changes a number.

    A backbone holds no state of a run: everything it tells is read from the pipeline when it is asked.
    Subclasses are final; what they share is a function, not a base method.
    """

    pipelines: ClassVar[tuple[str, ...]]
    """Class names of the pipelines it reads."""

    text_kind: ClassVar[Literal["static", "replayed"]]
    """What its text side promises; see `ovam.trace.trace.TextSide`."""

    unseeded: ClassVar[tuple[str, ...]] = ()
    """Those of them that draw from torch's own generator besides the one they are given: its seed is not enough."""

    flow: ClassVar[bool] = False
    """Whether its models were trained on straight ways from image to noise and predict their velocity."""

    prompt_method: ClassVar[str] = "encode_prompt"
    """The pipeline's method that turns texts into embeddings, called once at the start of each run."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def side_multiple(self) -> int:
        """Height and width of images are multiples of it, in pixels; diffusers asks for 8 whatever the autoencoder."""
        return 8

    @property
    def latent_multiple(self) -> int:
        """Height and width of latents are multiples of it."""
        return 1

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, before any packing."""
        config: Any = self.denoiser.config
        return int(config.in_channels)

    @property
    @abstractmethod
    def denoiser(self) -> nn.Module:
        """The module that is called once per evaluation."""

    @abstractmethod
    def blocks(self) -> Mapping[str, BlockSpec]:
        """Every block whose queries can be captured, in the order the model runs them."""

    def self_blocks(self) -> Mapping[str, BlockSpec]:
        """Every block whose self-attention can be kept, likewise, which `grids` and `watch` then know as well.

        A family has none where it can't be kept, as in joint attention, whose pixels attend to the text besides.
        """
        return {}

    @abstractmethod
    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        """Height and width of every block's pixels for a latent of this size."""

    @abstractmethod
    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> Request:
        """Read one call of `prompt_method`: its arguments by name, and what it returned.

        `earlier` is the request of the same run where the pipeline calls the method more than once before
        the denoiser (FLUX encodes the negative prompt by a second call).
        """

    @abstractmethod
    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        """Read the arguments, by name, of one call of the denoiser; `request` is None in loops of the user's own.

        Raises:
            UnsupportedPipelineError: the batch does not fit the request.
        """

    @abstractmethod
    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        """Install hooks that report each of these blocks whenever it has run; all are removed by their handles.

        If a hook cannot be installed, those before it are removed again before the error leaves.
        """

    @abstractmethod
    def text_side(self, names: Sequence[str], request: Request | None = None) -> TextSide:
        """The way from words to the keys of these blocks, as the weights stand now.

        `request` is that of the run whose words will be asked, None before one has begun. A replayed side is
        returned with an empty replay, which the recorder fills in.
        """

    @abstractmethod
    def reader(self, layer: str | None = None) -> TextReader:
        """What reads texts; the pipeline may lack all parts but tokenizers and text encoders.

        Args:
            layer: Output of the text encoders, as `Space.layer` names it; by default that of the pipeline's last run.

        Raises:
            NoTextEncoderError: the pipeline has none.
        """

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        """What `ovam.encode` tells the denoiser besides the noisy latent and the time step, by argument name.

        An empty prompt is told as the pipeline tells it to its own unconditional half.

        Args:
            prompt: One text.
            size: (height, width) of the image in pixels, as the model sees it.

        Raises:
            UnsupportedPipelineError: the family can't look at real images.
        """
        raise UnsupportedPipelineError(
            f"{type(self.pipe).__name__} can't encode real images: expected a family that is run on one noisy latent "
            "at a time step, such as Stable Diffusion, PixArt or FLUX.1; capture a run of the pipeline instead"
        )

    def look(
        self, latent: Float[Tensor, "1 channel height width"], timestep: int, conditions: Mapping[str, Any]
    ) -> Float[Tensor, "1 channel height width"]:
        """Let the denoiser look at a latent at a time step of its training, and tell what it predicts."""
        moment = torch.tensor([timestep], device=latent.device)
        predicted: Tensor = self.denoiser(latent, timestep=moment, **conditions)[0]
        return predicted[:, : latent.shape[1]]  # some predict the variance besides
