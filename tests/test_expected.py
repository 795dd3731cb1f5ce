"""What a capture sees is checked against what it expects: rows, calls a step, halves, threads, copies."""

import copy
import threading

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from diffusers.models.attention_processor import AttnProcessor2_0

import ovam
import tiny
from exact import RUN, run
from ovam.errors import UnsupportedPipelineError
from ovam.testing import assert_restored, assert_same_image, snapshot

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAME = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"


class Reordering(AttnProcessor2_0):
    """Attention of exchanged rows, exchanged back behind it: the image is the same."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        text = None if encoder_hidden_states is None else encoder_hidden_states.flip(0)
        return super().__call__(attn, hidden_states.flip(0), text, **options).flip(0)


class Repeating(AttnProcessor2_0):
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        rows = len(hidden_states)
        text = None if encoder_hidden_states is None else encoder_hidden_states.repeat(2, 1, 1)
        return super().__call__(attn, hidden_states.repeat(2, 1, 1), text, **options)[:rows]


class Copying(AttnProcessor2_0):
    """The same numbers in other memory."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        return super().__call__(attn, hidden_states.clone(), encoder_hidden_states, **options)


class Shifting(AttnProcessor2_0):
    """Other numbers in the same places."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **options):
        return super().__call__(attn, hidden_states + 0.1, encoder_hidden_states, **options)


class TestRows:
    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("processor", "message"),
        [(Reordering, "row 1 of its batch in the place of row 0"), (Repeating, "4 rows for the 2 of its batch")],
    )
    @pytest.mark.parametrize("options", [{}, {"self_attention": [8], "blocks": [16]}], ids=["cross", "self"])
    def test_repeated_or_in_another_order(self, processor, message, options):
        pipe = tiny.sd1()
        block = NAME if not options else NAME.replace("attn2", "attn1")
        pipe.unet.get_submodule(block).set_processor(processor())
        run(pipe)
        before = snapshot(pipe)
        with (
            ovam.capture(pipe, **options),
            pytest.raises(UnsupportedPipelineError, match=f"{block}' projects {message}"),
        ):
            run(pipe)
        assert_restored(pipe, before, "after a run that was refused")

    @pytest.mark.parametrize("make", [tiny.sd3, tiny.flux], ids=lambda make: make.__name__)
    def test_in_joint_attention(self, make):
        pipe = make()
        module = pipe.transformer.transformer_blocks[1].attn

        def reordered(layer, args, kwargs):
            return args, {name: part.flip(0) if "hidden" in name else part for name, part in kwargs.items()}

        forward = module.forward
        module.forward = lambda **options: [part.flip(0) for part in forward(**reordered(None, (), options)[1])]
        with ovam.capture(pipe), pytest.raises(UnsupportedPipelineError, match=r"blocks\.1\.attn' projects row [13]"):
            run(pipe, {**RUN, "max_sequence_length": 16, "num_images_per_prompt": 2})

    @pytest.mark.parametrize("processor", [Copying, Shifting])
    def test_in_their_places(self, processor):
        pipe = tiny.sd1()
        pipe.unet.get_submodule(NAME).set_processor(processor())
        with ovam.capture(pipe) as traces:
            run(pipe)
        assert len(traces) == 1


class Referring(StableDiffusionPipeline):
    """Looks at another latent before each of its own calls, as reference-only pipelines do."""

    def __call__(self, *args, **kwargs):
        def look(module, inputs, options):
            if not looking:
                looking.append(1)
                module(torch.zeros_like(inputs[0]), inputs[1], encoder_hidden_states=options["encoder_hidden_states"])
                looking.clear()

        looking = []
        handle = self.unet.register_forward_pre_hook(look, with_kwargs=True)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            handle.remove()


class OptimisedEmpty(StableDiffusionPipeline):
    """Runs the halves in two calls, the unconditional one with vectors of its own, as null-text inversion does."""

    @torch.no_grad()
    def __call__(self, prompt, empty, steps=2):
        self._guidance_scale = 7.5
        self.check_inputs(prompt, 32, 32, None)
        vectors, _ = self.encode_prompt(prompt, "cpu", 1, self.do_classifier_free_guidance)
        self.scheduler.set_timesteps(steps)
        latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        for timestep in self.scheduler.timesteps:
            uncond, cond = (self.unet(latent, timestep, encoder_hidden_states=text).sample for text in (empty, vectors))
            latent = self.scheduler.step(uncond + 7.5 * (cond - uncond), timestep, latent).prev_sample
        self.maybe_free_model_hooks()


def derived(kind):
    pipe = kind(**tiny.sd1().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TestCallsAStep:
    def test_more_than_the_schedulers_are_refused(self):
        pipe = derived(Referring)
        expected = r"Referring calls its denoiser again at the time step 667 \(denoiser call 1\).*reference picture"
        with ovam.capture(pipe) as traces, pytest.raises(UnsupportedPipelineError, match=expected):
            run(pipe)
        assert len(traces) == 0

    def test_vectors_that_are_no_texts_are_named(self):
        pipe = derived(OptimisedEmpty)
        with ovam.capture(pipe), pytest.raises(UnsupportedPipelineError, match=r"neither the prompt's.*NullTextPip"):
            pipe("a dog", torch.zeros(1, 77, 32))

    @pytest.mark.parametrize("guidance", ["cond", "uncond", "both"])
    def test_halves_in_two_calls_are_told_apart_by_their_text(self, guidance):
        pipe = derived(OptimisedEmpty)
        empty = pipe.encode_prompt("", "cpu", 1, False)[0]
        with ovam.capture(pipe, guidance=guidance, dtype=torch.float32, self_attention=[16]) as traces:
            pipe("a dog", empty)
        with ovam.capture(pipe, guidance=guidance, dtype=torch.float32, self_attention=[16]) as expected:
            own_loop(pipe, whole=True)
        assert [call.step for call in traces[0].calls] == [0, 1]
        assert_alike(traces[0], expected[0])


def own_loop(pipe, *, whole, prompts="a dog"):
    """A guided loop of the user's own, with both halves in one call or in two."""
    with torch.no_grad():
        vectors, empty = pipe.encode_prompt(prompts, "cpu", 1, True)
        denoise(pipe, vectors, empty, whole=whole)


