"""Word gains: what the denoiser itself tells of a word, against plain loops in float64; what masks make of them."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

import ovam
import reference
import tiny
from ovam.backbones.base import Backbone
from ovam.backbones.registry import backbone_of
from ovam.backbones.sd3 import SD3Backbone
from ovam.defaults import CHOSEN
from ovam.errors import (
    EmptyWordsError,
    NestedCaptureError,
    OptionError,
    PromptTooLongError,
    UnknownWordError,
    UnsupportedPipelineError,
)
from ovam.maps import gains as gains_module
from ovam.maps.calibration import Calibration
from ovam.maps.thresholds import Thresholds
from ovam.masks import masks
from ovam.masks.masks import scores_by, share_of, word_calibration
from ovam.masks.options import SegmentOptions
from ovam.tokens.options import AGAINST
from ovam.tokens.token_set import TokenSet
from ovam.tracing import word_gains
from ovam.tracing.word_gains import joined
from synthetic import make_trace
from test_encode import photo, unchanged
from test_inversion import clean_latent
from test_refine import GRID, METHODS, affinity, maps_of
from test_tokens import group_of

# the schedulers of some families copy tensors into arrays as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = {
    "sd1": "epsilon",
    "sd2": "v_prediction",
    "sdxl": "epsilon",
    "pixart_alpha": "epsilon",
    "pixart_sigma": "epsilon",
    "sd3": "flow",
    "flux": "flow",
}
"""What each family's tiny pipeline predicts."""
FEW = {"timesteps": [300], "noises": 1, "against": ()}


@pytest.fixture(scope="module")
def pipes():
    """One pipeline of each family, shared: tests must leave them as they are."""
    return {family: getattr(tiny, family)() for family in FAMILIES}


def gains_of(*words, grid=(6, 5), seed=0):
    """Random gains, most of them below 0, as they are."""
    random = torch.Generator().manual_seed(seed)
    return ovam.WordGains(words, 0.2 * torch.randn(len(words), *grid, generator=random) - 0.1, 4)


# what is measured


class TestByHand:
    @pytest.mark.parametrize(("family", "predicts"), [*FAMILIES.items(), ("sd1", "sample")])
    def test_equals_plain_loops(self, pipes, family, predicts, monkeypatch):
        """The latents that the denoiser is handed, and what is made of its predictions; more texts than one batch."""
        pipe = pipes[family]
        if predicts == "sample":
            pipe = tiny.sd1()
            pipe.scheduler.register_to_config(prediction_type="sample")
        backbone, calls = backbone_of(pipe), []
        look = type(backbone).look

        def noting(self, latents, timestep, conditions):
            found = look(self, latents, timestep, conditions)
            texts = [vectors.clone() for vectors in conditions["encoder_hidden_states"]]
            calls.append((timestep, latents.clone(), texts, found.double().numpy()))
            return found

        monkeypatch.setattr(type(backbone), "look", noting)
        options = {
            "against": ["Dog", "sea"],
            "timesteps": (100, 600),
            "noises": 2,
            "seed": 5,
            "size": (32, 32),
            "batch": 2,
        }
        found = ovam.word_gains(pipe, photo(), ["dog", " cat | boat"], **options)
        assert found.words == ("dog", "cat|boat", "sea")
        assert found.looks == 4
        words = [["dog"], ["cat", "boat"], ["sea"]]
        with torch.no_grad():
            vectors = {
                text: backbone.conditions(text, (32, 32))["encoder_hidden_states"][0]
                for text in ("", *(text for synonyms in words for text in synonyms))
            }
        clean, random, looks = clean_latent(pipe)[0], torch.Generator().manual_seed(5), []
        for timestep in (600, 600, 100, 100):
            level = timestep / 1000 if predicts == "flow" else float(pipe.scheduler.alphas_cumprod[timestep])
            noise = torch.randn(1, *clean.shape, generator=random)[0]
            noisy, predictions = reference.noised(clean, noise, level, predicts), {}
            for _ in range(3):  # batches of two texts
                moment, latents, texts, predicted = calls.pop(0)
                assert moment == timestep
                assert np.abs(latents.numpy() - noisy).max() < 1e-5  # measured 1.4e-6 (flux)
                for text, values in zip(texts, predicted, strict=True):
                    (name,) = [name for name, known in vectors.items() if torch.equal(known, text)]
                    predictions[name] = values
            looks.append((level, noise, predictions))
        assert not calls
        expected = reference.word_gains(clean, looks, words, predicts)
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(found.maps.numpy(), expected, rtol=0, atol=4e-6)  # measured 4e-7 ("sample")

    @pytest.mark.parametrize("family", FAMILIES)
    def test_texts_of_a_batch_are_those_of_one_at_a_time(self, pipes, family):
        """Also with a latent of its own for each text, which an exchange of rows would show."""
        backbone, random = backbone_of(pipes[family]), torch.Generator().manual_seed(0)
        latents = torch.randn(3, backbone.latent_channels, 12, 16, generator=random)
        size = tuple(side * pipes[family].vae_scale_factor for side in latents.shape[-2:])
        with torch.no_grad():
            texts = [backbone.conditions(text, size) for text in ("", "dog", "red boat on the sea")]
            together = backbone.look(latents, 300, joined(texts))
            alone = torch.cat([backbone.look(latents[i : i + 1], 300, texts[i]) for i in range(3)])
            other = backbone.look(latents[1:2], 300, texts[2])
        assert together.shape == latents.shape
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)  # measured 2.6e-6 (sd2)
        assert (other - alone[1:2]).abs().max() > 0.05  # measured 0.09 (sdxl)


