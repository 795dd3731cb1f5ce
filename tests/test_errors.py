"""What bad input gets: the right class, a message that helps, and a pipeline as it was before."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import ovam
import tiny
from ovam import errors
from ovam.backbones.registry import backbone_of
from ovam.testing import assert_restored, snapshot

PROMPT = "a dog on the grass"
RUN = {"num_inference_steps": 2, "height": 32, "width": 32}
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.OvamError)
}


@pytest.fixture(scope="module")
def trace(sd1):
    with ovam.capture(sd1) as traces:
        sd1(PROMPT, **RUN)
    return traces[0]


def assert_refuses(error, parts, action):
    """`action` raises exactly this class, and the message has all these parts."""
    with pytest.raises(errors.OvamError) as caught:
        action()
    assert type(caught.value) is error
    message = str(caught.value)
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in {message!r}"


def test_assert_refuses_can_fail():
    def refuse():
        raise errors.OptionError("threshold=2: expected a number between 0 and 1")

    assert_refuses(errors.OptionError, ["threshold=2"], refuse)
    with pytest.raises(AssertionError):
        assert_refuses(errors.OptionError, ["threshold=3"], refuse)
    with pytest.raises(AssertionError):
        assert_refuses(errors.ImageInputError, [], refuse)


@pytest.mark.parametrize("text", ["cat, dog", "cat，dog", "cat、dog"])
def test_a_text_with_commas_is_no_list(trace, text):
    """As a prompt it has the words cat and dog, as one listed word neither."""
    parts = [repr(text), "expected a list, ['cat', 'dog']", repr([text])]
    assert_refuses(errors.OptionError, parts, lambda: trace.segment(text))
    assert_refuses(errors.OptionError, parts, lambda: trace.segment(["sky"], against=text))
    assert trace.segment([text]).words == (text,)


def generate_in(session, pipe, **changes):
    with session as results:
        pipe(PROMPT, **{**RUN, **changes})
    return results


class TestTable:
    ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)

    def test_has_one_row_for_each_class_and_its_builtin(self):
        text = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
        rows = self.ROW.findall(text)
        assert [row[0] for row in rows] == list(CLASSES)
        assert len(rows) == text.count("\n|") - 2  # header and rule
        for name, builtin, *cells in rows:
            assert builtin == CLASSES[name].__bases__[-1].__name__
            assert all(len(cell.strip()) > 10 for cell in cells)

    def test_messages_are_printed_as_they_are(self):
        """Python's KeyError would print the quoted form, with its line breaks and quotes escaped."""
        for error in CLASSES.values():
            assert str(error("word 'cat' is \"there\"")) == "word 'cat' is \"there\""
            assert str(error()) == ""