def denoise(pipe, vectors, empty, *, whole):
    pipe.scheduler.set_timesteps(2)
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for timestep in pipe.scheduler.timesteps:
        if whole:
            found = pipe.unet(torch.cat([latent] * 2), timestep, torch.cat([empty, vectors])).sample
            uncond, cond = found.chunk(2)
        else:
            uncond, cond = (pipe.unet(latent, timestep, encoder_hidden_states=text).sample for text in (empty, vectors))
        latent = pipe.scheduler.step(uncond + 7.5 * (cond - uncond), timestep, latent).prev_sample


def assert_alike(trace, expected):
    """The same queries and averages, but for the rounding of another size of batch."""
    assert trace.halves == expected.halves
    for name, block in trace.blocks.items():
        for half, query in block.query.items():
            torch.testing.assert_close(query, expected.blocks[name].query[half], rtol=0, atol=1e-3)  # measured: 6e-5
    for name, average in trace.self_attention.items():
        for half, weights in average.values.items():
            torch.testing.assert_close(weights, expected.self_attention[name].values[half], rtol=0, atol=1e-5)


class TestOwnLoops:
    @pytest.mark.parametrize("guidance", ["cond", "uncond", "both"])
    def test_halves_in_two_calls(self, guidance, caplog):
        pipe = tiny.sd1()
        traces = []
        for whole in (True, False):
            with ovam.capture(pipe, guidance=guidance, dtype=torch.float32) as captured:
                own_loop(pipe, whole=whole)
            traces += captured
        assert_alike(traces[1], traces[0])
        assert traces[1].source.prompt == "a dog"
        assert "another text" not in caplog.text

    def test_of_texts_that_were_encoded_elsewhere_are_warned_of(self, caplog):
        pipe = tiny.sd1()
        vectors, empty = pipe.encode_prompt("a dog", "cpu", 1, True)
        with ovam.capture(pipe) as traces, torch.no_grad():
            denoise(pipe, vectors, empty, whole=False)
        assert len(traces[0].calls) == 4
        assert caplog.text.count("again at the time step 501 with another text") == 1

    def test_several_looks_at_one_text_are_not(self, caplog):
        pipe = tiny.sd1()
        with ovam.capture(pipe), torch.no_grad():
            for _ in range(3):
                pipe.unet(torch.randn(1, 4, 16, 16), 501, encoder_hidden_states=torch.zeros(1, 77, 32))
        assert "another text" not in caplog.text


