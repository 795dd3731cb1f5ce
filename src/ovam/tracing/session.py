"""Follow a pipeline from run to run: when each run begins and ends, its prompts and its pictures.

`ovam.tracing.watch` follows the denoiser calls of a run and the queries of its blocks.

If the user calls the pipeline, `pipe(...)`, the handlers of this module are called in this order:

1. `_on_start`: the pipeline checks its inputs.
2. `_on_prompt`, `_on_latents`, and in inpainting `_on_crop`: the pipeline prepares prompt, latents and image.
3. For each denoiser call, the handlers of `Watch` run. They pass the queries to the recorder, the object that stores
   them or makes maps of them (`ovam.tracing.run.Recorder`).
4. `_on_pictures`: pictures are decoded, at the end of the run or for a preview.
5. `_on_end`: the run is over.

A custom loop is the user's own sampling loop, which does not call `pipe(...)`. It calls only some of the pipeline's
methods, so only some of these handlers are called. A run of a custom loop ends when its last pictures are decoded, when
the loop calls `maybe_free_model_hooks` (as `pipe(...)` does at its end), when the next run begins, or at the end of the
`with` block.

Three methods of `Watch` end a run. After each of them, `Watch.run` is a new, empty `Run`. `finish` gives the old run to
the recorder; `QueryRecorder.finish` makes a `Trace` of the stored queries of each image. `drop` discards the old run:
no trace is made of this run. `close` chooses between the two: it finishes the run of a custom loop that did not fail,
and drops every other run.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from ovam.backbones.base import Backbone, Request
from ovam.backbones.registry import read_as
from ovam.errors import NestedCaptureError
from ovam.tracing.coverage import RunCoverage
from ovam.tracing.decoded import pictures_of, png
from ovam.tracing.options import CaptureOptions
from ovam.tracing.others import other_pipelines_refused
from ovam.tracing.patched import check_watchable, run_uncompiled
from ovam.tracing.pipeline_hooks import wrapped
from ovam.tracing.run import Recorder, Run
from ovam.tracing.schedule import Level
from ovam.tracing.tokens_read import TextsRead, encoders_watched
from ovam.tracing.watch import Watch

log = logging.getLogger("ovam")
_watched: WeakSet[nn.Module] = WeakSet()


def check_not_captured(backbone: Backbone) -> None:
    """Check that no run of the pipeline's denoiser would be taken for one of a capture around it.

    Raises:
        NestedCaptureError: the pipeline's denoiser is watched already.
    """
    if backbone.denoiser in _watched:
        raise NestedCaptureError(
            f"{type(backbone.pipe).__name__} is being captured already, by an outer capture or stream on the same "
            f"{type(backbone.denoiser).__name__}: leave that `with` block first, or use its traces"
        )


class Session:
    """Follows the runs of one pipeline, each from its prompt to its pictures."""

    def __init__(self, backbone: Backbone, options: CaptureOptions, recorder: Recorder) -> None:
        self.backbone = backbone
        self._watch = Watch(backbone, options, recorder)
        self._texts = TextsRead()

    @property
    def run(self) -> Run:
        return self._watch.run

    @property
    def covered(self) -> Sequence[RunCoverage]:
        """For each run that is over, which blocks ran in which calls."""
        return self._watch.covered

    @contextmanager
    def installed(self) -> Iterator["Session"]:
        """Watch the pipeline inside the `with` block; afterwards, even after an error, the pipeline is as before.

        Raises:
            NestedCaptureError: the pipeline's denoiser is watched already.
        """
        pipe, denoiser = self.backbone.pipe, self.backbone.denoiser
        check_not_captured(self.backbone)
        check_watchable(pipe, denoiser)
        if read_as(pipe) != type(pipe).__name__:
            log.warning("%s is treated as its base class %s", type(pipe).__name__, read_as(pipe))
        one_thread = self._watch.one_thread
        with ExitStack() as installed:
            _watched.add(denoiser)
            installed.callback(_watched.discard, denoiser)
            installed.enter_context(other_pipelines_refused(pipe, denoiser))
            installed.enter_context(run_uncompiled(pipe, denoiser))
            installed.enter_context(encoders_watched(pipe, self.backbone.prompt_method, self._texts))
            installed.enter_context(wrapped(pipe, "check_inputs", one_thread.at_start(self._on_start)))
            installed.enter_context(
                wrapped(pipe, self.backbone.prompt_method, one_thread.between_calls(self._on_prompt))
            )
            installed.enter_context(wrapped(pipe, "prepare_latents", one_thread.between_calls(self._on_latents)))
            installed.enter_context(
                wrapped(pipe.image_processor, "postprocess", one_thread.between_calls(self._on_pictures))
            )
            installed.enter_context(wrapped(pipe, "maybe_free_model_hooks", one_thread.between_calls(self._on_end)))
            if hasattr(pipe, "mask_processor"):  # inpainting only
                installed.enter_context(wrapped(pipe.mask_processor, "get_crop_region", self._on_crop))
            installed.enter_context(self._watch.installed())
            yield self
            self._watch.close()

    def begin(self, request: Request, seeds: tuple[int | None, ...], levels: Sequence[Level], kept: int) -> None:
        """Start a run explicitly, for code that runs the denoiser itself and does not call `pipe(...)`.

        Args:
            request: Prompts and guidance.
            seeds: One seed per image.
            levels: Time step and sigma of each denoiser call, used in place of the scheduler's time steps and sigmas.
            kept: Number of calls that will be kept.
        """
        self._watch.drop()
        self._watch.run = Run(request=request, seeds=seeds, levels=list(levels), planned_calls=kept)

    def finish(self, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """End a run that `begin` started."""
        self._watch.finish(pictures, size)

    def _on_start(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Handle `check_inputs`, the first method that `pipe(...)` calls: a run starts."""
        self._watch.close()
        self.run.by_pipeline, self.run.error_before = True, sys.exception()
        self.run.thread_id = get_ident()

    def _on_end(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Handle `maybe_free_model_hooks`, which `pipe(...)` calls at its end: the run is over.

        The last decoded pictures are the result of `pipe(...)`, not a preview. `pipe(...)` may end before the
        scheduler's last step: it was interrupted, or a second model (SDXL's refiner) does the last steps. Some
        pipelines skip `postprocess` for latent output; then `pipe(...)` ends without pictures.

        A custom loop may call `maybe_free_model_hooks` too; then its run ends as well.
        """
        run = self.run
        if not run.by_pipeline:
            self._watch.close()
        elif not run.calls or run.evaluating or sys.exception() is not run.error_before:
            # the denoiser was never run, or it failed, or an error ended `pipe(...)`
            self._watch.drop()
        elif run.pictures is None:
            self._watch.finish(self._watch.no_pictures(), self._watch.size())
        else:
            self._watch.finish(run.pictures, run.size)

    def _on_prompt(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Store the prompts and the guidance of the run.

        In a custom loop, a prompt that is encoded after denoiser calls begins the next run.
        """
        if self.run.calls:  # a custom loop begins its next run
            self._watch.close()
        self.run.thread_id = get_ident()
        before = self.run.request
        request = self.backbone.request(arguments, result, before)
        self.run.request = replace(request, read=self._texts.read(arguments, before.read if before else {}))

    def _on_latents(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Store the seed of each image, if the pipeline made its random latents with a generator that the user gave."""
        given = arguments.get("generator")
        unseeded = read_as(self.backbone.pipe) in self.backbone.unseeded
        if arguments.get("latents") is not None or given is None or unseeded:
            return
        # some families return a tuple: the latents, and the position ids of the image tokens
        latents = result[0] if isinstance(result, tuple) else result
        if isinstance(given, list):
            self.run.seeds = tuple(_seed(generator, latents[:1]) for generator in given)
        else:
            self.run.seeds = (_seed(given, latents),) * len(latents)

    def _on_crop(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Warn that the pipeline will inpaint only a part of the image.

        At its end the pipeline pastes this part back into the image.
        """
        log.warning(
            "%s: with padding_mask_crop the model sees only the part %s of the image; its traces have the size, "
            "picture and maps of this part, not of the image that the pipeline returns",
            type(self.backbone.pipe).__name__,
            tuple(result),
        )

    def _on_pictures(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Store decoded pictures: the result of the run, or a preview if another denoiser call follows.

        A custom loop may decode the pictures of a run one by one.
        """
        if not self.run.calls:
            return
        run, latent_only = self.run, arguments.get("output_type") == "latent"
        pictures = [] if latent_only else pictures_of(result)
        before = list(run.pictures or ())
        if run.by_pipeline or run.shape is None or len(before) >= run.shape.images:
            before = []
        run.pictures = [*before, *(png(picture) for picture in pictures)] or self._watch.no_pictures()
        run.size = (pictures[0].height, pictures[0].width) if pictures else self._watch.size()
        all_decoded = run.shape is not None and len(run.pictures) >= run.shape.images
        if not run.by_pipeline and all_decoded and len(run.calls) >= len(run.levels):
            self._watch.close()


def _seed(generator: torch.Generator, latents: torch.Tensor) -> int | None:
    """Return the seed of the generator that made these latents.

    Return None if the generator had been used before it made the latents, because then the seed alone would give
    another image.
    """
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    torch.randn(latents.shape, generator=fresh, device=generator.device, dtype=latents.dtype)
    return generator.initial_seed() if torch.equal(fresh.get_state(), generator.get_state()) else None