class TestWords:
    @pytest.mark.parametrize(
        "words", ["", "  \n", "!?", '""', [], [" "], ["dog", ""], ["dog", "..."], torch.zeros(0, 32)]
    )
    def test_empty(self, sd1, trace, words):
        for action in (lambda: trace.maps(words), lambda: generate_in(ovam.stream(sd1, words), sd1)):
            assert_refuses(errors.EmptyWordsError, ["at least one"], action)

    @pytest.mark.parametrize(("words", "against"), [([], ()), (["dog", " "], ()), (["dog"], ["  "])])
    def test_empty_in_a_segmentation(self, trace, words, against):
        assert_refuses(errors.EmptyWordsError, ["at least one"], lambda: trace.segment(words, against=against))

    @pytest.mark.user_error
    @pytest.mark.parametrize("words", [None, 3, ["dog", 3]])
    def test_of_another_kind(self, trace, words):
        assert_refuses(errors.EmptyWordsError, [type(words).__name__, "a list of strings"], lambda: trace.maps(words))

    def test_a_listed_entry_is_named(self, trace):
        assert_refuses(errors.EmptyWordsError, ["'...'", "no word"], lambda: trace.maps(["dog", "..."]))

    @pytest.mark.user_error
    def test_phrases_of_what_is_no_prompt(self, trace):
        assert_refuses(
            errors.OptionError, ["['hot dog']", "a prompt"], lambda: trace.maps(["a hot dog"], phrases=["hot dog"])
        )

    def test_not_in_the_attribution_prompt(self, trace):
        maps = trace.maps("a dog by the hot dog", phrases=["hot dog"])
        help_on_cat = ["'cat'", "'a', 'dog', 'by', 'the', 'hot dog'", "trace.maps(['cat'])"]
        assert_refuses(errors.UnknownWordError, help_on_cat, lambda: maps["cat"])
        assert_refuses(errors.UnknownWordError, ["number 5", "has 5 words"], lambda: maps[5])
        assert_refuses(errors.UnknownWordError, ["<pad>"], lambda: maps["<pad>"])  # only where it is padded
        assert_refuses(errors.UnknownWordError, ["'hot'"], lambda: maps["hot"])  # a part of a phrase

    def test_not_segmented(self, trace):
        result = trace.segment(["dog", "grass"], against=["sky"])
        assert_refuses(errors.UnknownWordError, ["'sky'", "'dog', 'grass'", "no new run"], lambda: result["sky"])

    def test_repeated(self, trace):
        maps = trace.maps("a dog and a hot dog")
        assert_refuses(errors.AmbiguousWordError, ["'dog'", "2 times", "maps[1] or maps[5]"], lambda: maps["dog"])
        listed = trace.maps(["cat", "dog"])  # each with a start token of its own, whose sum would mean nothing
        assert_refuses(errors.AmbiguousWordError, ["'<start>'", "2 attribution prompts"], lambda: listed["<start>"])
        assert maps["hot"].shape == maps[1].shape
        assert_refuses(errors.OptionError, ["'dog'", "twice"], lambda: trace.segment(["dog", "dog"]))
        assert_refuses(errors.OptionError, ["'dog'", "twice"], lambda: trace.segment(["dog"], against=["dog"]))

    @pytest.mark.parametrize(("word", "same"), [("Dog", "dog"), ("cafe\u0301", "caf\u00e9")])
    def test_repeated_in_another_spelling(self, trace, word, same):
        parts = [repr(word), "twice", repr(same)]
        assert_refuses(errors.OptionError, parts, lambda: trace.segment([same, "sky", word]))
        assert_refuses(errors.OptionError, parts, lambda: trace.segment([same, "sky"], against=[word]))
        listed = trace.maps([same, "sky", word])
        assert_refuses(errors.AmbiguousWordError, [repr(word), "2 times"], lambda: listed[word])

    def test_vectors_can_not_be_padded(self, trace):
        parts = ["softmax_over='padded'", "embed(text, padded=True)"]
        for given in (trace.text.embed("a cat"), trace.text.embed("a cat").vectors):
            assert_refuses(errors.OptionError, parts, lambda given=given: trace.maps(given, softmax_over="padded"))

    def test_over_the_encoders_length(self, sd1, trace):
        """75 words fill the encoder; what the 76th and 77th would lose is told word for word."""
        fitting = " ".join(["dog"] * 74 + ["cat"])
        assert len(trace.maps(fitting).words) == 75
        help_on_length = ["79 tokens", "reads 77", "'grass sky' would be cut", "shorten it by 2 tokens"]
        for action in (
            lambda: trace.maps(fitting + " grass sky"),
            lambda: trace.maps(["dog", fitting + " grass sky"]),
            lambda: trace.segment([fitting + " grass sky"]),
            lambda: generate_in(ovam.stream(sd1, fitting + " grass sky"), sd1),
        ):
            assert_refuses(errors.PromptTooLongError, help_on_length, action)