class TestRun:
    def test_the_pipeline_is_left_as_it_was(self):
        pipe = tiny.sd1()
        pipe.unet.train()
        with unchanged(pipe):
            found = ovam.word_gains(pipe, photo(), "dog", **FEW)
        assert not found.maps.requires_grad

    def test_weights_in_half_the_bits_give_gains_in_float32(self):
        found = ovam.word_gains(tiny.sd1().to(torch.bfloat16), photo(), ["dog"], **FEW)
        assert found.maps.dtype == torch.float32
        assert torch.isfinite(found.maps).all()

    def test_words_are_compared_with_common_backgrounds_that_are_none_of_them(self, sd1):
        tokens = TokenSet((group_of("car"),), backbone_of(sd1).reader().space)
        options = {"timesteps": [300], "noises": 1}
        found = ovam.word_gains(sd1, photo(32, 64), ["Sky|heaven", tokens], **options)
        assert found.words == ("Sky|heaven", "car", *AGAINST[1:])
        assert AGAINST[0] == "sky"
        assert found.maps.shape[-2] < found.maps.shape[-1], "in the picture's own proportions"

    def test_progress_counts_runs_of_the_denoiser(self, sd1):
        told = []
        options = ovam.GainOptions(timesteps=[300, 100], noises=2, against="sea")
        word_gains.measure_gains(sd1, photo(), ["dog"], options, lambda *given: told.append(given))
        assert told == [("asking the denoiser", 3 * i, 12) for i in range(4)]

    def test_inside_a_capture_it_is_refused_as_no_run_of_the_pipeline(self, sd1):
        with ovam.capture(sd1) as traces:
            with pytest.raises(NestedCaptureError, match="being captured already"):
                ovam.word_gains(sd1, photo(), ["dog"], **FEW)
            sd1("a dog", num_inference_steps=2, height=32, width=32)
        assert len(traces) == 1


# what gains tell


