"""The contract between capture and a model family; `docs/decisions/0001-backbone-contract.md` gives the reasons."""

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
    """A cross-, joint- or self-attention block, as the model defines it, or a layer whose features can be kept.

    Attributes:
        name: Module path in the denoiser.
        heads: Number of heads; 1 for a layer with features.
        head_dim: Channels per head; all channels of a layer with features.
        scale: Factor on the scores.
        default: Whether it is captured if the user names no blocks.
        conditioning: Channels of the vector that modulates the block, in joint attention; see `ovam.trace.replay`.
    """

    name: str
    heads: int
    head_dim: int
    scale: float
    default: bool = True
    conditioning: int = 0


@dataclass(frozen=True)
class Request:
    """Prompts and guidance of one run of the pipeline.

    Attributes:
        images: Number of images; images of the same prompt are adjacent in the batch.
        prompts: One prompt per image, or None if embeddings were passed instead.
        negative_prompts: One negative prompt per image, or None if there were none.
        guided: Whether the pipeline runs both halves of guidance.
        tokens: Length of the text sequence that the denoiser received; None if it is always the same.
        clip_skip: Number of CLIP layers that the run skipped; None for the pipeline's default.
        text_vectors: Text vectors that the pipeline made, by half, if it returns them.
        read: Token numbers that the run read, by the text encoder's name in the pipeline and then by text.
    """

    images: int
    prompts: tuple[str, ...] | None = None
    negative_prompts: tuple[str, ...] | None = None
    guided: bool = False
    tokens: int | None = None
    clip_skip: int | None = None
    text_vectors: Mapping[Half, Tensor] = field(default_factory=dict, repr=False, compare=False)
    read: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """One call of the denoiser, read from its arguments.

    Attributes:
        latent: Height and width of the latent, as the decoder takes it, before any patching or packing.
        timestep: The scheduler's own value, even if the pipeline rescales it for the denoiser.
        halves: Rows of the batch that belong to each half. Families that run the halves one after the other have one
            half per call. The extra rows of perturbed-attention guidance belong to no half. The extra call of
            skip-layer guidance has no half at all.
        further: Number of pixels after the image's own, in joint attention: pixels of other images that the model
            looks at.
    """

    latent: Grid
    timestep: float
    halves: Mapping[Half, slice]
    further: int = 0


@dataclass(frozen=True, eq=False)
class Observation:
    """Tensors of one block in one denoiser call: image queries, and what is needed to replay its text.

    In all of them, the pixels of further images follow the image's own pixels.

    Attributes:
        query: (batch, head, pixel, head_dim), after normalisation and rotary embedding, unscaled; may be a view. None
            for a layer without attention, of which `further` holds the tensors.
        replay: In joint attention, the fields of `ovam.trace.replay.ImageStream` with a batch axis in front: `key` and
            `value` (batch, head, pixel, head_dim), `conditioning` (batch, channel). Empty for static keys.
        output: In joint attention, the attention output of the pixels, before any projection; else None.
        key: In self-attention, keys of the same pixels, with the axes of the query; else None.
        further: More tensors of the block, by part (`ovam.tracing.parts`), with a batch axis in front.
    """

    query: Float[Tensor, "batch head pixel head_dim"] | None
    replay: Mapping[str, Tensor] = field(default_factory=dict)
    output: Float[Tensor, "batch head pixel head_dim"] | None = None
    key: Float[Tensor, "batch head key_pixel head_dim"] | None = None
    further: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows of the batch."""
        return len(next(iter(self.further.values())) if self.query is None else self.query)


Report = Callable[[str, Observation], None]
"""Called with a block's name each time the block has run."""


