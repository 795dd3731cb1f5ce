"""Averaged self-attention, held against what torch's attention kernel was called with, by plain loops in float64."""

import json
import logging

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPAGPipeline

import ovam
import reference
import tiny
from exact import repeated
from ovam.errors import (
    CaptureTooLargeError,
    MissingBlockError,
    OptionError,
    TraceFileError,
    UnsupportedPipelineError,
)
from ovam.testing import assert_restored, assert_same_image, snapshot
from ovam.testing.assertions import spied_kernel
from test_trace_file import contents, damage

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = {"height": 24, "width": 32}
COARSE = (6, 8)
BLOCK = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
GIB = 2**30


def sharp(pipe):
    """Scale queries and keys of self-attention: at random weights it is even, and all of its pixels are alike."""
    with torch.no_grad():
        for name, module in pipe.unet.named_modules():
            if name.endswith("attn1"):
                module.to_q.weight *= 6
                module.to_k.weight *= 6
    return pipe


@pytest.fixture
def pipe():
    return sharp(tiny.sd1())


def generate(pipe, prompt="a dog on the grass", **changes):
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, **{"num_inference_steps": 3, "generator": generator, "output_type": "np", **SIZE, **changes})


def captured(pipe, self_attention=COARSE, *, run=generate, **options):
    """Traces of a run, and by block what the kernel was called with in each denoiser call, both with all rows."""
    names = [name for name, _ in pipe.unet.named_modules() if name.endswith("attn1")]
    named = self_attention if isinstance(self_attention, bool) else [self_attention]
    settings = {"self_attention": named, **options}
    with spied_kernel(pipe.unet, names) as received, ovam.capture(pipe, **settings) as traces:
        run(pipe)
    return traces, received


def assert_averages(trace, received, row, *, half="cond", counted=slice(None)):
    """The weights of every kept block are those of this row of the batch, over the trace's calls, or some of them."""
    assert trace.self_attention
    for name, average in trace.self_attention.items():
        taken = [received[name][call.index] for call in trace.calls[counted]]
        pairs = [tuple(part[row].double().numpy() for part in pair) for pair in taken]
        expected = reference.self_attention(pairs, pairs[0][0].shape[-1] ** -0.5)
        assert average.values[half].dtype == torch.float32
        # measured: 3.2e-7, from float32 scores
        np.testing.assert_allclose(average.values[half].numpy(), expected, rtol=0, atol=3e-6)


