"""Load the model of a recipe, check that it fits, and run it on one unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ovam.backbones.registry import backbone_of
from ovam.dataset.annotate import options_of
from ovam.dataset.prompts import PlannedItem, Prompts
from ovam.dataset.recipe import Recipe
from ovam.errors import PromptTooLongError
from ovam.methods.registry import by_name
from ovam.models import load, model_hash, short_name
from ovam.progress import Progress
from ovam.text_sides import text_of
from ovam.trace.text_side import Space
from ovam.trace.trace import Trace
from ovam.tracing.capture import captured
from ovam.tracing.encode import encode_image
from ovam.tracing.encode_options import EncodeOptions
from ovam.tracing.keeping import Kept, kept_for
from ovam.tracing.limits import check_sides, check_size, check_steps
from ovam.tracing.options import CaptureOptions
from ovam.tracing.plan import both_sides, native_side
from ovam.tracing.self_attention import FINEST

_SURELY_READ = 70
"""Bytes of a text that any encoder reads: CLIP's, the shortest, reads 75 tokens, and a token has a byte at least."""
_CHECKED = 10_000
"""Prompts of templates that are checked."""
LEAST_MULTIPLE = 8
"""Sides are multiples of this, in pixels."""


@dataclass(frozen=True)
class Facts:
    """What a data set must know of its model.

    Attributes:
        name: Name of the model, without its folder.
        hash: Hash of its weights.
        size: (height, width) of its images.
        space: Space of its words' vectors.
    """

    name: str
    hash: str
    size: tuple[int, int]
    space: Space


@dataclass(frozen=True, eq=False)
class Model:
    """A pipeline and how it is run.

    Attributes:
        pipe: The pipeline.
        recipe: The recipe.
        name: Name of the model, without its folder.
        hash: Hash of its weights.
    """

    pipe: Any
    recipe: Recipe
    name: str
    hash: str

    @property
    def overlaps(self) -> bool:
        """Whether masks can be made while the model runs; not in joint attention, where words run through the
        model, and not by published methods, which run the text encoder.
        """
        return backbone_of(self.pipe).text_kind == "static" and not self.recipe.masks.method

    def facts(self) -> Facts:
        """Return what a data set must know of it."""
        native, options = native_side(self.pipe) * self.pipe.vae_scale_factor, self.recipe.model
        size = (options.height or native, options.width or native)
        return Facts(self.name, self.hash, size, text_of(self.pipe).space)

    def check_prompts(self, prompts: Prompts) -> None:
        """Check that the text encoder reads the words of the classes in each prompt; it cuts off the end of long ones.

        Of templates the first 10,000 prompts are checked, unless all are short.

        Raises:
            PromptTooLongError: a class is named where the encoder does not read any more.
        """
        for one in prompts.captions:
            self._check_read("caption", one.text, one.until, one.words)
        if prompts.captions or prompts.longest() <= _SURELY_READ:
            return
        for index in range(min(_CHECKED, self.recipe.data.number)):
            item = prompts[index]
            until = max(item.prompt.find(word) + len(word) for word in item.words.values())
            self._check_read("prompt", item.prompt, until, item.words)

    def _check_read(self, kind: str, text: str, until: int, words: Mapping[str, str]) -> None:
        begin = text[:until]
        if len(begin.encode()) <= _SURELY_READ:
            return
        try:
            text_of(self.pipe).check_length(begin)
        except PromptTooLongError as error:
            raise PromptTooLongError(
                f"{kind} {text[:60]!r} names one of {', '.join(words)} after what the text encoder reads ({error}): "
                "expected the classes' words near the beginning; shorten it, or take it out"
            ) from error

    def run(self, items: Sequence[PlannedItem], after_step: Callable[[int, int], None] | None = None) -> list[Trace]:
        """Generate the images of a unit, with a trace of each.

        Args:
            items: All items of the unit.
            after_step: Called after each step with the number of steps done, and of all.
        """
        options = self.recipe.model
        count = len(items)
        negative = {"negative_prompt": [options.negative_prompt] * count} if options.negative_prompt else {}
        steps = options.num_inference_steps
        height, width = both_sides(self.pipe, options.height or None, options.width or None)

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if after_step is not None:
                after_step(step + 1, steps)
            return tensors

        with captured(
            self.pipe, self._kept(CaptureOptions(self_attention_every=self.recipe.masks.self_attention_every))
        ) as traces:
            self.pipe(
                [one.prompt for one in items],
                **negative,
                num_inference_steps=steps,
                guidance_scale=options.guidance_scale,
                height=height,
                width=width,
                generator=[torch.Generator().manual_seed(one.seed) for one in items],
                callback_on_step_end=on_step_end,
            )
            return list(traces)

    def _kept(self, options: Kept) -> Kept:
        """Return what to keep for the recipe's masks: no self-attention where nothing refines by it."""
        method, refines = self.recipe.masks.method, self.recipe.masks.refine
        if method:
            needs = by_name(method)
            own = needs.requires_encoded if isinstance(options, EncodeOptions) else needs.requires
            return replace(options, self_attention_every=1, **own)
        return kept_for(options_of(self.recipe), replace(options, self_attention=FINEST if refines else False))

    def looks(self, one: PlannedItem, trace: Trace) -> list[Trace]:
        """Look at a finished picture again, with its prompt and other noise, once for each of the item's votes.

        Raises:
            UnsupportedPipelineError: the family does not take pictures.
        """
        kept = self._kept(EncodeOptions(prompt=one.prompt))
        picture = trace.image
        size = (picture.height, picture.width)
        return [encode_image(self.pipe, picture, replace(kept, seed=seed, size=size)) for seed in one.votes]


def load_model(recipe: Recipe, *, pipe: Any = None, device: str | torch.device = "cpu", progress: Progress) -> Model:
    """Load the model of a recipe, unless a pipeline is given, and check that the recipe can be run on it.

    Raises:
        ModelNotFoundError, UnsupportedPipelineError: the model can't be loaded or is not supported.
        OptionError: it can't make images of this size, or in so many steps.
        PromptTooLongError: a word is longer than the text encoder reads.
    """
    options = recipe.model
    check_size(LEAST_MULTIPLE, height=options.height or None, width=options.width or None)
    if pipe is None:
        progress(f"loading {options.model}", 0, 0)
        pipe = load(options.model, dtype=getattr(torch, options.dtype), device=device)
        pipe.set_progress_bar_config(disable=True)
    check_sides(pipe, height=options.height or None, width=options.width or None)
    check_steps(pipe, options.num_inference_steps)
    reader = text_of(pipe)
    for word in {*(word for one in recipe.classes for word in (*one.words, *one.against)), *recipe.masks.against}:
        reader.check_length(word)
    return Model(pipe, recipe, short_name(options.model), model_hash(pipe))
