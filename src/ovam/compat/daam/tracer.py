"""DAAM's `trace`: captures a pipeline's runs and computes DAAM's maps."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from PIL import Image

from ovam.backbones.registry import backbone_of
from ovam.compat.daam.experiment import GenerationExperiment
from ovam.compat.daam.heat_maps import GlobalHeatMap
from ovam.compat.daam.mean import chosen, lattice_of, layers_of
from ovam.errors import OptionError
from ovam.maps.result import SPECIAL
from ovam.methods.daam_mean import daam_mean
from ovam.trace.trace import Trace
from ovam.tracing.capture import Captured, capture


class DiffusionHeatMapHooker:
    """Captures a pipeline's runs inside a `with` block; compute maps there or afterwards.

    Each run replaces the one before, and must have one prompt, as in DAAM.

    Args:
        pipeline: A supported pipeline.
        low_memory: Capture only the first attention layer of each of the UNet's blocks.
        options: Options of `ovam.capture`, such as `disk` or `dtype`; by default queries are stored in the model's own
            type.

    Raises:
        The errors of `ovam.capture`, at the start of the block; inside it, an OptionError for a run of several prompts.

    Attributes:
        traces: Traces of the last run, one per image.
    """

    def __init__(self, pipeline: Any, low_memory: bool = False, **options: Any) -> None:
        self.pipe = pipeline
        self.traces: Captured[Trace] = Captured([], [])
        self._low_memory, self._options, self._entered = low_memory, options, ExitStack()

    def __enter__(self) -> "DiffusionHeatMapHooker":
        backbone = backbone_of(self.pipe)
        names = (name for name, spec in backbone.blocks().items() if spec.default)
        blocks = _first_of_each(names) if self._low_memory else None
        options = {"blocks": blocks, "dtype": _lossless(backbone.denoiser), **self._options}
        with ExitStack() as entered:
            self.traces = entered.enter_context(capture(self.pipe, **options))
            entered.enter_context(_before_each_run(self.pipe, self._begin))
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.__exit__(kind, error, traceback)

    def _begin(self, prompt: object) -> None:
        """Drop the traces of the run before."""
        if not isinstance(prompt, str) and isinstance(prompt, Collection) and len(prompt) > 1:
            raise OptionError(
                f"a run of {len(prompt)} prompts: expected one, as in DAAM; run them one after the other, or use "
                "ovam.capture, which gives a trace for each"
            )
        self.traces.clear()

    @property
    def layer_names(self) -> list[str]:
        """The captured blocks in the order of `layer_idx`, as module paths; DAAM has its own names.

        Raises:
            NothingCapturedError: no run was completed.
        """
        return list(layers_of(self.traces[-1].blocks))

    @property
    def last_image(self) -> Image.Image:
        """The picture of the last run."""
        return self.traces[-1].image

    @property
    def last_prompt(self) -> str:
        """The prompt of the last run; empty if embeddings were passed."""
        return self.traces[-1].source.prompt or ""

    def compute_global_heat_map(
        self,
        prompt: str | None = None,
        factors: Collection[int] | None = None,
        head_idx: int | None = None,
        layer_idx: int | None = None,
        normalize: bool = False,
    ) -> GlobalHeatMap:
        """Return the maps of a prompt's tokens, by DAAM's mean; see `ovam.methods.daam_mean`.

        Args:
            prompt: Any text; by default the prompt of the last run. For another text, DAAM takes its words from the
                run's own maps; ovam computes new maps.
            factors: Ratios of the lattice's side to a grid's: 1, 2 and 4 are the grids of 64, 32 and 16 in Stable
                Diffusion 1. By default DAAM's own, which leave out 8.
            head_idx: The head to use in each block; by default all.
            layer_idx: The block to use, by its position in `layer_names`; by default all.
            normalize: Divide by the sum over the prompt's own tokens.

        Raises:
            NothingCapturedError: no run was completed.
            NoHeatMapsError: no grid, head or layer fits.
        """
        trace, text = self.traces[-1], self.last_prompt if prompt is None else prompt
        embedded = trace.text.embed(text)
        own = range(len(embedded.prompt.tokens)) if embedded.own is None else embedded.own
        lattice = lattice_of(self.pipe, trace)
        names = chosen(trace, lattice, factors=factors, head=head_idx, layer=layer_idx)
        padded = trace.text.embed(text, padded=True)
        mean = daam_mean(trace, padded, own, blocks=names, size=lattice.size, head=head_idx)
        values = mean * len(trace.calls)  # DAAM adds the denoiser calls up
        if normalize:
            words = [i for i, token in enumerate(embedded.prompt.tokens) if token not in SPECIAL]
            values = values / (values[words].sum(0, keepdim=True) + 1e-6)
        return GlobalHeatMap(values, text, embedded.prompt.tokens, embedded.prompt.spans)

    def to_experiment(
        self, path: str | Path, seed: int | None = None, id: str = ".", subtype: str = ".", **options: Any
    ) -> GenerationExperiment:
        """Return the last run's picture and maps as an experiment; its `save` writes them to a folder.

        Args:
            path: The parent folder.
            seed: Seed of the run, written too.
            id: Name of the experiment's folder in `path`.
            subtype: Name of a subfolder in that.
            options: Options of `compute_global_heat_map`.
        """
        found = self.compute_global_heat_map(**options)
        return GenerationExperiment(self.last_image, found, seed, id, Path(path) / id, None, subtype)


trace = DiffusionHeatMapHooker


@contextmanager
def _before_each_run(pipe: Any, begin: Callable[[object], None]) -> Iterator[None]:
    """Call `begin(prompt)` when the pipeline checks its inputs, before anything runs."""
    original, attributes = pipe.check_inputs, vars(pipe)
    own = attributes.get("check_inputs")

    @wraps(original)
    def checked(prompt: object = None, *args: Any, **kwargs: Any) -> Any:
        begin(prompt)
        return original(prompt, *args, **kwargs)

    attributes["check_inputs"] = checked
    try:
        yield
    finally:
        if own is None:
            del attributes["check_inputs"]
        else:
            attributes["check_inputs"] = own


def _first_of_each(names: Iterable[str]) -> list[str]:
    """Return the first attention layer of each block of the UNet, such as `up_blocks.1`."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(".".join(name.split(".")[:2]), name)
    return list(first.values())


def _lossless(denoiser: Any) -> torch.dtype:
    """Return a storage type that stores a model's queries without rounding."""
    dtype: torch.dtype = denoiser.dtype
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32
