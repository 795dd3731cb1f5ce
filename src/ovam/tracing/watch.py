"""Follow the denoiser calls of a run, and pass what its blocks show to the recorder.

Each block's hook calls `_on_block`. For each half and image, the tensors of its row in the batch are taken (`Part.of`
in `ovam.tracing.parts`), cut to the pixels of the block's grid, and passed to the recorder.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any, Literal

from torch import Tensor, nn

from ovam.backbones.base import Backbone, Evaluation, Observation
from ovam.errors import UnsupportedPipelineError
from ovam.shapes import Grid
from ovam.trace.calls import Call, Half
from ovam.tracing.chosen import check_halves, chosen_steps
from ovam.tracing.coverage import RunCoverage, gap
from ovam.tracing.expected import OneThread, check_call
from ovam.tracing.options import CaptureOptions
from ovam.tracing.parts import PARTS, Part, PixelPairs, Taken
from ovam.tracing.run import Place, Recorder, Run, RunShape, Waiting, shape_of_run
from ovam.tracing.schedule import is_new_step, levels_from, sigma_at

log = logging.getLogger("ovam")


class Watch:
    """Follows the current run of one pipeline, call by call, and passes the chosen tensors to a recorder.

    Attributes:
        run: The current run; a new one takes its place when it ends.
        covered: Which blocks ran in which calls of the runs that are over.
        one_thread: Refuses calls from a second thread.
    """

    def __init__(self, backbone: Backbone, options: CaptureOptions, recorder: Recorder) -> None:
        self.backbone, self.options, self.recorder = backbone, options, recorder
        self.run = Run()
        self.covered: list[RunCoverage] = []
        self.one_thread = OneThread(backbone.pipe, lambda: self.run, self.drop)
        self._watchers = ExitStack()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch the denoiser inside the `with` block, and the blocks of each run as soon as they are known."""
        denoiser, one_thread = self.backbone.denoiser, self.one_thread
        with ExitStack() as installed:
            installed.callback(self._unwatch)
            handle = denoiser.register_forward_pre_hook(one_thread.between_calls(self._on_denoiser), with_kwargs=True)
            installed.callback(handle.remove)
            installed.callback(denoiser.register_forward_hook(one_thread.within_call(self._on_evaluated)).remove)
            yield

    def _on_denoiser(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Handle the start of an evaluation: it begins a run or a call, or is the second half of the last call."""
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        evaluation, text = self._evaluation_of(arguments), arguments.get("encoder_hidden_states")
        self._tell_loops_apart(evaluation)
        run = self.run
        run.thread_id = get_ident()
        second_half = run.continued_by(evaluation)
        if not run.calls:
            self._begin(evaluation)
        elif not second_half:
            check_call(self.backbone.pipe, run, evaluation, text)
            self._leave_out_if_half()
        run.evaluation, run.evaluating, run.pictures, run.reported, run.text = evaluation, True, None, set(), text
        if second_half:
            run.halves_seen |= set(evaluation.halves)
        else:
            self._begin_call(evaluation)

    def _evaluation_of(self, arguments: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that the denoiser's arguments describe, with the planned time step if there is one."""
        evaluation = self.backbone.evaluation(arguments, self.run.request)
        if self.run.planned_calls is None:
            return evaluation
        return replace(evaluation, timestep=self.run.levels[len(self.run.calls)][0])

    def _begin_call(self, evaluation: Evaluation) -> None:
        """Add the next call to the run, with its step and noise level, and decide whether it is kept."""
        run = self.run
        level = run.level(len(run.calls), evaluation.timestep)
        step = 0 if run.last_level is None else run.calls[-1].step + is_new_step(run.last_level, level)
        sigma = sigma_at(self.backbone.pipe.scheduler, evaluation.timestep) if level.sigma is None else level.sigma
        call = Call(len(run.calls), step, evaluation.timestep, sigma)
        run.halves_seen, run.last_level = set(evaluation.halves), level
        run.waiting.clear()
        run.calls.append(call)
        run.keeping = run.steps is None or step in run.steps
        if run.keeping:
            run.kept.append(call)

    def _counts(self) -> bool:
        """Return whether the current call, which is kept, counts in averages."""
        every = self.options.self_attention_every
        return (len(self.run.kept) - 1) % every == every // 2

    def _tell_loops_apart(self, evaluation: Evaluation) -> None:
        """In custom loops, start a new run after a failed denoiser call, or when the time step rises after pictures."""
        run = self.run
        if run.by_pipeline or not run.calls:
            return
        if run.evaluating:
            self.drop()
            self.run.request = run.request
        elif run.pictures is not None and evaluation.timestep > run.calls[-1].timestep:
            self.close()
            self.run.request = run.request

    def _on_evaluated(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        run = self.run
        run.evaluating = False
        if run.shape is None or run.evaluation is None or not set(run.evaluation.halves) & set(run.shape.halves):
            return
        run.note_seen(run.shape.watched)
        silent = [name for name in run.shape.needed if name not in run.reported]
        if not run.keeping:
            return
        if not silent:
            self._complete(run.shape)
        elif self.options.strict:
            raise gap(silent, run.shape.needed, f"in denoiser call {len(run.calls) - 1}")
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
        for handle in self.backbone.watch(shape.watched, self.one_thread.within_call(self._on_block)):
            self._watchers.callback(handle.remove)

    def _on_block(self, name: str, observation: Observation) -> None:
        run = self.run
        if not run.evaluating:  # the call is over: gradient checkpointing runs its layers again
            return
        if name in run.reported:
            raise _repeated(name, len(run.calls) - 1)
        run.reported.add(name)
        if not run.keeping or run.shape is None or run.evaluation is None:
            return
        halves = run.evaluation.halves
        needed = self._counts() or not run.averaged
        parts = [part for part in _parts_of(run.shape, name) if needed or not part.averaged]
        if any(part.single for part in parts):  # they wait: the call may still be left out
            run.waiting.append((name, observation, halves))
        self._pass_on(name, observation, halves, [part for part in parts if not part.single])

    def _complete(self, shape: RunShape) -> None:
        """Update the averages, if the call has all kept halves of guidance and counts in them.

        Tensors that are kept only of the last call wait until the run is over. So do those of a call that does not
        count, as long as none has: a run that ends early has an average of its last call.
        """
        run = self.run
        if not run.halves_seen.issuperset(shape.halves):
            return
        averaged, last = _waiting_for(shape, run.waiting, "averaged"), _waiting_for(shape, run.waiting, "last")
        if self._counts():
            self._average(shape, averaged)
        elif not run.averaged:
            run.spare = averaged
        run.last = last
        run.waiting.clear()

    def _average(self, shape: RunShape, waiting: Sequence[Waiting]) -> None:
        for name, seen, halves in waiting:
            self._pass_on(name, seen, halves, [part for part in _parts_of(shape, name) if part.averaged])
        self.run.averaged = True
        self.run.spare = []

    def _report_last(self, shape: RunShape) -> None:
        """Pass on what is kept of the run's last kept call alone, and its averages if no call counted in them."""
        if not self.run.averaged:
            self._average(shape, self.run.spare)
        for name, seen, halves in self.run.last:
            self._pass_on(name, seen, halves, [part for part in _parts_of(shape, name) if part.last])

    def _pass_on(self, block: str, seen: Observation, halves: Mapping[Half, slice], parts: Sequence[Part]) -> None:
        """Pass parts of a block's observation to the recorder, image by image; `halves` are rows of the batch.

        Raises:
            UnsupportedPipelineError: a tensor has other pixels than the block's grid.
        """
        if not parts:
            return
        run, rows = self.run, range(seen.rows)
        shape, further = run.shape, 0 if run.evaluation is None else run.evaluation.further
        assert shape is not None
        for half in (half for half in halves if half in shape.halves):
            for image, row in enumerate(rows[halves[half]]):
                try:
                    taken = {part.name: part.of(block, seen, row, shape.blocks[block]) for part in parts}
                    own = {
                        part.name: _own_pixels(block, part, taken[part.name], shape.grids[block], further)
                        for part in parts
                    }
                except UnsupportedPipelineError:
                    if block not in shape.optional:
                        raise
                    continue
                self.recorder.observe(Place(block, half, image, len(run.kept) - 1), own)

    def _leave_out_if_half(self) -> None:
        """Leave out a finished call that lacks a kept half, because guidance was switched off."""
        run = self.run
        if run.shape is None or not run.keeping or run.halves_seen.issuperset(run.shape.halves):
            return
        run.leave_out()
        if not run.warned_of_halves:
            run.warned_of_halves = True
            log.warning(
                "guidance was switched off at denoiser call %d of this run: its traces keep %s queries, so they leave "
                "out calls without guidance; capture with guidance='cond' to keep all calls",
                len(run.calls) - 1,
                " and ".join(run.shape.halves),
            )

    def close(self) -> None:
        """Finish the run of a custom loop; drop a run that failed, and a pipeline's run that did not reach its end.

        Pictures of a pipeline's run that did not reach its end may be a callback's preview.
        """
        run = self.run
        if run.by_pipeline or not run.calls:
            self.drop()
        elif run.pictures is not None:
            self.finish(run.pictures, run.size)
        elif not run.evaluating:
            self.finish(self.no_pictures(), self.size())
        else:
            self.drop()

    def finish(self, pictures: Sequence[bytes | None], size: tuple[int, int]) -> None:
        """End the run and let the recorder complete it; `run` is a new, empty run then. `size` is that of the image.

        Raises:
            SilentBlockError: every call lacks at least one watched block.
        """
        run = self.run
        self._leave_out_if_half()
        if run.shape is not None:
            self._report_last(run.shape)
        self.drop(complete=True)
        if run.shape is not None and run.seen and not run.kept:
            silent = [name for name in run.shape.needed if any(name not in seen for seen in run.seen.values())]
            if silent:
                raise gap(silent, run.shape.needed, "in at least one call each, so that no call is complete")
        self.recorder.finish(run, pictures, size)

    def drop(self, *, complete: bool = False) -> None:
        """Replace the run by a new, empty one; `complete` says whether the old run reached its end."""
        self._unwatch()
        if self.run.seen:
            self.covered.append(self.run.coverage(complete=complete))
        self.run = Run()

    def no_pictures(self) -> list[bytes | None]:
        """Return None for each image, as a run that ended with latents has no pictures."""
        return [None] * (self.run.shape.images if self.run.shape else 0)

    def size(self) -> tuple[int, int]:
        """Return height and width of the image to which the run's latent decodes."""
        factor = self.backbone.pipe.vae_scale_factor
        return self.run.latent[0] * factor, self.run.latent[1] * factor

    def _unwatch(self) -> None:
        self._watchers.close()


def _waiting_for(shape: RunShape, waiting: Sequence[Waiting], kind: Literal["averaged", "last"]) -> list[Waiting]:
    """Return the observations of blocks that keep a part of this kind."""
    return [each for each in waiting if any(getattr(part, kind) for part in _parts_of(shape, each[0]))]


def _parts_of(shape: RunShape, block: str) -> list[Part]:
    """Return the kept parts of a block."""
    return [part for part in PARTS.values() if block in shape.sources.get(part.name, ())]


def _own_pixels(block: str, part: Part, taken: Taken, grid: Grid, further: int) -> Taken:
    """Return only the pixels of the block's grid, without the last `further` pixels (reference pictures)."""
    if isinstance(taken, PixelPairs):
        query = _narrowed(block, part, taken.query, grid, further, "from")
        return replace(taken, query=query, key=_narrowed(block, part, taken.key, grid, further, "to"))
    return _narrowed(block, part, taken, grid, further, "from")


def _narrowed(block: str, part: Part, tensor: Tensor, grid: Grid, further: int, way: str) -> Tensor:
    for axis in part.pixel_axes:
        count = tensor.shape[axis] - further
        if count != grid[0] * grid[1]:
            raise _other_pixels(block, count, grid, way)
        tensor = tensor.narrow(axis, 0, count)
    return tensor


def _other_pixels(name: str, count: int, grid: Grid, way: str) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"block {name!r} attends {way} {count} pixels, expected the {grid[0]} x {grid[1]} of "
        "its grid: something merges, drops or adds pixels before this block; remove it for the capture"
    )


def _repeated(name: str, call: int) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"block {name!r} made queries twice in denoiser call {call}, so ovam can't know which ones its attention used: "
        "expected one projection a block and call; remove the attention processor or patch that runs its layers again "
        "(pipe.unet.set_default_attn_processor() for a UNet), or leave the block out with blocks=[...]"
    )
