"""Which blocks were seen at which calls, and what becomes of calls that lack some."""

import pytest
import torch

import ovam
import tiny
from exact import RUN, run
from ovam.errors import NothingCapturedError, SilentBlockError
from ovam.testing import assert_same_image

FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def cached(pipe, block, every):
    """Let a part of the denoiser run in every so many calls, and give its last result again in the others."""
    forward, calls, kept = block.forward, [0], []

    def replacement(*args, **kwargs):
        if calls[0] % every == 0:
            kept[:] = [forward(*args, **kwargs)]
        calls[0] += 1
        return kept[0]

    block.forward = replacement
    return calls


def restart(calls):
    calls[0] = 0


def test_a_run_without_gaps():
    pipe = tiny.sd1()
    with ovam.capture(pipe, steps=[1, 2]) as traces:
        run(pipe)
        run(pipe, {**RUN, "num_inference_steps": 4})
    first, second = traces.coverage
    assert first.blocks == tuple(traces[0].blocks)
    assert [call.index for call in second.calls] == [0, 1, 2, 3]
    assert second.seen == (frozenset(second.blocks),) * 4
    assert (first.kept, second.kept) == ((1, 2), (1, 2))
    assert traces.coverage.gaps == ()
    lines = str(traces.coverage).splitlines()
    assert lines[0] == "3 denoiser calls, 2 kept: 1-2"
    assert lines[2].split() == [FIRST, "0-2", "-"]


class TestGaps:
    ARGUMENTS = {**RUN, "num_inference_steps": 5}  # noqa: RUF012

    def test_strict_fails_at_the_first(self):
        pipe = tiny.sd1()
        calls = cached(pipe, pipe.unet.down_blocks[0], 2)
        with ovam.capture(pipe) as traces:
            with pytest.raises(SilentBlockError, match=r"1 of the 6.*call 1, such as 'down_blocks\.0.*strict=False"):
                run(pipe, self.ARGUMENTS)
            assert calls == [2]
        assert len(traces) == 0
        (coverage,) = traces.coverage
        assert not coverage.complete
        assert coverage.gaps == ((FIRST, 1),)

    def test_otherwise_only_whole_calls_are_kept(self):
        pipe = tiny.sd1()
        calls = cached(pipe, pipe.unet.down_blocks[0], 2)
        plain = run(pipe, self.ARGUMENTS)
        restart(calls)
        with ovam.capture(pipe, strict=False, dtype=torch.float32) as traces:
            assert_same_image(run(pipe, self.ARGUMENTS), plain)
        restart(calls)
        with ovam.capture(pipe, blocks=["up_blocks"], dtype=torch.float32) as others:
            run(pipe, self.ARGUMENTS)
        (trace,) = traces
        assert [call.index for call in trace.calls] == [0, 2, 4]
        for name, block in others[0].blocks.items():
            assert torch.equal(trace.blocks[name].query["cond"], block.query["cond"][:, [0, 2, 4]])
        assert traces.coverage[0].kept == (0, 2, 4)
        assert traces.coverage.gaps == ((FIRST, 1), (FIRST, 3))
        assert f"{FIRST:53}  0, 2, 4       1, 3" in str(traces.coverage)
        assert trace.maps("dog")["dog"].shape == (16, 16)

    def test_steps_that_were_not_chosen_may_have_gaps(self):
        pipe = tiny.sd1()
        cached(pipe, pipe.unet.down_blocks[0], 2)
        with ovam.capture(pipe, steps=[0, 4]) as traces:
            run(pipe, self.ARGUMENTS)
        assert [call.index for call in traces[0].calls] == [0, 4]
        assert traces.coverage[0].kept == (0, 4)

    def test_no_whole_call_is_refused(self):
        pipe = tiny.sd1()
        calls = cached(pipe, pipe.unet.down_blocks[0], 100)
        run(pipe)
        calls[0] = 1  # what was kept before the capture is all it ever gives
        with (
            ovam.capture(pipe, strict=False) as traces,
            pytest.raises(SilentBlockError, match="so that no call is complete"),
        ):
            run(pipe)
        assert issubclass(SilentBlockError, NothingCapturedError)
        assert traces.coverage.gaps == ((FIRST, 0), (FIRST, 1), (FIRST, 2))

    def test_a_gap_in_one_pass_of_two_leaves_the_call_out(self):
        """FLUX with true guidance evaluates the halves one after the other."""
        pipe = tiny.flux()
        guided = {"true_cfg_scale": 2.0, "negative_prompt": "a tree", "max_sequence_length": 16}
        block, passes = pipe.transformer.single_transformer_blocks[1], []
        forward = block.forward

        def skipping(hidden_states, encoder_hidden_states, *args, **kwargs):
            passes.append(1)
            if len(passes) == 4:  # the negative prompt's pass of the second call
                return encoder_hidden_states, hidden_states
            return forward(hidden_states, encoder_hidden_states, *args, **kwargs)

        block.forward = skipping
        for guidance, expected in (("both", [0, 2]), ("cond", [0, 1, 2])):
            passes.clear()
            with ovam.capture(pipe, strict=False, guidance=guidance) as traces:
                run(pipe, {**RUN, **guided})
            assert [call.index for call in traces[0].calls] == expected


def test_before_any_run():
    with ovam.capture(tiny.sd1()) as traces:
        assert str(traces.coverage) == "no run was seen"