class TestWeights:
    @pytest.mark.parametrize(
        ("make", "fused"), [(tiny.sd1, False), (tiny.sd1, True), (tiny.sd2, False), (tiny.sdxl, False)]
    )
    def test_are_the_kernel_s_of_both_halves_of_two_images(self, make, fused):
        pipe = sharp(make())
        if fused:
            pipe.fuse_qkv_projections()
        prompts = ["a dog", "a red boat"]
        traces, received = captured(
            pipe,
            guidance="both",
            steps=[0, 2],
            run=lambda pipe: generate(pipe, prompts, negative_prompt=["sky", "sea"]),
        )
        first, second = traces
        assert [call.index for call in first.calls] == [0, 2]
        assert_averages(first, received, 2, half="cond")
        assert_averages(second, received, 1, half="uncond")
        for average in first.self_attention.values():
            assert average.grid == COARSE
            weights = average.values["cond"]
            assert weights.amax(1).median() > 0.1  # so sharp that a wrong pixel shows; an even one has 0.02
            # measured: 2.4e-7
            torch.testing.assert_close(weights.sum(1), torch.ones(48), rtol=0, atol=3e-6)

    @pytest.mark.parametrize(
        ("every", "steps", "counted"),
        [(2, None, slice(1, None, 2)), (3, [0, 1, 3, 4], slice(1, 2)), (9, None, slice(4, 5)), (20, None, slice(4, 5))],
    )
    def test_can_be_of_some_calls(self, every, steps, counted, pipe):
        traces, received = captured(
            pipe,
            self_attention_every=every,
            steps=steps,
            run=lambda pipe: generate(pipe, num_inference_steps=5),
        )
        assert len(traces[0].calls) == (5 if steps is None else 4)
        assert_averages(traces[0], received, 1, counted=counted)

    @pytest.mark.parametrize("guidance", ["cond", "both"])
    def test_are_of_the_last_call_where_a_run_ends_before_the_first_one_that_counts(self, guidance, pipe):
        def stop(pipe, step, timestep, tensors):
            pipe._interrupt = step == 1
            return tensors

        traces, received = captured(
            pipe,
            self_attention_every=7,
            guidance=guidance,
            run=lambda pipe: generate(pipe, num_inference_steps=5, callback_on_step_end=stop),
        )
        assert len(traces[0].calls) == 2
        assert_averages(traces[0], received, 1, counted=slice(1, 2))
        if guidance == "both":
            assert_averages(traces[0], received, 0, half="uncond", counted=slice(1, 2))

    def test_are_float32_where_the_model_runs_in_autocast(self, pipe):
        with torch.autocast("cpu", torch.bfloat16):
            traces, received = captured(pipe)
        assert_averages(traces[0], received, 1)

    @pytest.mark.parametrize(("layer", "made"), [("to_q", "two queries"), ("to_k", "two keys")])
    def test_layers_that_run_twice_are_refused(self, pipe, layer, made):
        refused = pytest.raises(UnsupportedPipelineError, match=f"{BLOCK}.*{made}")
        with repeated(pipe.unet.get_submodule(BLOCK), layer), refused:
            captured(pipe, BLOCK)

    def test_are_of_the_blocks_that_were_named(self, pipe):
        traces, received = captured(pipe, BLOCK)
        assert list(traces[0].self_attention) == [BLOCK]
        assert_averages(traces[0], received, 1)

    def test_rows_of_perturbed_attention_are_left_out(self):
        plain = sharp(tiny.sd1())
        pipe = StableDiffusionPAGPipeline(**plain.components, requires_safety_checker=False, pag_applied_layers=["mid"])
        pipe.set_progress_bar_config(disable=True)
        traces, received = captured(pipe, "mid_block", guidance="both")
        assert_averages(traces[0], received, 1)
        assert_averages(traces[0], received, 0, half="uncond")

    def test_calls_that_are_left_out_are_not_averaged(self, pipe):
        """A cache leaves a block out of every other call, after others have shown their self-attention."""
        part, calls = pipe.unet.up_blocks[2], []
        forward = part.forward

        def skipping(*args, **kwargs):
            calls.append(forward(*args, **kwargs) if len(calls) % 2 == 0 else calls[-1])
            return calls[-1]

        part.forward = skipping
        traces, received = captured(pipe, BLOCK, strict=False, run=lambda pipe: generate(pipe, num_inference_steps=4))
        assert [call.index for call in traces[0].calls] == [0, 2]
        assert_averages(traces[0], received, 1)

    @pytest.mark.parametrize("where", ["memory", "disk"])
    def test_more_calls_than_were_planned(self, pipe, tmp_path, where):
        """A loop of the user's own: the room for queries grows, and the average moves with it."""

        def loop(pipe):
            latent = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                for timestep in (903, 702, 501, 304, 203):
                    pipe.unet(latent, timestep, encoder_hidden_states=torch.zeros(1, 77, 32))

        traces, received = captured(pipe, BLOCK, run=loop, disk=tmp_path if where == "disk" else None)
        assert len(traces[0].calls) == 5
        assert_averages(traces[0], received, 0)

    def test_of_a_real_image(self, pipe):
        picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
        with spied_kernel(pipe.unet, [BLOCK]) as received:
            options = {"timesteps": (100, 500), "size": (24, 32), "self_attention": BLOCK}
            trace = ovam.encode(pipe, picture, prompt="a dog", **options)
        assert trace.source.kind == "encoded"
        assert_averages(trace, received, 0)

    def test_no_call_gives_no_average(self, pipe):
        """An interrupted run that never came to the chosen step."""

        def stop(pipe, step, timestep, arguments):
            pipe._interrupt = True
            return arguments

        traces, _ = captured(pipe, steps=[2], run=lambda pipe: generate(pipe, callback_on_step_end=stop))
        assert traces[0].self_attention == {}