class TestPresence:
    @pytest.mark.parametrize("grid", [(16, 20), (20, 9), (3, 4)])
    def test_lead_is_that_of_plain_loops(self, grid):
        found = gains_of("dog", "cat|boat", "sea", grid=grid)
        for place, word in enumerate(("Dog", "boat", "sea")):
            expected = reference.lead(found.maps.double().numpy(), place)
            assert found.lead(word) == pytest.approx(expected, abs=2e-7)  # measured 2.2e-8

    def test_a_word_that_is_better_than_others_but_not_than_nothing_is_not_ahead(self):
        found = ovam.WordGains(("dog", "cat"), torch.stack([torch.full((4, 5), value) for value in (-0.1, -0.3)]))
        assert found.lead("dog") == pytest.approx(-0.1)
        assert found.lead("cat") == pytest.approx(-0.3)

    def test_presence_is_the_logistic_function_of_the_lead(self, monkeypatch):
        assert (CHOSEN["gains"]["scale"], CHOSEN["gains"]["offset"]) == (gains_module._SCALE, gains_module._OFFSET)
        monkeypatch.setattr(gains_module, "_SCALE", 3.0)
        monkeypatch.setattr(gains_module, "_OFFSET", -0.5)
        found = gains_of("dog", "cat")
        assert found.presence("dog") == pytest.approx(reference.probability(3 * found.lead("dog") - 0.5), abs=1e-9)
        far = ovam.WordGains(("dog",), torch.full((1, 4, 4), -1e4))
        assert far.presence("dog") == 0.0

    def test_gains_are_found_by_each_name(self):
        found = gains_of("dog", "cat|boat")
        assert torch.equal(found["Boat"], found.maps[1])
        assert torch.equal(found["cat|boat"], found.maps[1])


# what masks make of them


@pytest.fixture(scope="module")
def trace():
    return make_trace()


class TestScores:
    def test_the_gain_is_added_before_calibration(self, trace):
        """To the map of a word, stretched at the image's size, and of a token, stretched at its own grid."""
        own, weight = Calibration(9.0, -5.0), CHOSEN["gains"]["weight"]
        tokens = TokenSet((group_of("car", calibrations={"car": own}),), trace.text.space)
        maps, gains = trace.maps(["sky", tokens]), gains_of("sky", "car", "sea")
        plain, size, gained = maps.stacked().double().numpy(), maps.image_size, maps.with_gains(gains)
        sky = reference.min_max(reference.resize(plain[0], size))
        car = reference.resize(reference.min_max(plain[1]), size)
        scores = scores_by(gained, Calibration(5.0, -2.0)).double().numpy()
        wide = [reference.resize(one, size) for one in gains.maps.double().numpy()]
        for word, share, gain, score, (scale, offset) in (
            ("sky", sky, wide[0], scores[0], (5, -2)),
            ("car", car, wide[1], scores[1], (9, -5)),
        ):
            for given in ({}, {"gain_weight": 1.7}):
                found = share_of(gained, word, **given).double().numpy()
                assert np.abs(found - share - given.get("gain_weight", weight) * gain).max() < 2e-6  # measured 2.3e-7
            expected = 1 / (1 + np.exp(-scale * (share + weight * gain) - offset))
            assert np.abs(score - expected).max() < 4e-6  # measured 4.2e-7

    def test_each_kind_of_maps_has_its_calibration(self, trace, monkeypatch):
        kinds = {
            name: Calibration(float(i), 0.0)
            for i, name in enumerate(("plain", "refined", "plain, gains", "refined, gains"))
        }
        monkeypatch.setattr(masks, "WORD_CALIBRATIONS", kinds)
        plain = trace.maps(["sky"])
        gained = plain.with_gains(gains_of("sky"))
        asked = (plain, replace(plain, refined=True), gained, replace(gained, refined=True))
        assert [word_calibration(maps) for maps in asked] == [*kinds.values()]

    def test_the_shipped_defaults_have_all_four(self, shipped_words):
        assert {*masks.WORD_CALIBRATIONS} == {"plain", "refined", "plain, gains", "refined, gains"}

    def test_without_a_calibration_scores_stay_between_0_and_1(self, trace):
        gains = replace(gains_of("sky"), maps=torch.linspace(-9, 9, 30).reshape(1, 6, 5))
        scores = trace.segment(["sky"], gains=gains).scores
        assert (scores.min(), scores.max()) == (0, 1)


