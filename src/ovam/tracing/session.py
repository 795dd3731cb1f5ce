"""Watch a pipeline: install wrappers and hooks, tell runs apart, and restore everything at the end."""

import inspect
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

from ovam.backbones.base import Backbone, Evaluation, Observation, Request
from ovam.backbones.registry import read_as
from ovam.errors import NestedCaptureError, UnsupportedPipelineError
from ovam.trace.calls import Call
from ovam.tracing.chosen import check_halves, chosen_steps
from ovam.tracing.coverage import RunCoverage, gap
from ovam.tracing.decoded import pictures_of, png
from ovam.tracing.expected import OneThread, check_call
from ovam.tracing.observed import parts_of, pass_on
from ovam.tracing.options import CaptureOptions
from ovam.tracing.others import others_refused
from ovam.tracing.patched import check_watchable, run_uncompiled
from ovam.tracing.pipeline_hooks import wrapped
from ovam.tracing.run import Recorder, Run, RunShape, shape_of_run
from ovam.tracing.schedule import Level, is_new_step, levels_from, sigma_at
from ovam.tracing.tokens_read import TextsRead, encoders_watched

log = logging.getLogger("ovam")
_watched: WeakSet[nn.Module] = WeakSet()


class Session:
    """Follows the runs of one pipeline and passes the chosen tensors to a recorder."""

    def __init__(self, backbone: Backbone, options: CaptureOptions, recorder: Recorder) -> None:
        self.backbone, self.options, self.recorder = backbone, options, recorder
        self.run = Run()
        self.covered: list[RunCoverage] = []
        self._watchers = ExitStack()
        self._texts = TextsRead()
        self._thread = OneThread(backbone.pipe, lambda: self.run, self._drop)

    @contextmanager
    def installed(self) -> Iterator["Session"]:
        """Watch the pipeline inside the `with` block; afterwards, even after an error, it is as before.

        Raises:
            NestedCaptureError: the pipeline's denoiser is watched already.
        """
        pipe, denoiser = self.backbone.pipe, self.backbone.denoiser
        if denoiser in _watched:
            raise NestedCaptureError(
                f"{type(pipe).__name__} is being captured already, by an outer capture or stream on the same "
                f"{type(denoiser).__name__}: leave that `with` block first, or use its traces"
            )
        check_watchable(pipe, denoiser)
        if read_as(pipe) != type(pipe).__name__:
            log.warning("%s is read as the %s it is derived from", type(pipe).__name__, read_as(pipe))
        thread = self._thread
        with ExitStack() as installed:
            _watched.add(denoiser)
            installed.callback(_watched.discard, denoiser)
            installed.callback(self._unwatch)
            installed.enter_context(others_refused(pipe, denoiser))
            installed.enter_context(run_uncompiled(pipe, denoiser))
            installed.enter_context(encoders_watched(pipe, self.backbone.prompt_method, self._texts))
            installed.enter_context(wrapped(pipe, "check_inputs", thread.starting(self._on_start)))
            installed.enter_context(wrapped(pipe, self.backbone.prompt_method, thread.going_on(self._on_prompt)))
            installed.enter_context(wrapped(pipe, "prepare_latents", thread.going_on(self._on_latents)))
            installed.enter_context(wrapped(pipe.image_processor, "postprocess", thread.going_on(self._on_pictures)))
            installed.enter_context(wrapped(pipe, "maybe_free_model_hooks", thread.going_on(self._on_end)))
            if hasattr(pipe, "mask_processor"):  # inpainting only
                installed.enter_context(wrapped(pipe.mask_processor, "get_crop_region", self._on_crop))
            handle = denoiser.register_forward_pre_hook(thread.going_on(self._on_denoiser), with_kwargs=True)
            installed.callback(handle.remove)
            installed.callback(denoiser.register_forward_hook(thread.inside(self._on_evaluated)).remove)
            yield self
            self._close()

    def begin(self, request: Request, seeds: tuple[int | None, ...], levels: Sequence[Level], kept: int) -> None:
        """Start a run by hand, for a loop that does not use the pipeline's own call.

        Args:
            request: Prompts and guidance.
            seeds: One seed per image.
            levels: Time step and sigma of each denoiser call; the scheduler is bypassed.
            kept: Number of calls that will be kept.
        """
        self._drop()
        self.run = Run(request=request, seeds=seeds, levels=list(levels), planned_calls=kept)

    def finish(self, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """End a run that was started by hand."""
        self._finish(pictures, size)

    def _on_start(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Handle the start of the pipeline's own call, which checks its inputs first."""
        self._close()
        self.run.by_pipeline, self.run.handled = True, sys.exception()
        self.run.thread = get_ident()

    def _on_end(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Handle the end of the pipeline's own call: the last decoded pictures are its result, not a preview.

        The call may end before the scheduler's last step: it was interrupted, or it leaves the last steps to a
        refiner. Some pipelines skip `postprocess` for latent output; their call ends without pictures.
        """
        run = self.run
        if not run.by_pipeline:
            self._close()
        elif not run.calls or run.evaluating or sys.exception() is not run.handled:  # it failed
            self._drop()
        elif run.pictures is None:
            self._finish(self._no_pictures(), self._size())
        else:
            self._finish(run.pictures, run.size)

    def _on_prompt(self, arguments: Mapping[str, Any], result: Any) -> None:
        if self.run.calls:  # custom loop: the next run begins
            self._close()
        self.run.thread = get_ident()
        before = self.run.request
        request = self.backbone.request(arguments, result, before)
        self.run.request = replace(request, read=self._texts.read(arguments, before.read if before else {}))

    def _on_latents(self, arguments: Mapping[str, Any], result: Any) -> None:
        given = arguments.get("generator")
        unseeded = read_as(self.backbone.pipe) in self.backbone.unseeded
        if arguments.get("latents") is not None or given is None or unseeded:
            return
        drawn = result[0] if isinstance(result, tuple) else result  # some families return positions as well
        if isinstance(given, list):
            self.run.seeds = tuple(_seed(generator, drawn[:1]) for generator in given)
        else:
            self.run.seeds = (_seed(given, drawn),) * len(drawn)

    def _on_crop(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Warn that inpainting will use only a part of the image, and paste it back into the image at the end."""
        log.warning(
            "%s: with padding_mask_crop the model sees the image's part %s alone; the size, picture and maps of its "
            "traces are of that part, not of the image that the pipeline returns",
            type(self.backbone.pipe).__name__,
            tuple(result),
        )

    def _on_pictures(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Handle decoded pictures: a run's result, or a preview if another denoiser call follows.

        A custom loop may decode its pictures one by one.
        """
        if not self.run.calls:
            return
        run, latent_only = self.run, arguments.get("output_type") == "latent"
        pictures = [] if latent_only else pictures_of(result)
        before = list(run.pictures or ())
        if run.by_pipeline or run.shape is None or len(before) >= run.shape.images:
            before = []
        run.pictures = [*before, *(png(picture) for picture in pictures)] or self._no_pictures()
        run.size = (pictures[0].height, pictures[0].width) if pictures else self._size()
        every = run.shape is not None and len(run.pictures) >= run.shape.images
        if not run.by_pipeline and every and len(run.calls) >= len(run.levels):
            self._close()

    def _size(self) -> tuple[int, int]:
        """Return height and width of the image to which the run's latent decodes."""
        factor = self.backbone.pipe.vae_scale_factor
        return self.run.latent[0] * factor, self.run.latent[1] * factor

    def _on_denoiser(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        evaluation = self.backbone.evaluation(arguments, self.run.request)
        if self.run.planned_calls is not None:
            evaluation = replace(evaluation, timestep=self.run.levels[len(self.run.calls)][0])
        self._tell_loops_apart(evaluation)
        run, last, text = (
            self.run,
            self.run.calls[-1] if self.run.calls else None,
            arguments.get("encoder_hidden_states"),
        )
        run.thread = get_ident()
        other_half = last is not None and last.timestep == evaluation.timestep
        other_half = other_half and not run.halves_seen & set(evaluation.halves)  # second half of the same call (FLUX)
        if last is None:
            self._begin(evaluation)
        elif not other_half:
            check_call(self.backbone.pipe, run, evaluation, text)
            self._leave_out_if_half()
        run.evaluation, run.evaluating, run.pictures, run.reported, run.text = evaluation, True, None, set(), text
        if other_half:
            run.halves_seen |= set(evaluation.halves)
            return
        run.halves_seen = set(evaluation.halves)
        run.pairs.clear()
        level = run.level(len(run.calls), evaluation.timestep)
        step = 0 if last is None or run.last_level is None else last.step + is_new_step(run.last_level, level)
        run.last_level = level
        sigma = sigma_at(self.backbone.pipe.scheduler, evaluation.timestep) if level.sigma is None else level.sigma
        call = Call(len(run.calls), step, evaluation.timestep, sigma)
        run.calls.append(call)
        run.keeping = run.steps is None or step in run.steps
        if run.keeping:
            run.kept.append(call)

    def _tell_loops_apart(self, evaluation: Evaluation) -> None:
        """In custom loops, start a new run after a failed denoiser call, or when the time step rises after pictures."""
        run = self.run
        if run.by_pipeline or not run.calls:
            return
        if run.evaluating:
            self._drop()
            self.run.request = run.request
        elif run.pictures is not None and evaluation.timestep > run.calls[-1].timestep:
            self._close()
            self.run.request = run.request

    def _on_evaluated(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        run = self.run
        run.evaluating = False
        if run.shape is None or run.evaluation is None or not set(run.evaluation.halves) & set(run.shape.halves):
            return
        silent = run.note_seen(run.shape.watched)
        if not run.keeping:
            return
        if not silent:
            self._tell_averages(run.shape)
        elif self.options.strict:
            raise gap(silent, run.shape.watched, f"in denoiser call {len(run.calls) - 1}")
        else:
            run.leave_out()

    def _begin(self, evaluation: Evaluation) -> None:
        """Compute the run's shape, let the recorder accept or refuse it, and only then watch the blocks."""
        run, positions = self.run, next(iter(evaluation.halves.values()))
        run.latent = evaluation.latent
        run.steps, calls = chosen_steps(run, self.options, self.backbone.pipe.scheduler, evaluation)
        check_halves(run, self.options, evaluation)
        images = positions.stop - positions.start
        shape = shape_of_run(
            self.backbone,
            self.options,
            evaluation.latent,
            images=images,
            calls=calls,
            request=run.request,
            further=evaluation.further,
        )
        self.recorder.begin(shape)
        run.shape, run.levels = shape, run.levels or levels_from(self.backbone.pipe.scheduler, evaluation.timestep)
        for handle in self.backbone.watch(shape.watched, self._thread.inside(self._on_block)):
            self._watchers.callback(handle.remove)

    def _no_pictures(self) -> list[bytes | None]:
        return [None] * (self.run.shape.images if self.run.shape else 0)

    def _on_block(self, name: str, observation: Observation) -> None:
        run = self.run
        if not run.evaluating:  # the call is over: gradient checkpointing runs its layers again
            return
        if name in run.reported:
            raise _repeated(name, len(run.calls) - 1)
        run.reported.add(name)
        if not run.keeping or run.shape is None or run.evaluation is None:
            return
        if parts_of(
            run.shape, name, averaged=True
        ):  # wait: the call may still be left out, and an average can't be undone
            run.pairs.append((name, observation, run.evaluation.halves))
        others = parts_of(run.shape, name, averaged=False)
        if others:
            pass_on(run, self.recorder, name, observation, run.evaluation.halves, others)

    def _tell_averages(self, shape: RunShape) -> None:
        """Update the averages, if the call has all kept halves."""
        if not self.run.halves_seen.issuperset(shape.halves):
            return
        for name, seen, halves in self.run.pairs:
            pass_on(self.run, self.recorder, name, seen, halves, parts_of(shape, name, averaged=True))
        self.run.pairs.clear()

    def _leave_out_if_half(self) -> None:
        """Leave out a finished call that lacks a kept half, because guidance was switched off."""
        run = self.run
        if run.shape is None or not run.keeping or run.halves_seen.issuperset(run.shape.halves):
            return
        run.leave_out()
        if not run.warned_of_halves:
            run.warned_of_halves = True
            log.warning(
                "guidance was switched off at denoiser call %d of this run: its traces, which keep %s queries, leave "
                "such calls out; capture with guidance='cond' to keep all of them",
                len(run.calls) - 1,
                " and ".join(run.shape.halves),
            )

    def _close(self) -> None:
        """Finish the run of a custom loop; drop a run that failed, and a pipeline's run that did not reach its end.

        Pictures of a pipeline's run that did not reach its end may be a callback's preview.
        """
        run = self.run
        if run.by_pipeline or not run.calls:
            self._drop()
        elif run.pictures is not None:
            self._finish(run.pictures, run.size)
        elif not run.evaluating:
            self._finish(self._no_pictures(), self._size())
        else:
            self._drop()

    def _finish(self, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        run = self.run
        self._leave_out_if_half()
        self._drop(complete=True)
        if run.shape is not None and run.seen and not run.kept:
            silent = [name for name in run.shape.watched if any(name not in seen for seen in run.seen.values())]
            if silent:
                raise gap(silent, run.shape.watched, "in at least one call each, and no call had all of them")
        self.recorder.finish(run, pictures, size)

    def _drop(self, *, complete: bool = False) -> None:
        self._unwatch()
        if self.run.seen:
            self.covered.append(self.run.coverage(complete=complete))
        self.run = Run()

    def _unwatch(self) -> None:
        self._watchers.close()


def _repeated(name: str, call: int) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"block {name!r} made queries twice in denoiser call {call}, so that which of them its attention used is not "
        "known: expected one projection a block and call; take off the attention processor or patch that runs its "
        "layers again, pipe.unet.set_default_attn_processor() for a UNet, or leave the block out by blocks=[...]"
    )


def _seed(generator: torch.Generator, drawn: torch.Tensor) -> int | None:
    """Return a generator's seed, or None if the generator had been used before: its seed would give another image."""
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    torch.randn(drawn.shape, generator=fresh, device=generator.device, dtype=drawn.dtype)
    return generator.initial_seed() if torch.equal(fresh.get_state(), generator.get_state()) else None
