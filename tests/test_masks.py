"""From maps to masks: `segment` takes maps, and a trace's own `segment` is shorthand for both stages."""

import inspect

import numpy as np
import pytest
import torch

import ovam
from ovam import errors
from ovam.maps.options import MapOptions
from ovam.masks import masks
from ovam.masks.options import SegmentOptions
from synthetic import make_trace

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


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda t: t.maps(WORDS).segment(against=["lawn"]), errors.UnknownWordError, "'lawn' in `against` has no map"),
        (lambda t: t.maps(WORDS).segment(against=WORDS), errors.EmptyWordsError, "every word of these maps"),
        (lambda t: t.maps(["sky", "Sky"]).segment(), errors.OptionError, "listed twice"),
        (lambda t: t.maps(WORDS, keep="block").segment(), errors.OptionError, "keep block apart"),
        (lambda t: t.maps(["sky"]).segment(threshold=0.0), errors.OptionError, "threshold=0.0"),
        (lambda t: t.segment(WORDS, phrases=["hot dog"]), errors.OptionError, "every entry is a phrase already"),
    ],
)
def test_what_can_not_be_segmented(trace, make, error, told):
    with pytest.raises(error, match=told):
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
        ("options", "told"),
        [
            ({"guidance": "both"}, "guidance='both'"),
            ({"guidance": ["cond"]}, "guidance="),
            ({"steps": 1.5}, "steps=1.5: expected step numbers"),
            ({"steps": [True]}, "steps="),
            ({"steps": "last"}, "steps='last'"),
            ({"blocks": [1.5]}, "blocks have 1.5"),
            ({"blocks": [(1, 2, 3)]}, "blocks have"),
            ({"blocks": [None]}, "blocks have None"),
            ({"phrases": "hot dog"}, "phrases='hot dog': expected a list"),
            ({"strategy": None}, "strategy=None"),
        ],
    )
    def test_values_are_checked_when_they_are_given(self, trace, options, told):
        with pytest.raises(errors.OptionError, match=told):
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