class TestPipeline:
    @pytest.mark.parametrize("fused", [False, True])
    def test_image_and_pipeline_stay_as_they_were(self, pipe, fused):
        if fused:
            pipe.fuse_qkv_projections()
        plain = generate(pipe).images
        before = snapshot(pipe)
        with ovam.capture(pipe, self_attention=["down_blocks", "mid_block", "up_blocks"]) as traces:
            assert_same_image(generate(pipe).images, plain)
        assert_restored(pipe, before, "after a capture of self-attention")
        assert len(traces[0].self_attention) == 7

    def test_a_call_that_broke_off_leaves_nothing(self, pipe):
        """Between query and key of a chosen block, in the second call; the next run of the same capture is whole."""
        generate(pipe)
        before, calls = snapshot(pipe), []

        def broken(layer, inputs):
            calls.append(layer)
            if len(calls) == 2:
                raise ZeroDivisionError

        with ovam.capture(pipe, self_attention=BLOCK) as traces:
            handle = pipe.unet.get_submodule(BLOCK).to_k.register_forward_pre_hook(broken)
            with pytest.raises(ZeroDivisionError):
                generate(pipe)
            handle.remove()
            with spied_kernel(pipe.unet, [BLOCK]) as received:
                generate(pipe)
        assert_restored(pipe, before, "after a run that broke off and one that did not")
        (trace,) = traces
        assert_averages(trace, received, 1)

    def test_nothing_is_watched_where_none_is_asked_for(self, pipe):
        layers = [getattr(pipe.unet.get_submodule(BLOCK), layer) for layer in ("to_q", "to_k")]
        seen = []

        def look(pipe, step, timestep, arguments):
            seen.extend(len(layer._forward_hooks) for layer in layers)
            return arguments

        with ovam.capture(pipe) as traces:
            generate(pipe, callback_on_step_end=look)
        assert seen == [0] * 6
        assert traces[0].self_attention == {}


class TestSize:
    def test_is_planned_announced_and_kept(self, pipe, caplog):
        options = {"blocks": [COARSE], "self_attention": [BLOCK, (12, 16)], "guidance": "both", "dtype": torch.float32}
        with caplog.at_level(logging.INFO, logger="ovam"), ovam.capture(pipe, **options) as traces:
            generate(pipe, ["a dog", "a cat"])
        planned = ovam.plan(pipe, num_inference_steps=3, images=2, **options, **SIZE)
        assert planned.nbytes == sum(trace.nbytes for trace in traces)
        kept = {
            block.name: block.parts["self-attention"] for block in planned.blocks if "self-attention" in block.parts
        }
        assert kept == {
            name: 4 * 4 * (average.grid[0] * average.grid[1]) ** 2 for name, average in traces[0].self_attention.items()
        }
        assert f"self-attention of {len(kept)} blocks" in caplog.text
        assert f"{planned.nbytes / GIB:.3f} GiB" in caplog.text

    def test_the_limit_is_on_it_too(self, pipe):
        planned = ovam.plan(pipe, num_inference_steps=3, self_attention=BLOCK, **SIZE)
        with ovam.capture(pipe, self_attention=BLOCK, limit_gib=planned.nbytes / GIB):
            generate(pipe)
        refusing = ovam.capture(pipe, self_attention=BLOCK, limit_gib=(planned.nbytes - 1) / GIB)
        message = (
            r"self_attention of fewer blocks or coarser grids(.|\n)*self-attention, MiB(.|\n)*up_blocks\.1.*attn1 "
        )
        with refusing, pytest.raises(CaptureTooLargeError, match=message):
            generate(pipe)


def up_blocks_of(pipe, grid_height):
    """Self-attention blocks on the way up at a grid of this height."""
    level = {12: "up_blocks.2", 6: "up_blocks.1"}[grid_height]
    return [name for name, _ in pipe.unet.named_modules() if name.startswith(level) and name.endswith("attn1")]


