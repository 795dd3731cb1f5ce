"""From maps to masks: `segment` takes maps, and a trace's own `segment` is shorthand for both stages."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ovam
import tiny
from ovam import errors
from ovam.defaults import CHOSEN
from ovam.maps.calibration import Calibration
from ovam.maps.options import MapOptions
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.masks import masks
from ovam.masks.options import SegmentOptions
from ovam.masks.presence import presences
from ovam.prompt import Span
from ovam.tokens.token_set import TokenSet
from ovam.tracing.decoded import png
from synthetic import make_trace
from test_tokens import group_of

WORDS, AGAINST = ["sky", "hot dog"], ["lawn"]


@pytest.fixture(scope="module")
def trace():
    return make_trace(halves=("cond", "uncond"))


def test_a_trace_segments_as_its_maps_do(trace):
    maps = trace.maps([*WORDS, *AGAINST], guidance="uncond")
    found, expected = maps.segment(against=["Lawn"]), trace.segment(WORDS, against=AGAINST, guidance="uncond")
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.scores, expected.scores)
    assert found.words == expected.words == tuple(WORDS)
    assert found.presence == expected.presence
    assert found.maps is maps
    assert expected.maps.words == (*WORDS, *AGAINST)


def test_contrast_words_may_stand_anywhere_among_the_maps(trace):
    mixed = trace.maps(["sky", "lawn", "hot dog"]).segment(against="lawn")
    expected = trace.segment(WORDS, against=AGAINST)
    assert mixed.words == tuple(WORDS)
    # keys of other words beside them change the order of additions: measured 6e-8
    assert (mixed.scores - expected.scores).abs().max() < 1e-6
    assert (mixed.labels != expected.labels).float().mean() < 0.01


def test_the_words_of_a_prompt_are_segmented_too(trace):
    found = trace.maps("a hot dog on the lawn", phrases=["hot dog"]).only(["hot dog", "lawn"]).segment()
    assert found.words == ("hot dog", "lawn")


class TestPresence:
    def test_a_word_below_the_gate_gets_no_pixels(self, trace):
        found = trace.segment(WORDS)
        weaker, stronger = sorted(WORDS, key=lambda word: found.presence[word])
        level = (found.presence[weaker] + found.presence[stronger]) / 2
        gated = trace.segment(WORDS, presence=level)
        assert found[weaker].any()
        assert not gated[weaker].any()
        assert torch.equal(gated[stronger], found[stronger])
        assert set(gated.labels.unique().tolist()) <= {0, WORDS.index(stronger) + 1}
        assert gated.presence == found.presence

    def test_more_tokens_do_not_make_a_word_more_present(self):
        """Maps in which each token has the same share: the word of two tokens has twice the attention."""
        maps = torch.full((4, 8, 8), 0.25)
        spans = (Span("sky", (0,)), Span("hot dog", (1, 2)))
        found = presences(AttentionMaps(maps, ("a", "b", "c", "d"), spans, (16, 16), {}))
        level = {"sky": math.log(0.25 / 0.75), "hot dog": math.log(0.5 / 0.5) - math.log(2)}
        for word, value in level.items():
            chosen = CHOSEN["presence"]
            expected = 1 / (1 + math.exp(-chosen["scale"] * value - chosen["offset"]))
            assert found[word] == pytest.approx(expected, abs=1e-6)

    def test_refinement_and_a_choice_of_words_leave_presence_as_it_was(self):
        pipe = tiny.sd1()
        with ovam.capture(pipe, self_attention=True) as traces:
            pipe("a dog", num_inference_steps=2, height=24, width=32, generator=torch.Generator().manual_seed(0))
        maps = traces[0].maps(["dog", "hot dog", "sky|lawn"])
        expected = presences(maps)
        assert presences(maps.refine()) == presences(maps.refine().refine()) == expected
        assert traces[0].segment(["dog", "hot dog", "sky|lawn"], refine=True).presence == expected
        for chosen in (maps.only([1, "Dog"]).refine(), maps.refine().only(["hot dog", "Dog"]).only([0, 1])):
            assert list(presences(chosen).values()) == [expected["hot dog"], expected["dog"]]
        assert list(presences(maps.refine().only(["lawn"])).values()) == [expected["sky|lawn"]]

    def test_of_special_tokens_taken_from_maps(self, trace):
        maps = trace.maps("a hot dog")
        assert presences(maps.only(["<start>"]))["<start>"] > 0


class TestWords:
    def test_scores_follow_the_calibration_that_was_chosen(self, trace, monkeypatch):
        tokens = TokenSet((group_of("car", calibrations={"car": Calibration(9.0, -5.0)}),), trace.text.space)
        plain = trace.segment(["sky", tokens]).scores.numpy()
        monkeypatch.setattr(
            masks, "WORD_CALIBRATIONS", {"plain": Calibration(8.0, -4.8), "refined": Calibration(5.0, -2.0)}
        )
        found = trace.segment(["sky", tokens]).scores.numpy()
        assert np.abs(found[0] - 1 / (1 + np.exp(4.8 - 8 * plain[0].astype(float)))).max() < 1e-6  # measured 9e-8
        assert np.array_equal(found[1], plain[1]), "a token has its own"
        maps = trace.maps(["sky"])
        of_refined = replace(maps, refined=True).segment().scores[0].numpy()
        assert np.abs(of_refined - 1 / (1 + np.exp(2 - 5 * plain[0].astype(float)))).max() < 1e-6

    def test_refined_maps_say_so(self):
        grid = SelfAttention((2, 2), torch.full((4, 4), 0.25))
        maps = AttentionMaps(
            torch.rand(1, 2, 2), ("sky",), (Span("sky", (0,)),), (4, 4), {}, self_attention={"2": grid}
        )
        assert not maps.refined
        assert maps.refine().only(["sky"]).refined


class TestContrast:
    def test_contrast_words_change_masks_scores_and_labels_alike(self, trace):
        plain, held = trace.segment(["sky"]), trace.segment(["sky"], against=["lawn"])
        rival = trace.segment(["lawn"])
        taken = plain["sky"] & (rival.scores[0] > plain.scores[0])
        assert taken.any()
        assert not held["sky"][taken].any()
        assert (held.labels == 1)[~taken].eq(plain["sky"][~taken]).all()
        assert (held.scores[0] <= plain.scores[0] + 1e-6).all()


class TestSynonyms:
    def test_are_one_word_with_the_greater_map(self, trace):
        both, each = trace.maps(["sky|lawn", "hot dog"]), trace.maps(["sky", "lawn", "hot dog"])
        assert both.words == ("sky|lawn", "hot dog")
        expected = torch.maximum(each["sky"], each["lawn"])
        torch.testing.assert_close(both["sky|lawn"], expected, rtol=0, atol=1e-6)
        assert torch.equal(both["sky"], both["lawn"])
        torch.testing.assert_close(both["hot dog"], each["hot dog"], rtol=0, atol=1e-6)

    def test_are_found_in_a_result_by_each_name(self, trace):
        found = trace.segment([" sky | Lawn"], against=["hot dog|the"])
        assert found.words == ("sky|Lawn",)
        assert torch.equal(found["lawn"], found["sky"])

    @pytest.mark.parametrize("words", [["sky|Sky"], ["sky|lawn", "lawn"]])
    def test_listed_twice_are_refused(self, trace, words):
        with pytest.raises(errors.OptionError, match="listed twice"):
            trace.segment(words)

    @pytest.mark.parametrize("word", ["sky|", "|", "sky||lawn"])
    def test_a_bar_with_nothing_beside_it_is_refused(self, trace, word):
        with pytest.raises(errors.EmptyWordsError):
            trace.maps([word])

    def test_a_prompt_is_read_as_given(self, trace):
        assert trace.maps("sky|lawn").words == ("sky", "lawn")


class TestLastSteps:
    def test_pixels_near_the_border_are_undecided(self, trace):
        found, banded = trace.segment(["sky"]), trace.segment(["sky"], ignore=0.2)
        near = (found.scores[0] - 0.5).abs() < 0.2
        assert near.any()
        assert (banded.labels[near] == 255).all()
        assert torch.equal(banded.labels[~near], found.labels[~near])

    def test_specks_and_holes_go_from_labels_and_masks(self, trace):
        found = trace.segment(["sky"])
        largest = max(one.area for one in found.instances())
        clean = trace.segment(["sky"], min_area=largest, max_hole=10**6)
        assert len(clean.instances()) == 1
        assert torch.equal(clean["sky"], clean.labels == 1)
        assert clean["sky"].sum() >= largest

    def test_a_crf_lets_masks_follow_the_picture(self, trace):
        """A picture of two colours: after the CRF the border of the mask is that of the colours."""
        height, width = trace.size
        colours = np.zeros((height, width, 3), np.uint8)
        colours[:, : width // 2] = 255
        blurred = torch.sigmoid((width / 2 - 2 - torch.arange(width)) / 3).expand(height, width)
        maps = AttentionMaps(
            blurred[None], ("sky",), (Span("sky", (0,)),), trace.size, {}, image_png=png(Image.fromarray(colours))
        )
        left = torch.arange(width).expand(height, width) < width // 2
        assert (maps.segment()["sky"] != left).sum() >= height
        found = maps.segment(crf=True)
        assert torch.equal(found["sky"], left)
        assert torch.equal(found.labels == 1, left)

    def test_a_crf_without_a_picture_is_refused(self, trace):
        maps = replace(trace.maps(["sky"]), image_png=None)
        with pytest.raises(errors.NothingCapturedError, match="needs the picture"):
            maps.segment(crf=True)

    def test_refine_in_one_line_is_refine_before(self):
        pipe = tiny.sd1()
        with ovam.capture(pipe, self_attention=True) as traces:
            pipe("a dog", num_inference_steps=2, height=24, width=32, generator=torch.Generator().manual_seed(0))
        options = ovam.RefineOptions(products=1)
        found = traces[0].segment(["dog"], refine=options)
        assert torch.equal(found.scores, traces[0].maps(["dog"]).refine(products=1).segment().scores)
        plain = traces[0].segment(["dog"], refine=True)
        assert torch.equal(plain.scores, traces[0].maps(["dog"]).refine().segment().scores)


@pytest.mark.user_error
@pytest.mark.parametrize(
    "given",
    [
        {"presence": 1.0},
        {"presence": -0.1},
        {"crf": "lattice"},
        {"refine": 2},
        {"ignore": 0.5},
        {"min_area": -1},
        {"max_hole": 1.5},
    ],
)
def test_an_option_that_is_not_allowed_is_named(given):
    with pytest.raises(errors.OptionError, match=next(iter(given))):
        SegmentOptions(**given)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda t: t.maps(WORDS).segment(against=["lawn"]), errors.UnknownWordError, "'lawn' in `against` has no map"),
        (lambda t: t.maps(WORDS).segment(against=WORDS), errors.EmptyWordsError, "every word of these maps"),
        (lambda t: t.maps(["sky", "Sky"]).segment(), errors.OptionError, "listed twice"),
        (lambda t: t.maps(WORDS, keep="block").segment(), errors.OptionError, "keep block apart"),
        (lambda t: t.maps(["sky"]).segment(threshold=0.0), errors.OptionError, "threshold=0.0"),
        (lambda t: t.segment(WORDS, phrases=["hot dog"]), errors.OptionError, "every entry is a phrase already"),
    ],
)
def test_what_can_not_be_segmented(trace, make, error, message):
    with pytest.raises(error, match=message):
        make(trace)


def test_one_word_at_a_time_is_enlarged(trace, monkeypatch):
    """A photograph of 12 megapixels took 5 GB, as every token was enlarged, start and end included."""
    sizes, resize = [], masks.resize
    monkeypatch.setattr(masks, "resize", lambda *given: sizes.append(resize(*given).numel()) or resize(*given))
    trace.segment(["hot dog", "a long phrase of many tokens"])
    assert max(sizes) == trace.size[0] * trace.size[1]


class TestOptions:
    def test_signatures_name_every_option(self):
        for function, options in [
            (ovam.Trace.maps, MapOptions),
            (ovam.Trace.segment, SegmentOptions),
            (ovam.capture, ovam.tracing.options.CaptureOptions),
            (ovam.encode, ovam.tracing.encode_options.EncodeOptions),
            (ovam.word_gains, ovam.GainOptions),
        ]:
            named = inspect.signature(function).parameters
            fields = inspect.signature(options).parameters
            assert set(fields) <= set(named)
            assert all(f"{name}:" in function.__doc__ for name in fields), "the page tells each option"

    @pytest.mark.user_error
    def test_others_are_refused_with_those_that_there_are(self, trace):
        with pytest.raises(TypeError, match=r"maps\(\) got an unexpected keyword argument 'half'.*guidance, blocks"):
            trace.maps("sky", half="uncond")
        with pytest.raises(TypeError, match=r"maps\(\) got 3 arguments without a name: expected 2"):
            trace.maps("sky", "uncond")

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"guidance": "both"}, "guidance='both'"),
            ({"guidance": ["cond"]}, "guidance="),
            ({"steps": 1.5}, "steps=1.5: expected step numbers"),
            ({"steps": [True]}, "steps="),
            ({"steps": "last"}, "steps='last'"),
            ({"blocks": [1.5]}, "`blocks` contains 1.5"),
            ({"blocks": [(1, 2, 3)]}, "`blocks` contains"),
            ({"blocks": [None]}, "`blocks` contains None"),
            ({"phrases": "hot dog"}, "phrases='hot dog': expected a list"),
            ({"strategy": None}, "strategy=None"),
        ],
    )
    def test_values_are_checked_when_they_are_given(self, trace, options, message):
        with pytest.raises(errors.OptionError, match=message):
            trace.maps("sky", **options)

    @pytest.mark.user_error  # numpy's numbers are none of Python's to the shape run's own checks
    def test_numbers_of_numpy_are_numbers(self, trace):
        given = trace.maps("sky", steps=np.arange(2), blocks=[np.int64(5)]).token_maps
        assert torch.equal(given, trace.maps("sky", steps=[0, 1], blocks=[5]).token_maps)
        assert torch.equal(trace.maps("sky")[np.int64(0)], trace.maps("sky")[0])

    def test_the_middle_step(self, trace):
        middle = trace.maps("sky", steps="middle").token_maps
        assert torch.equal(middle, trace.maps("sky", steps=[1]).token_maps)


def test_results_print_in_one_line(trace):
    shown = [repr(trace), repr(trace.maps(WORDS)), repr(trace.segment(WORDS))]
    assert all(len(line) < 120 and "\n" not in line for line in shown), shown
    assert "'hot dog'" in shown[1]
    assert "5 x 7" in shown[1]