class TestEmbeddings:
    def test_of_another_space(self, sd1, sd2, trace):
        foreign = ovam.encode(sd2, torch.zeros(32, 32, 3).byte().numpy(), timesteps=[300]).text.embed("dog")
        here, there = str(trace.text.space), str(foreign.space)
        for action in (lambda: trace.maps(foreign), lambda: generate_in(ovam.stream(sd1, foreign), sd1)):
            assert_refuses(errors.SpaceMismatchError, [here, there, "trace.text.embed"], action)
        other_layer = replace(foreign, space=replace(trace.text.space, layer="skip-1"))
        assert_refuses(errors.SpaceMismatchError, ["layer skip-1", "layer last"], lambda: trace.maps(other_layer))

    def test_of_another_width(self, trace):
        parts = ["(2, 33)", "width 32", "trace.text.embed"]
        assert_refuses(errors.SpaceMismatchError, parts, lambda: trace.maps(torch.zeros(2, 33)))
        mislabelled = replace(trace.text.embed("dog"), vectors=torch.zeros(3, 33))
        assert_refuses(errors.SpaceMismatchError, ["width 33", "takes 32"], lambda: trace.maps(mislabelled))

    @pytest.mark.user_error
    def test_of_another_shape(self, trace):
        assert_refuses(errors.SpaceMismatchError, ["(1, 2, 32)"], lambda: trace.maps(torch.zeros(1, 2, 32)))


class TestNotThere:
    def test_a_capture_without_a_run(self, sd1):
        with ovam.capture(sd1) as traces:
            pass
        assert_refuses(
            errors.NothingCapturedError, ["completed pipeline call", "same pipeline object"], lambda: traces[0]
        )
        with ovam.stream(sd1, "dog") as maps:
            pass
        assert_refuses(errors.NothingCapturedError, ["nothing was captured"], lambda: maps[-1])
        assert list(traces) == list(maps) == []

    def test_a_trace_without_queries(self, trace):
        for empty in (replace(trace, blocks={}), replace(trace, calls=())):
            assert_refuses(errors.NothingCapturedError, ["no queries"], lambda empty=empty: empty.maps("dog"))

    def test_a_half_that_was_not_kept(self, trace):
        parts = ["'uncond'", "only 'cond'", "guidance='both'"]
        assert_refuses(errors.NothingCapturedError, parts, lambda: trace.maps("dog", guidance="uncond"))

    @pytest.mark.parametrize("blocks", [[7], ["up_blocks.9"], [(8, 16)], ["mid_block"], []])
    def test_blocks(self, trace, blocks):
        parts = [repr(blocks[0]) if blocks else "[]", "16x16, 8x8", "down_blocks.0.attentions.0"]
        for action in (lambda: trace.maps("dog", blocks=blocks), lambda: trace.select(blocks=blocks)):
            assert_refuses(errors.MissingBlockError, parts, action)

    @pytest.mark.parametrize("steps", [[2], [0, 5], []])
    def test_steps(self, sd1, trace, steps):
        wrong = str([step for step in steps if step != 0])
        for action in (lambda: trace.maps("dog", steps=steps), lambda: trace.select(steps=steps)):
            assert_refuses(errors.MissingStepError, [wrong, "0 to 1", "steps=None"], action)
        for session in (ovam.capture(sd1, steps=steps), ovam.stream(sd1, "dog", steps=steps)):
            parts = [wrong, "0 to 1", "num_inference_steps"]
            assert_refuses(errors.MissingStepError, parts, lambda session=session: generate_in(session, sd1))


class OtherPipeline:
    """Something that no backbone reads."""


