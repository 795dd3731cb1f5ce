"""A pipeline under test: how it is made and run, and how its own attention is recorded."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ovam.backbones.registry import backbone_of
from ovam.shapes import Grid
from ovam.testing.assertions import Attended, ExplicitSoftmax, spatial_shapes
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture


class PipelineUnderTest(ABC):
    """Makes and runs the pipeline of a contract. A subclass writes two methods and may override the others.

    Attributes:
        guidance_scale: Guidance scale of runs with guidance.
    """

    guidance_scale: ClassVar[float] = 3.0

    @abstractmethod
    def make_pipe(self) -> Any:
        """Make a pipeline of a registered backbone, with sharp attention; each test makes a new one."""

    @abstractmethod
    def run_arguments(self) -> dict[str, Any]:
        """Return the arguments of one run: a prompt, a height and a width, and three or more steps."""

    def guidance(self, scale: float, prompts: int) -> dict[str, Any]:
        """Return the arguments that set guidance for this number of prompts; a scale of 1 turns it off."""
        return {"guidance_scale": scale}

    def uneven(self, pipe: Any) -> dict[str, Any]:
        """Return the arguments of a run in which some grid has an odd height or width."""
        return {"latents": F.pad(self._latents(pipe, images=1), (0, 1, 0, 3), mode="reflect")}

    def observed_grids(self, pipe: Any, names: Sequence[str]) -> AbstractContextManager[Mapping[str, Grid]]:
        """Fill in each block's grid while the pipeline runs, from the tensors in the model."""
        return spatial_shapes(backbone_of(pipe).denoiser, names)

    @contextmanager
    def recorded_attention(self, pipe: Any, names: Sequence[str]) -> Iterator[Mapping[str, Sequence[Attended]]]:
        """Fill in the attention of these blocks while the pipeline runs, computed by the contract's own processors."""
        with ExitStack() as installed:
            processors = {name: ExplicitSoftmax() for name in names}
            for name, processor in processors.items():
                block: Any = backbone_of(pipe).denoiser.get_submodule(name)
                installed.callback(block.set_processor, block.processor)
                block.set_processor(processor)
            yield {name: processor.seen for name, processor in processors.items()}

    def _names(self, pipe: Any) -> list[str]:
        return list(backbone_of(pipe).blocks())

    def _run(self, pipe: Any, guidance_scale: float | None = None, **changes: Any) -> Any:
        """Return the images of one run as numbers, from a fixed seed and with guidance."""
        prompt = changes.get("prompt")
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        fixed = self.guidance(scale, len(prompt) if isinstance(prompt, list) else 1)
        fixed |= {"generator": torch.Generator().manual_seed(0), "output_type": "np"}
        return pipe(**{**self.run_arguments(), **fixed, **changes}).images

    def _latents(self, pipe: Any, images: int) -> Tensor:
        """Return initial noise in the shape of the pipeline's latents."""
        shape = self._run(pipe, num_inference_steps=2, output_type="latent").shape[1:]
        return torch.randn(images, *shape, generator=torch.Generator().manual_seed(1))

    def _captured(
        self,
        pipe: Any,
        names: Sequence[str],
        guidance: Literal["cond", "uncond", "both"] = "cond",
        dtype: torch.dtype = torch.float32,
        **changes: Any,
    ) -> Sequence[Trace]:
        with capture(pipe, blocks=names, guidance=guidance, dtype=dtype) as traces:
            self._run(pipe, **changes)
        return traces

    def _text_of_prompt(self, pipe: Any) -> Float[Tensor, "token width"]:
        """Return the prompt's text vectors, as the blocks receive them, from a run without guidance."""
        with self.recorded_attention(pipe, self._names(pipe)) as own:
            self._run(pipe, guidance_scale=1.0, num_inference_steps=2)
        return next(iter(own.values()))[0].text[0]
