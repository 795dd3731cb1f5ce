"""The contract test class for backbones; see `ovam.testing` for how to use it."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovam.backbones.registry import backbone_of
from ovam.errors import NothingCapturedError
from ovam.maps.options import SoftmaxOver
from ovam.testing.assertions import (
    assert_close,
    assert_received,
    assert_reproduced,
    assert_restored,
    assert_rounded,
    assert_same_image,
    assert_same_queries,
    assert_sharp,
    rows_of,
    snapshot,
    spied_kernel,
)
from ovam.testing.breakdowns import BreakdownError, breakdowns, breaking, raises
from ovam.testing.pipeline_under_test import PipelineUnderTest
from ovam.testing.planted import assert_recovered
from ovam.trace.calls import Half
from ovam.trace.quantised import floats
from ovam.trace.trace import Trace
from ovam.tracing.capture import capture, stream
from ovam.tracing.session import Session


class BackboneContract(PipelineUnderTest):
    """Tests of a backbone on one pipeline. A subclass writes two methods and may change the class variables.

    The two methods, `make_pipe` and `run_arguments`, are those of `PipelineUnderTest`.

    Attributes:
        guidance_scale: Guidance scale of runs with guidance.
        other_prompt: A second prompt, with other words than the one in `run_arguments`.
        tolerance: Maximum difference between a weight of the trace and the pipeline's own. Text vectors and keys are
            computed again, in float32, and sharp attention magnifies their rounding.
        batch_tolerance: Maximum difference of a map between a batch and single runs, which round differently.
        key_tolerance: Maximum difference between a key of the run's own prompt and the kernel's, in float32.
        noise_floor: Maximum difference of a map if queries are stored in a smaller type, by type.
        bfloat16_tolerance: Maximum difference of a map if the whole pipeline runs in bfloat16.
        softmax_over: The option of `Trace.maps` that gives the model's own attention.
        has_halves: Whether guidance runs an unconditional half.
        notes: Attributes in which the pipeline itself stores the state of its run, even if the run fails.
    """

    other_prompt: ClassVar[str] = "red boat"
    # measured over 8 tiny pipelines: 1e-5 (tolerance), 8e-5 (batch), and by type 3.4e-4, 3.4e-3, 1.3e-2 (int8)
    tolerance: ClassVar[float] = 1e-4
    batch_tolerance: ClassVar[float] = 1e-3
    key_tolerance: ClassVar[float] = 0.0
    noise_floor: ClassVar[Mapping[torch.dtype, float]] = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.int8: 3e-2}
    # measured over the same 8: 0.033 (mean 0.003); misread queries or halves differ by 0.09 and more
    bfloat16_tolerance: ClassVar[float] = 0.06
    softmax_over: ClassVar[SoftmaxOver] = "padded"
    has_halves: ClassVar[bool] = True
    notes: ClassVar[Collection[str]] = ()

    def test_capture_does_not_touch_the_image(self) -> None:
        pipe = self.make_pipe()
        plain = self._run(pipe)
        random_state = torch.get_rng_state()
        with capture(pipe, blocks=self._names(pipe), guidance="both" if self.has_halves else "cond"):
            assert_same_image(self._run(pipe), plain)
        with stream(pipe, self.other_prompt):
            assert_same_image(self._run(pipe), plain)
        assert torch.equal(torch.get_rng_state(), random_state), "random numbers were drawn from the user's generator"
        assert_same_image(self._run(pipe), plain)

    def test_pipeline_is_restored_after_a_run(self) -> None:
        pipe = self.make_pipe()
        self._run(pipe)  # pipelines store some arguments of their last run
        before = snapshot(pipe)
        with capture(pipe, blocks=self._names(pipe)):
            self._run(pipe)
            assert snapshot(pipe) != before, "the capture has no hooks"
        assert_restored(pipe, before, "after a capture")
        with stream(pipe, self.other_prompt):
            self._run(pipe)
        assert_restored(pipe, before, "after a stream")

    def test_pipeline_is_restored_after_an_error(self) -> None:
        pipe = self.make_pipe()
        plain = self._run(pipe)
        before = snapshot(pipe)
        names = self._names(pipe)
        for occasion, broken in [*breakdowns(pipe, names), ("in _on_end", breaking(Session, "_on_end"))]:
            with broken:
                came_out = raises(lambda: self._captured(pipe, names), BreakdownError)
                assert came_out, f"the error {occasion} was not raised"
            assert_restored(pipe, before, f"after an error {occasion}", self.notes)
        assert_same_image(self._run(pipe), plain)

    def test_a_broken_run_does_not_reach_the_next(self) -> None:
        pipe = self.make_pipe()
        names = self._names(pipe)
        expected = self._captured(pipe, names)
        for occasion, broken in breakdowns(pipe, names):
            if occasion == "while installing":
                continue  # there is no next run in that capture
            with broken, capture(pipe, blocks=names, dtype=torch.float32) as traces:
                assert raises(lambda: self._run(pipe), BreakdownError), f"the error {occasion} was not raised"
                self._run(pipe)
            assert len(traces) == 1, f"{len(traces)} traces after an error {occasion} and one complete run, expected 1"
            assert_same_queries(traces[0], expected[0], "cond")

    def test_generation_prompt_reproduces_the_models_attention(self) -> None:
        pipe = self.make_pipe()
        self._assert_reproduced(pipe)
        self._assert_reproduced(pipe, guidance_scale=1.0)

    def test_explicit_attention_is_the_models_own(self) -> None:
        pipe = self.make_pipe()
        plain = self._run(pipe)
        with self.recorded_attention(pipe, self._names(pipe)):
            explicit = self._run(pipe)
        # tiny pipelines: 9e-6; a slightly different text differs by more than the tolerance
        assert_close(torch.tensor(explicit), torch.tensor(plain), 1e-3, "image of the recording run")

    def test_halves_of_guidance(self) -> None:
        if not self.has_halves:
            raise SkipTest("this pipeline runs one half only")
        pipe = self.make_pipe()
        guided: dict[str, Any] = {"negative_prompt": self.other_prompt}
        self._assert_reproduced(pipe, **guided)
        both = self._captured(pipe, self._names(pipe), "both", **guided)[0]
        for half in both.halves:
            alone = self._captured(pipe, self._names(pipe), half, **guided)[0]
            assert alone.halves == (half,), f"halves {alone.halves} were captured, expected {half!r}"
            assert_same_queries(alone, both, half)

    def test_a_broken_run_gives_no_trace(self) -> None:
        pipe = self.make_pipe()
        names = self._names(pipe)
        for occasion, broken in breakdowns(pipe, names):
            if "_on_denoiser" in occasion or "hook of" in occasion:
                with broken, capture(pipe, blocks=names) as traces:
                    raises(lambda: self._run(pipe), BreakdownError)
                assert not len(traces), f"a run that failed {occasion} gave a trace with incomplete queries"

    def test_without_guidance_there_is_no_unconditional_half(self) -> None:
        pipe = self.make_pipe()
        refused = raises(
            lambda: self._captured(pipe, self._names(pipe), "uncond", guidance_scale=1.0), NothingCapturedError
        )
        assert refused, "a run without guidance gave unconditional queries"

    def test_batch_of_two_is_two_single_runs(self) -> None:
        pipe = self.make_pipe()
        names, latents = self._names(pipe), self._latents(pipe, images=2)
        prompts = [self.run_arguments()["prompt"], self.other_prompt]
        pair = self._captured(pipe, names, prompt=prompts, latents=latents)
        assert len(pair) == 2, f"{len(pair)} traces of 2 images"
        for i, prompt in enumerate(prompts):
            single = self._captured(pipe, names, prompt=prompt, latents=latents[i : i + 1])[0]
            assert pair[i].source.prompt == prompt, f"image {i} has the prompt {pair[i].source.prompt!r}"
            found, expected = (_all_maps(trace, prompt) for trace in (pair[i], single))
            assert_close(found, expected, self.batch_tolerance, f"maps of image {i} in a batch of 2")
            assert_close(_picture(pair[i]), _picture(single), 1.0, f"picture of image {i}, in levels of 255,")

    def test_sizes_that_are_not_square(self) -> None:
        pipe = self.make_pipe()
        height, width = self.run_arguments()["height"], self.run_arguments()["width"]
        for size in ((height, 2 * width), (2 * height, width)):
            trace = self._assert_reproduced(pipe, height=size[0], width=size[1])
            assert trace.size == size, f"image of (height, width) = {size} has the size {trace.size} in its trace"

    def test_grids_that_do_not_halve_evenly(self) -> None:
        pipe = self.make_pipe()
        self._assert_reproduced(pipe, **self.uneven(pipe))

    def test_queries_are_those_the_kernel_receives(self) -> None:
        self._assert_kernels_queries(self.make_pipe())

    def test_a_pipeline_in_bfloat16(self) -> None:
        pipe = self.make_pipe()
        names, prompt = self._names(pipe), self.run_arguments()["prompt"]
        noise = self._latents(pipe, images=1).to(torch.bfloat16)  # each type would draw other noise
        wide = self._captured(pipe, names, latents=noise.float())[0].maps(prompt).token_maps
        pipe = pipe.to(torch.bfloat16)
        plain = self._run(pipe, latents=noise)
        with capture(pipe, blocks=names, dtype=torch.bfloat16) as traces:
            assert_same_image(self._run(pipe, latents=noise), plain)
        self._assert_kernels_queries(pipe)
        narrow = traces[0].maps(prompt).token_maps
        assert_close(narrow, wide, self.bfloat16_tolerance, "maps of a bfloat16 pipeline")

    def test_keys_of_the_prompt_are_those_the_kernel_receives(self) -> None:
        pipe = self.make_pipe()
        names = self._names(pipe)
        with spied_kernel(backbone_of(pipe).denoiser, names) as received:
            trace = self._captured(pipe, names, guidance_scale=1.0)[0]
        vectors = trace.text.embed(self.run_arguments()["prompt"], padded=True).vectors
        tokens, masked = len(vectors), 0
        if trace.text.kind == "static":  # add the rows of masked padding: rounding depends on the number of rows
            masked = received[names[0]][0][1].shape[2] - tokens
        rows = F.pad(vectors, (0, 0, 0, masked))
        for name in names:
            for call, (_, key) in zip(trace.calls, received[name], strict=True):
                found, kernel = trace.text.keys(rows, name, call.index)[:, :tokens], key[0]
                text_parts = (kernel[:, :tokens], kernel[:, -tokens:])  # joint attention has text at one end
                worst = min((found - part).abs().max().item() for part in text_parts)
                assert worst <= self.key_tolerance, (
                    f"block {name!r}, call {call.index}: a key differs by {worst:.3g} from those that attention was "
                    f"computed with, expected at most {self.key_tolerance:.3g}"
                )

    def test_narrow_storage_stays_in_its_noise_floor(self) -> None:
        pipe = self.make_pipe()
        names, prompt = self._names(pipe), self.run_arguments()["prompt"]
        wide = self._captured(pipe, names)[0]
        for dtype, floor in self.noise_floor.items():
            narrow = self._captured(pipe, names, dtype=dtype)[0]
            for name in names:
                found, expected = (trace.blocks[name].query["cond"] for trace in (narrow, wide))
                assert_rounded(found, floats(expected), dtype, f"block {name!r}")
            maps, wide_maps = (trace.maps(prompt).token_maps for trace in (narrow, wide))
            assert_close(maps, wide_maps, floor, f"maps of {dtype} queries")

    def test_stream_equals_the_maps_of_a_capture(self) -> None:
        pipe = self.make_pipe()
        names = self._names(pipe)
        halves: tuple[Half, ...] = ("cond", "uncond") if self.has_halves else ("cond",)
        for half in halves:
            trace = self._captured(pipe, names, half)[0]
            with stream(pipe, self.other_prompt, blocks=names, guidance=half) as maps:
                self._run(pipe)
            expected = trace.maps(self.other_prompt).token_maps
            # tiny pipelines: 1e-7, from the order of additions
            assert_close(maps[0].token_maps, expected, 1e-5, f"streamed maps of the {half!r} half")

    def test_a_planted_token_is_recovered(self) -> None:
        """For one denoiser call; if keys are replayed, gradients pass through the replay of every block."""
        pipe = self.make_pipe()
        trace = self._captured(pipe, self._names(pipe))[0]
        assert_recovered(trace.select(steps=[1]), self.other_prompt)

    def _assert_reproduced(self, pipe: Any, **changes: Any) -> Trace:
        """Assert that weights of the run's own padded prompts are the model's, in each half, block, head and step."""
        guided = self.has_halves and changes.get("guidance_scale", self.guidance_scale) > 1
        names = self._names(pipe)
        prompt_text = self._text_of_prompt(pipe)
        with self.recorded_attention(pipe, names) as own, self.observed_grids(pipe, names) as shapes:
            trace = self._captured(pipe, names, "both" if guided else "cond", **changes)[0]
        assert_sharp(own)
        prompts: dict[Half, str | None] = {"cond": self.run_arguments()["prompt"]}
        if guided:
            prompts["uncond"] = changes.get("negative_prompt")
        for half, prompt in prompts.items():
            if prompt is not None:
                expected = {name: rows_of(half, calls, prompt_text) for name, calls in own.items()}
                assert_reproduced(trace, half, prompt, expected, self.tolerance, self.softmax_over)
        for name, block in trace.blocks.items():
            assert block.grid == shapes[name], f"block {name!r} has the grid {shapes[name]}, not {block.grid}"
        return trace

    def _assert_kernels_queries(self, pipe: Any) -> None:
        """Assert that the queries of a run, in the denoiser's type, equal those of the attention kernel bit by bit."""
        names, denoiser = self._names(pipe), backbone_of(pipe).denoiser
        dtype = next(denoiser.parameters()).dtype
        with spied_kernel(denoiser, names) as received:
            trace = self._captured(pipe, names, dtype=dtype, guidance_scale=1.0)[0]
        assert_received(trace, {name: [query for query, _ in pairs] for name, pairs in received.items()})


def _all_maps(trace: Trace, prompt: str) -> Tensor:
    return trace.maps(prompt, keep=("head", "step")).token_maps


def _picture(trace: Trace) -> Tensor:
    return torch.tensor(np.asarray(trace.image), dtype=torch.float32)