class Backbone(ABC):
    """Adapter for one family of pipelines. It observes the model and changes no number.

    A backbone stores nothing about a run; its methods read the pipeline each time. Subclasses are final. Shared code
    lives in functions, not in base methods.
    """

    pipelines: ClassVar[tuple[str, ...]]
    """Class names of the supported pipelines."""

    text_kind: ClassVar[Literal["static", "replayed"]]
    """Kind of its text side; see `ovam.trace.trace.TextSide`."""

    unseeded: ClassVar[tuple[str, ...]] = ()
    """Pipelines that also draw from torch's global generator, so that the generator's seed is not enough."""

    flow: ClassVar[bool] = False
    """True for flow-matching models, which predict a velocity."""

    prompt_method: ClassVar[str] = "encode_prompt"
    """The pipeline's method that turns texts into embeddings, called once at the start of each run."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def side_multiple(self) -> int:
        """Number that divides height and width of every image, in pixels; diffusers requires 8 for any autoencoder."""
        return 8

    @property
    def latent_multiple(self) -> int:
        """Number that divides height and width of every latent."""
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
        """Return all blocks whose queries can be captured, in the order the model runs them."""

    def self_blocks(self) -> Mapping[str, BlockSpec]:
        """Return every block in which pixels attend to pixels alone, in the order the model runs them.

        `grids` and `watch` must know them too. Joint attention has none: there the joint blocks themselves are read.
        """
        return {}

    def feature_layers(self) -> Mapping[str, BlockSpec]:
        """Return every layer whose output can be kept as features, in the order the model runs them.

        `grids` and `watch` must know them too. Only UNets have them.
        """
        return {}

    @abstractmethod
    def grids(self, latent: Grid) -> Mapping[str, Grid]:
        """Return the grid of every block and layer, for a latent of this size."""

    @abstractmethod
    def request(self, arguments: Mapping[str, Any], result: Any, earlier: Request | None) -> Request:
        """Read prompts and guidance from one call of `prompt_method`.

        Args:
            arguments: Arguments of the call, by name.
            result: The call's result.
            earlier: Request of an earlier call in the same run, or None. FLUX encodes the negative prompt in a second
                call.
        """

    @abstractmethod
    def evaluation(self, arguments: Mapping[str, Any], request: Request | None) -> Evaluation:
        """Read one call of the denoiser from its arguments, by name; `request` is None in custom loops.

        Raises:
            UnsupportedPipelineError: the batch does not fit the request.
        """

    @abstractmethod
    def watch(self, names: Sequence[str], report: Report) -> list[RemovableHandle]:
        """Install hooks that report these blocks each time they run; return the handles that remove the hooks.

        If a hook cannot be installed, the earlier ones are removed before the error is raised.
        """

    @abstractmethod
    def text_side(self, names: Sequence[str], request: Request | None = None) -> TextSide:
        """Return the text side, which turns words into keys of these blocks, with the current weights.

        `request` is the run's, or None before a run has begun. In joint attention, the text side starts with an empty
        replay, which the recorder fills.
        """

    @abstractmethod
    def reader(self, layer: str | None = None) -> TextReader:
        """Return the text reader. It needs only the pipeline's tokenizers and text encoders.

        Args:
            layer: Layer of the text encoders, as in `Space.layer`; by default the one of the pipeline's last run.

        Raises:
            NoTextEncoderError: the pipeline has no text encoder.
        """

    def conditions(self, prompt: str, size: tuple[int, int]) -> Mapping[str, Any]:
        """Return the denoiser's other arguments for `ovam.encode`, besides noisy latent and time step, by name.

        An empty prompt is encoded as in the pipeline's own unconditional half.

        Args:
            prompt: One text.
            size: (height, width) of the image in pixels, as the model sees it.

        Raises:
            UnsupportedPipelineError: the family can't encode real images.
        """
        raise UnsupportedPipelineError(
            f"{type(self.pipe).__name__} can't encode real images: expected a family whose denoiser takes one noisy "
            "latent and a time step, such as Stable Diffusion, PixArt or FLUX.1; capture a run of the pipeline instead"
        )

    def look(
        self, latents: Float[Tensor, "row channel height width"], timestep: int, conditions: Mapping[str, Any]
    ) -> Float[Tensor, "row channel height width"]:
        """Run the denoiser on latents at one training time step; return its predictions.

        The conditions are those of one prompt, or of one for each latent, stacked along the first axis.
        """
        moments = torch.full((len(latents),), timestep, device=latents.device)
        predicted: Tensor = self.denoiser(latents, timestep=moments, **conditions)[0]
        return predicted[:, : latents.shape[1]]  # some models also predict the variance