class TestUnsupported:
    def test_pipelines_list_the_supported(self):
        for action in (
            lambda: ovam.capture(OtherPipeline()).__enter__(),
            lambda: ovam.stream(OtherPipeline(), "dog").__enter__(),
            lambda: ovam.encode(OtherPipeline(), torch.zeros(8, 8, 3).byte().numpy()),
        ):
            parts = ["pipeline is a OtherPipeline", "supported()", "docs/adding-a-backbone.md"]
            assert_refuses(errors.UnsupportedPipelineError, parts, action)

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("StableDiffusionXLInstructPix2PixPipeline", "StableDiffusionXLInpaintPipeline"),
            ("StableDiffusionSAGPipeline", "StableDiffusionPAGPipeline"),
            ("FluxControlPipeline", "FluxControlNetPipeline"),
            ("PixArtDeltaPipeline", "PixArtAlphaPipeline"),
        ],
    )
    def test_the_nearest_supported_is_named(self, name, nearest):
        pipe = type(name, (), {})()
        assert_refuses(
            errors.UnsupportedPipelineError,
            [name, f"the one with the most similar name, a {nearest} "],
            lambda: backbone_of(pipe),
        )

    def test_a_batch_of_other_halves(self, sd1):
        """Guidance with three parts, as some techniques add one, would be cut at the wrong places."""

        def loop():
            with ovam.capture(sd1), torch.no_grad():
                sd1.encode_prompt("a dog", "cpu", 1, True)
                sd1.unet(torch.zeros(3, 4, 16, 16), 500, torch.zeros(3, 77, 32))

        assert_refuses(errors.UnsupportedPipelineError, ["batch of 3, expected 2", "uncond and cond of 1 images"], loop)

    def test_models(self, tmp_path):
        parts = ["is not a pipeline", "model_index.json", "save_pretrained"]
        assert_refuses(errors.ModelNotFoundError, parts, lambda: ovam.load(tmp_path))
        assert_refuses(errors.ModelNotFoundError, ["'no-such-model'", "'mini'"], lambda: ovam.load("no-such-model"))
        (tmp_path / "model_index.json").write_text("{broken")
        assert_refuses(errors.ModelNotFoundError, ["could not be loaded"], lambda: ovam.load(tmp_path))


class TestNumbers:
    @pytest.fixture
    def pipe(self):
        pipe = tiny.sd1()
        pipe(PROMPT, **{**RUN, "num_inference_steps": 1})
        return pipe

    @staticmethod
    def damaged(pipe, part):
        """The pipeline with one weight that is no number, in its last block or in its first layer."""
        last = pipe.unet.get_submodule("up_blocks.2.attentions.1.transformer_blocks.0.attn2")
        with torch.no_grad():
            {"query": last.to_q, "key": last.to_k, "first layer": pipe.unet.conv_in}[part].weight.view(-1)[0] = (
                torch.nan
            )
        return pipe

    @pytest.mark.parametrize(
        ("part", "block"),
        [("query", "'up_blocks.2.attentions.1"), ("first layer", "'down_blocks.0.attentions.0")],
    )
    def test_damaged_queries(self, pipe, part, block):
        self.damaged(pipe, part)
        for session in (ovam.capture(pipe), ovam.stream(pipe, "dog")):
            parts = [block, "NaN", "weights are damaged", "torch.float32"]
            assert_refuses(errors.NotFiniteError, parts, lambda session=session: generate_in(session, pipe))

    @pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
    def test_damaged_keys(self, pipe):
        """Queries of the first call are sound, so that the capture itself has nothing to complain of."""
        self.damaged(pipe, "key")
        (trace,) = generate_in(ovam.capture(pipe), pipe, num_inference_steps=1)
        assert_refuses(errors.NotFiniteError, ["keys of the attribution prompt", "NaN"], lambda: trace.maps("dog"))
        stream = ovam.stream(pipe, "dog")
        parts = ["streamed maps", "NaN", "torch.float32"]
        assert_refuses(errors.NotFiniteError, parts, lambda: generate_in(stream, pipe, num_inference_steps=1))

    def test_storage_too_narrow(self, pipe):
        with torch.no_grad():
            pipe.unet.get_submodule("up_blocks.2.attentions.1.transformer_blocks.0.attn2").to_q.weight *= 1e5
        (trace,) = generate_in(ovam.capture(pipe), pipe)
        parts = ["'up_blocks.2.attentions.1", "infinity", "dtype=torch.bfloat16"]
        assert_refuses(errors.NotFiniteError, parts, lambda: trace.maps("dog"))
        (wide,) = generate_in(ovam.capture(pipe, dtype=torch.bfloat16), pipe)
        assert wide.maps("dog").token_maps.isfinite().all()

    def test_too_little_memory(self, sd1, monkeypatch):
        """Without a limit of the user's, the free memory is the limit, less a reserve."""
        needed = generate_in(ovam.capture(sd1), sd1)[0].nbytes
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
        parts = [
            "6 blocks x 2 denoiser calls x 1 images",
            "over the limit",
            "blocks=",
            "steps=",
            "ovam.stream",
            "limit_gib",
        ]
        assert_refuses(errors.CaptureTooLargeError, parts, lambda: generate_in(ovam.capture(sd1), sd1))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * needed))
        assert len(generate_in(ovam.capture(sd1), sd1)) == 1