class TestMeanOfAGrid:
    """What is kept without naming blocks: one mean for all blocks on the way up at a grid."""

    def test_is_over_blocks_heads_and_calls(self, pipe):
        traces, received = captured(pipe, self_attention=True)
        parts = traces[0].self_attention
        assert {name: part.grid for name, part in parts.items()} == {"6x8": (6, 8), "12x16": (12, 16)}
        for part in parts.values():
            each = [
                reference.self_attention(
                    [tuple(side[1].double().numpy() for side in call) for call in received[block]],
                    pipe.unet.get_submodule(block).scale,
                )
                for block in up_blocks_of(pipe, part.grid[0])
            ]
            assert len(each) > 1
            # measured: 2.4e-7, from float32 scores
            np.testing.assert_allclose(part.values["cond"].numpy(), np.mean(each, axis=0), rtol=0, atol=3e-6)

    def test_costs_less_than_a_fifth_of_the_queries_unless_asked_for(self, pipe):
        few, many = (ovam.plan(pipe, height=24, width=32, num_inference_steps=n) for n in (10, 200))
        cost = [[block.parts.get("self-attention", 0) for block in plan.blocks] for plan in (few, many)]
        queries = [sum(block.parts.get("queries", 0) for block in plan.blocks) for plan in (few, many)]
        assert [sum(each > 0 for each in costs) for costs in cost] == [1, 2]  # the coarse grid, then the fine one too
        assert all(sum(costs) < total / 5 for costs, total in zip(cost, queries, strict=True))

    def test_may_be_of_the_finest_grid_alone(self, pipe):
        """What maps are refined by unless blocks are chosen, so the refined maps are the same."""
        (every,), _ = captured(pipe, self_attention=True)
        with ovam.capture(pipe, self_attention="finest") as traces:
            generate(pipe)
        (finest,) = traces
        assert set(finest.self_attention) == {"12x16"}
        one, other = (trace.maps(["dog"]).refine()["dog"] for trace in (every, finest))
        torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_may_be_left_out(self, pipe):
        traces, _ = captured(pipe, self_attention=False)
        assert traces[0].self_attention == {}

    def test_is_the_same_in_a_stream(self, pipe):
        traces, _ = captured(pipe, self_attention=True)
        with ovam.stream(pipe, ["dog"], self_attention=True) as maps:
            generate(pipe)
        for name, part in traces[0].self_attention.items():
            torch.testing.assert_close(maps[0].self_attention[name].weights, part.values["cond"], rtol=0, atol=1e-6)
        refined = traces[0].maps(["dog"]).refine()["dog"]
        torch.testing.assert_close(maps[0].refine()["dog"], refined, rtol=0, atol=1e-4)  # queries kept in float16

    def test_is_left_out_where_it_can_t_be_read(self, pipe):
        """Something merges pixels before a layer that nobody asked for: the capture goes on without it."""

        def merged(layer, inputs, output):
            return output[:, ::2]

        block = pipe.unet.get_submodule(up_blocks_of(pipe, 6)[0])
        handles = [layer.register_forward_hook(merged) for layer in (block.to_k, block.to_v)]
        with ovam.capture(pipe) as traces:
            generate(pipe, num_inference_steps=30)
        with ovam.capture(pipe, self_attention=True), pytest.raises(UnsupportedPipelineError, match="attends to 24"):
            generate(pipe)
        for handle in handles:
            handle.remove()
        assert "6x8" in traces[0].self_attention  # the mean of the other blocks of this grid
        torch.testing.assert_close(
            traces[0].self_attention["6x8"].values["cond"].sum(1), torch.ones(48), rtol=0, atol=3e-6
        )

    @pytest.mark.parametrize("family", ["sd3", "flux"])
    def test_of_joint_attention_is_from_image_to_image(self, family):
        pipe = getattr(tiny, family)()
        with ovam.capture(pipe, self_attention=True, dtype=torch.float32) as traces:
            pipe("a dog", num_inference_steps=2, height=32, width=32, generator=torch.Generator().manual_seed(0))
        (trace,) = traces
        (part,) = trace.self_attention.values()
        names = list(trace.blocks)
        middle = names[len(names) // 3 : -(-2 * len(names) // 3)]
        each = []
        for name in middle:
            query, key = trace.blocks[name].query["cond"], trace.replay.blocks[name].key["cond"]
            calls = [(query[:, i].double().numpy(), key[:, i].double().numpy()) for i in range(query.shape[1])]
            each.append(reference.self_attention(calls, trace.blocks[name].scale))
        # measured: 9e-8
        np.testing.assert_allclose(part.values["cond"].numpy(), np.mean(each, axis=0), rtol=0, atol=3e-6)
        assert trace.maps(["dog"]).refine()["dog"].isfinite().all()

    def test_comes_back_from_a_file(self, pipe, tmp_path):
        traces, _ = captured(pipe, self_attention=True)
        traces[0].save(tmp_path / "run.safetensors")
        loaded = ovam.Trace.load(tmp_path / "run.safetensors", text=pipe)
        maps, again = (trace.maps(["dog"]).refine().token_maps for trace in (traces[0], loaded))
        assert torch.equal(maps, again)


class TestChoice:
    @pytest.mark.parametrize("choice", [[9], [(8, 6)], "up_block", [BLOCK.replace("attn1", "attn2")], []])
    def test_what_is_not_there_is_told(self, pipe, choice):
        message = r"of the 7 blocks here.*12x16, 6x8, 3x4.*down_blocks\.0\S*attn1"
        with pytest.raises(MissingBlockError, match=message), ovam.capture(pipe, self_attention=choice):
            generate(pipe)

    def test_blocks_are_none_of_self_attention(self, pipe):
        with pytest.raises(MissingBlockError, match=r"of the 7 blocks here.*attn2"):
            ovam.plan(pipe, blocks=[BLOCK])
        assert all(name.endswith("attn2") for name in captured(pipe, BLOCK, blocks=["up_blocks.1"])[0][0].blocks)

    @pytest.mark.parametrize("family", ["pixart_alpha"])
    def test_families_without_are_named(self, family):
        pipe = getattr(tiny, family)()
        image = np.zeros((32, 32, 3), np.uint8)
        for ask in (
            lambda **options: ovam.capture(pipe, **options).__enter__(),
            lambda **options: ovam.plan(pipe, **options),
            lambda **options: ovam.encode(pipe, image, **options),
        ):
            with pytest.raises(OptionError, match=rf"self_attention=8 on a {type(pipe).__name__}.*a UNet"):
                ask(self_attention=8)


@pytest.fixture(scope="module")
def trace():
    return captured(sharp(tiny.sd1()), guidance="both")[0][0]


class TestSelection:
    def test_blocks_leave_it(self, trace):
        assert trace.select(blocks=["up_blocks.1"]).self_attention is trace.self_attention

    def test_other_steps_have_none(self, trace):
        assert trace.select(steps=[0, 1]).self_attention == {}
        assert trace.select(steps=[0, 1, 2]).self_attention is trace.self_attention


TENSOR = f"self_attention/cond/{BLOCK}"
DAMAGE = {
    "gone": (damage(lambda header, tensors: tensors.pop(TENSOR)), "incomplete.*attn1"),
    "other type": (
        damage(lambda header, tensors: tensors.update({TENSOR: tensors[TENSOR].half()})),
        "type torch.float16",
    ),
    "other shape": (damage(lambda header, tensors: tensors.update({TENSOR: tensors[TENSOR][1:]})), r"\(47, 48\)"),
    "other grid": (
        damage(lambda header, tensors: header["self_attention"][0].update(grid=[6, 6])),
        "header says a grid of 6 x 6",
    ),
    "no list": (damage(lambda header, tensors: header.update(self_attention=3)), "incomplete"),
}


class TestFile:
    @pytest.fixture
    def path(self, trace, tmp_path):
        trace.save(tmp_path / "run.safetensors")
        return tmp_path / "run.safetensors"

    def test_comes_back(self, trace, path, tmp_path):
        loaded = ovam.Trace.load(path)
        assert list(loaded.self_attention) == list(trace.self_attention)
        for name, average in loaded.self_attention.items():
            assert (average.name, average.grid) == (name, COARSE)
            for half in ("cond", "uncond"):
                assert torch.equal(average.values[half], trace.self_attention[name].values[half])
        assert loaded.nbytes == trace.nbytes
        loaded.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_is_of_format_1_and_leaves_other_traces_as_they_were(self, trace, path, tmp_path):
        header, tensors = contents(path)
        assert header["format_version"] == 1
        assert header["self_attention"] == [{"name": name, "grid": [6, 8]} for name in trace.self_attention]
        assert {f"self_attention/{half}/{name}" for half in trace.halves for name in trace.self_attention} < {*tensors}
        trace.select(steps=[0]).save(tmp_path / "without.safetensors")
        assert "self_attention" not in json.dumps(contents(tmp_path / "without.safetensors")[0])

    @pytest.mark.parametrize("case", DAMAGE)
    def test_damage_is_told(self, path, case):
        apply, message = DAMAGE[case]
        apply(path)
        with pytest.raises(TraceFileError, match=message):
            ovam.Trace.load(path)