class TestGuidanceSwitchedOff:
    CASES = ((tiny.sd1, SDCFGCutoffCallback), (tiny.sdxl, SDXLCFGCutoffCallback))

    @pytest.mark.parametrize(("make", "callback"), CASES)
    def test_the_prompts_half_is_kept_of_all_calls(self, make, callback):
        pipe, arguments = make(), {**RUN, "num_inference_steps": 4}
        off = {**arguments, "callback_on_step_end": callback(cutoff_step_ratio=None, cutoff_step_index=1)}
        plain = run(pipe, off)
        with ovam.capture(pipe, dtype=torch.float32, self_attention=[8]) as traces:
            assert_same_image(run(pipe, off), plain)
        (trace,) = traces
        assert [call.index for call in trace.calls] == [0, 1, 2, 3]
        with ovam.capture(pipe, dtype=torch.float32) as others:
            run(pipe, arguments)
        (whole,) = others
        for name, block in trace.blocks.items():
            assert torch.equal(block.query["cond"][:, :2], whole.blocks[name].query["cond"][:, :2])
        with ovam.stream(pipe, "dog") as maps:
            run(pipe, off)
        torch.testing.assert_close(maps[0].token_maps, trace.maps("dog").token_maps, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("guidance", ["uncond", "both"])
    def test_of_the_other_half_the_calls_that_had_it(self, guidance, caplog):
        pipe, arguments = tiny.sd1(), {**RUN, "num_inference_steps": 4}
        off = {**arguments, "callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)}
        options = {"guidance": guidance, "dtype": torch.float32, "self_attention": [8]}
        with ovam.capture(pipe, **options) as traces:
            run(pipe, off)
        assert "guidance was switched off at denoiser call 2" in caplog.text
        with ovam.capture(pipe, **options, steps=[0, 1]) as expected:
            run(pipe, arguments)
        assert [call.index for call in traces[0].calls] == [0, 1]
        for name, block in traces[0].blocks.items():
            for half, query in block.query.items():
                assert torch.equal(query, expected[0].blocks[name].query[half])
        for name, average in traces[0].self_attention.items():
            for half, weights in average.values.items():
                assert torch.equal(weights, expected[0].self_attention[name].values[half])


class TestThreads:
    def test_runs_of_two_at_once_are_refused(self):
        """The second begins while the first is at work, and both go on."""
        pipe, begun, refused = tiny.sd1(), threading.Event(), threading.Event()
        second = threading.Thread(target=lambda: self.refused(pipe, lambda: (begun.set(), refused.wait(20))))

        def first():
            self.refused(pipe, lambda: (second.start(), begun.wait(20)))
            refused.set()

        with ovam.capture(pipe) as traces:
            together(first)
            second.join()
            assert len(traces) == 0
            run(pipe)
        assert len(traces) == 1

    def test_a_run_within_anothers_pause(self):
        pipe = tiny.sd1()
        with ovam.capture(pipe) as traces:
            together(lambda: self.refused(pipe, lambda: together(lambda: run(pipe, {**RUN, "prompt": "a cat"}))))
            run(pipe)
        assert [trace.source.prompt for trace in traces] == ["a cat", RUN["prompt"]]
        assert [len(trace.calls) for trace in traces] == [3, 3]

    @staticmethod
    def refused(pipe, meanwhile):
        def after_first(pipe, step, timestep, arguments):
            if step == 0:
                meanwhile()
            return arguments

        with pytest.raises(UnsupportedPipelineError, match="two threads at once"):
            run(pipe, {**RUN, "callback_on_step_end": after_first})

    def test_loops_of_ones_own_at_once_are_refused(self):
        pipe, errors = tiny.sd1(), []
        meeting = threading.Barrier(2, timeout=20)
        text = torch.zeros(1, 77, 32)

        def one():
            try:
                with torch.no_grad():
                    pipe.unet(torch.zeros(1, 4, 16, 16), 500, encoder_hidden_states=text)
            except UnsupportedPipelineError as error:
                errors.append(str(error))

        def meet(*args):
            meeting.wait()

        handle = pipe.unet.conv_in.register_forward_hook(meet)
        with ovam.capture(pipe):
            together(one, one)
        handle.remove()
        assert errors
        assert all("two threads at once" in error for error in errors)

    def test_one_after_the_other_may_be_of_several(self):
        """As servers make them; also after one that broke off in another thread."""
        pipe = tiny.sd1()
        with ovam.capture(pipe, blocks=[8]) as traces:
            together(lambda: run(pipe))
            run(pipe)
            together(lambda: own_loop(pipe, whole=True))
            own_loop(pipe, whole=True)

            def broken_off():
                with pytest.raises(ZeroDivisionError):
                    run(pipe, {**RUN, "callback_on_step_end": lambda *_: 1 / 0})

            together(broken_off)
            run(pipe)
        assert [len(trace.calls) for trace in traces] == [3, 3, 2, 2, 3]


def together(*targets):
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestCopies:
    @pytest.mark.parametrize("part", ["pipe", "unet"])
    def test_are_refused_inside_a_capture(self, part):
        """They would stay bound to the text encoder of the one that they were copied from, and tell its capture."""
        pipe = tiny.sd1()
        with ovam.capture(pipe) as traces:
            with pytest.raises(UnsupportedPipelineError, match="is being captured, and a copy"):
                copy.deepcopy(pipe if part == "pipe" else pipe.unet)
            run(pipe)
        assert len(traces) == 1
        copied = copy.deepcopy(pipe)
        assert_same_image(run(copied), run(pipe))

    def test_shallow_ones_are_refused_when_they_run(self):
        pipe = tiny.sd1()
        with ovam.capture(pipe) as traces, pytest.raises(UnsupportedPipelineError, match="of another pipeline"):
            run(copy.copy(pipe))
        assert len(traces) == 0


class TestReplacedMethods:
    def test_progress_bars_are_put_back(self):
        pipe, before = tiny.sd1(), DiffusionPipeline.progress_bar
        with ovam.capture(pipe) as traces:
            DiffusionPipeline.progress_bar = lambda pipe, *args, **kwargs: before(pipe, *args, **kwargs)
            run(pipe)
        assert len(traces) == 1
        assert DiffusionPipeline.progress_bar is before

    def test_wrappers_that_were_taken_off(self):
        pipe = tiny.sd1()
        with ovam.capture(pipe):
            del pipe.check_inputs
            del pipe.encode_prompt
        assert "check_inputs" not in vars(pipe)