class TestSegment:
    def test_of_a_trace_and_of_its_maps_are_the_same_and_presence_is_that_of_the_gains(self, trace):
        gains = gains_of("lawn", "sky|heaven", "sea", seed=3)
        found = trace.segment(["sky|heaven"], against=["lawn"], gains=gains)
        again = trace.maps(["sky|heaven", "lawn"]).with_gains(gains).segment(against=["lawn"])
        assert torch.equal(found.scores, again.scores)
        assert found.presence == again.presence == {"sky|heaven": gains.presence("sky")}
        chosen = trace.maps(["lawn", "sky|heaven"]).only(["sky"]).with_gains(gains).segment()
        assert chosen.presence == {"sky": gains.presence("sky")}

    def test_a_word_below_the_gate_and_a_token_with_a_threshold_are_gated_by_gains(self, trace, monkeypatch):
        monkeypatch.setattr(gains_module, "_SCALE", 1.0)
        limits = {"car": Thresholds(presence=0.9)}
        tokens = TokenSet((replace(group_of("car"), thresholds=limits),), trace.text.space)
        for offset, seen in ((9.0, True), (-9.0, False)):
            monkeypatch.setattr(gains_module, "_OFFSET", offset)
            gains = gains_of("car", "sky")
            found = trace.segment([tokens, "sky"], gains=gains, threshold=0.01)
            assert found.presence == {word: gains.presence(word) for word in ("car", "sky")}
            assert bool(found["car"].any()) == seen
            assert found["sky"].any()
            assert bool(trace.segment(["sky"], gains=gains, threshold=0.01, presence=0.5)["sky"].any()) == seen


class TestRefined:
    @pytest.mark.parametrize("options", METHODS[1:4:2])
    def test_gains_are_refined_by_the_same_self_attention(self, options):
        part, gains = affinity(GRID), gains_of("0", "1", "sea")
        maps = maps_of(torch.rand(2, *GRID, generator=torch.Generator().manual_seed(0)), part).with_gains(gains)
        wide = np.stack([reference.resize(one, GRID).flatten() for one in gains.maps.double().numpy()])
        expected = reference.refined(wide, part.weights.numpy(), **options)
        found = maps.refine(**options)
        np.testing.assert_allclose(found.gains.maps.flatten(1), expected, rtol=0, atol=1e-6)  # measured 8e-8
        assert found.segment().presence == {word: gains.presence(word) for word in ("0", "1")}
        assert found.refine().segment().presence == maps.segment().presence

    def test_gains_can_not_be_added_afterwards(self):
        maps = maps_of(torch.rand(1, *GRID), affinity(GRID)).refine()
        with pytest.raises(OptionError, match=r"refined already: add the gains first, maps\.with_gains\(gains\)"):
            maps.with_gains(gains_of("0"))


# what is refused