class TestOptions:
    @pytest.mark.parametrize("threshold", [0.0, 1.0, -0.2, 1.5])
    def test_threshold(self, trace, threshold):
        parts = [f"threshold={threshold}", "expected a number"]
        assert_refuses(errors.OptionError, parts, lambda: trace.segment(["dog"], threshold=threshold))

    @pytest.mark.user_error
    def test_words_to_segment(self, trace):
        vectors = trace.text.embed("a cat")
        for given, named in [
            (vectors.vectors, "a Tensor of shape (4, 32)"),
            (vectors, "a TokenEmbedding"),
            (["sky", vectors.vectors], "a Tensor of shape (4, 32)"),
            (3, "a int"),
            ([3], "a int"),
            (None, "a NoneType"),
        ]:
            parts = [named, "strings and TokenSets", "trace.maps(...)"]
            assert_refuses(errors.OptionError, parts, lambda given=given: trace.segment(given))
            assert_refuses(errors.OptionError, parts, lambda given=given: trace.segment("dog", against=given))

    def test_storage_type(self, sd1):
        parts = ["dtype=torch.int16", "torch.float16, torch.bfloat16 or torch.int8"]
        assert_refuses(errors.OptionError, parts, lambda: ovam.capture(sd1, dtype=torch.int16).__enter__())

    def test_block_and_head_apart(self, trace):
        parts = ["'block', 'head'", "'head' alone"]
        assert_refuses(errors.OptionError, parts, lambda: trace.maps("dog", keep=("block", "head")))

    @pytest.mark.user_error
    def test_choices_are_listed(self, sd1, trace):
        guidance, softmax, keep = (
            ["'half'", "'cond', 'uncond', 'both'"],
            ["'all'", "'prompt', 'padded'"],
            ["'layer'", "'block'"],
        )
        assert_refuses(errors.OptionError, guidance, lambda: ovam.capture(sd1, guidance="half").__enter__())
        assert_refuses(errors.OptionError, softmax, lambda: trace.maps("dog", softmax_over="all"))
        assert_refuses(errors.OptionError, softmax, lambda: ovam.stream(sd1, "dog", softmax_over="all").__enter__())
        assert_refuses(errors.OptionError, keep, lambda: trace.maps("dog", keep=("layer",)))


FAILING = {
    "words no encoder reads": lambda pipe: ovam.stream(pipe, "dog " * 90),
    "no words": lambda pipe: ovam.stream(pipe, []),
    "no such block": lambda pipe: ovam.capture(pipe, blocks=[5]),
    "no such step": lambda pipe: ovam.capture(pipe, steps=[5]),
    "no such half": lambda pipe: ovam.capture(pipe, guidance="uncond"),
    "too large": lambda pipe: ovam.capture(pipe, limit_gib=1e-9),
    "not a type to store": lambda pipe: ovam.capture(pipe, dtype=torch.int16),
}


@pytest.mark.parametrize("case", FAILING)
def test_the_pipeline_is_as_before(sd1, case):
    """And captures at once, without a trace of the failure."""
    sd1(PROMPT, **RUN, guidance_scale=1.0)  # notes down its own settings
    before = snapshot(sd1)
    with pytest.raises(errors.OvamError):
        generate_in(FAILING[case](sd1), sd1, guidance_scale=1.0)
    assert_restored(sd1, before, f"after a capture refused for {case}")
    assert len(generate_in(ovam.capture(sd1), sd1, guidance_scale=1.0)) == 1


def test_the_pipeline_is_as_before_a_nested_capture(sd1):
    before = snapshot(sd1)
    with ovam.capture(sd1):
        inside = snapshot(sd1)
        with pytest.raises(errors.NestedCaptureError):
            ovam.capture(sd1).__enter__()
        assert_restored(sd1, inside, "after a nested capture")
    assert_restored(sd1, before, "after both")