class TestErrors:
    def test_a_word_without_gains_is_named_with_the_call_that_measures_it(self, trace):
        gains = gains_of("sky", "sea")
        message = r"'lawn' has no gains.*for 'sky', 'sea'.*ovam\.word_gains\(pipe, picture, \[\.\.\., 'lawn'\]\)"
        for ask in (
            lambda: trace.segment(["sky", "lawn"], gains=gains),
            lambda: trace.segment(["sky"], against=["lawn"], gains=gains),
            lambda: SegmentOptions(gains=gains, against=["lawn"]).check(["sky"]),
            lambda: trace.maps(["lawn"]).with_gains(gains).segment(),
            lambda: gains.presence("lawn"),
            lambda: gains["lawn"],
        ):
            with pytest.raises(UnknownWordError, match=message):
                ask()

    @pytest.mark.user_error
    @pytest.mark.parametrize("gains", [True, {"sky": torch.zeros(2, 2)}, torch.zeros(1, 2, 2)])
    def test_gains_that_are_none(self, trace, gains):
        for ask in (lambda: trace.segment(["sky"], gains=gains), lambda: trace.maps(["sky"]).with_gains(gains)):
            with pytest.raises(OptionError, match=r"gains are a \w+: expected word gains, ovam"):
                ask()

    @pytest.mark.parametrize(
        ("words", "options", "error", "message"),
        [
            ([], {}, EmptyWordsError, "list of words is empty"),
            (["dog", " "], {}, EmptyWordsError, "no word"),
            (["dog"], {"against": [" "]}, EmptyWordsError, "no word"),
            ("dog, cat", {}, OptionError, "text with a comma"),
            (["dog"], {"timesteps": []}, OptionError, r"timesteps=\(\): expected at least one"),
            (["dog"], {"timesteps": [1000]}, OptionError, "from 0 to 999"),
            (["dog"], {"noises": 0}, OptionError, "noises=0"),
            (["dog"], {"batch": 0}, OptionError, "batch=0"),
            (["sky|lawn", "Lawn"], {}, OptionError, "'Lawn' is listed twice"),
            (["dog"], {"seed": 2**64}, OptionError, "seed="),
            (["dog"], {"size": (32, 31)}, OptionError, r"size=\(32, 31\).*multiple of 2"),
            (["dog " * 90], {}, PromptTooLongError, "would be cut"),
        ],
    )
    def test_what_can_not_be_measured(self, sd1, words, options, error, message):
        with unchanged(sd1), pytest.raises(error, match=message):
            ovam.word_gains(sd1, photo(), words, **options)

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("against", value) for value in (None, 3, [3])],
            *[("timesteps", value) for value in (5, "abc", [50.5], [float("nan")], [None])],
            *[("noises", value) for value in (True, 1.5, "1", None)],
            *[("seed", value) for value in (1.5, "0", None, True)],
            *[("size", value) for value in (5, (0, 5), (4.5, 5), "55", (True, 5))],
        ],
    )
    def test_values_of_options(self, sd1, name, value):
        with pytest.raises(OptionError, match=rf"{name}=|words to segment"):
            ovam.word_gains(sd1, photo(), ["dog"], **{name: value})

    @pytest.mark.user_error
    def test_options_that_there_are_not(self, sd1):
        with pytest.raises(TypeError, match=r"word_gains\(\) got an unexpected keyword argument 'steps'.*against, tim"):
            ovam.word_gains(sd1, photo(), ["dog"], steps=[1])
        with pytest.raises(TypeError, match=r"word_gains\(\) got 4 arguments without a name: expected 3"):
            ovam.word_gains(sd1, photo(), ["dog"], ["cat"])

    def test_a_family_that_can_not_encode(self, pipes, monkeypatch):
        monkeypatch.setattr(SD3Backbone, "conditions", Backbone.conditions)
        with pytest.raises(UnsupportedPipelineError, match="can't encode real images: expected a family"):
            ovam.word_gains(pipes["sd3"], photo(), ["dog"])

    def test_a_scheduler_that_predicts_something_unknown(self):
        pipe = tiny.sd1()
        pipe.scheduler.register_to_config(prediction_type="flow_prediction")
        with pytest.raises(UnsupportedPipelineError, match=r"predicts 'flow_prediction'.*word gains can't follow"):
            ovam.word_gains(pipe, photo(), ["dog"], **FEW)


def test_public_names_and_their_pages():
    assert {"GainOptions", "WordGains", "word_gains"} <= set(ovam.__all__)
    named = inspect.signature(ovam.word_gains).parameters
    assert [*named] == ["pipe", "image", "words", *inspect.signature(ovam.GainOptions).parameters]
    assert repr(gains_of("sky")) == "WordGains(words=('sky',), looks=4)"
