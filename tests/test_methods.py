"""Published methods on traces: their numbers held against plain loops, fitted tokens in each, and what is refused."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

import ovam
import reference
import synthetic
import tiny
from ovam import methods
from ovam.errors import (
    EmptyWordsError,
    MissingBlockError,
    NotFiniteError,
    NothingCapturedError,
    OptionError,
    SpaceMismatchError,
    UnsupportedPipelineError,
)
from ovam.methods.hard_crf import PUBLISHED_CRF, hard_crf
from ovam.methods.result import bordered
from ovam.testing import MethodContract
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.blocks import choose_blocks, share_of
from ovam.trace.trace import BlockPart

GRIDS = {
    "down_blocks.0.attn2": (8, 16),
    "down_blocks.1.attn2": (4, 8),
    "down_blocks.2.attn2": (2, 4),
    "down_blocks.3.attn2": (1, 2),
    "mid_block.attn2": (2, 4),
    "up_blocks.1.attn2": (2, 4),
    "up_blocks.2.attn2": (4, 8),
}
HEADS = {name: 1 + i % 2 for i, name in enumerate(GRIDS)}
SELF = {"down_blocks.1.attn1": (4, 8), "up_blocks.2.attn1": (4, 8), "up_blocks.3.attn1": (8, 16)}
PROMPT = "a hot dog on sand, a hot dog"


def picture(size, seed=0):
    drawn = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "PNG")
    return buffer.getvalue()


def affinity(name, grid, seed):
    scores = 3 * torch.randn(grid[0] * grid[1], grid[0] * grid[1], generator=torch.Generator().manual_seed(seed))
    return BlockPart(name, grid, {"cond": torch.softmax(scores, -1)})


def make_trace(prompt=PROMPT, kind="generated", parts=SELF):
    """A trace as of a UNet with grids halved three times, both halves, and self-attention of three blocks."""
    trace = synthetic.make_trace(grids=GRIDS, heads=HEADS, halves=("cond", "uncond"))
    found = {name: affinity(name, grid, i) for i, (name, grid) in enumerate(parts.items())}
    return replace(
        trace,
        source=replace(trace.source, prompt=prompt, kind=kind),
        image_png=picture(trace.size),
        parts={"self_attention": found} if found else {},
    )


@pytest.fixture(scope="module")
def trace():
    return make_trace()


def blocks_of(trace, vectors, *, names, half="cond", steps=slice(None)):
    """Blocks as the reference reads them, with the keys of these vectors."""
    found = {}
    for name in names:
        block = trace.blocks[name]
        key = reference.block_keys(trace.text.projections[name].double().numpy(), vectors.double().numpy(), block.heads)
        found[name] = (block.query[half][:, steps].double().numpy(), key, block.scale, block.grid)
    return found


WITHOUT_MIDDLE = [name for name in GRIDS if not name.startswith("mid")]
WITHOUT_EIGHTH = [name for name in WITHOUT_MIDDLE if GRIDS[name] != (1, 2)]


def mean_map(blocks, position):
    """The flat mean of a token's maps over all triples."""
    (length,) = {key.shape[1] for _, key, _, _ in blocks.values()}
    return reference.mean_maps(reference.all_maps(blocks, [length]))[None, None][position]


def tokens_of(*names, seed=0, rows=1):
    vectors = torch.randn(1 + rows * len(names), synthetic.WIDTH, generator=torch.Generator().manual_seed(seed))
    every = (BACKGROUND, *(name for name in names for _ in range(rows)))
    return TokenSet((TokenGroup(every, vectors, {}, Fit("synthetic")),), synthetic.SPACE)


def assert_same_mask(found, values, threshold, least=1e-5):
    """Equal wherever the values are not at the threshold but for rounding; most must not be."""
    clear = np.abs(values - threshold) > least
    assert clear.mean() > 0.99
    assert (found.numpy() == (values > threshold))[clear].all()


def bent(values, threshold):
    below, above = 0.5 * values / threshold, 0.5 + 0.5 * (values - threshold) / (1 - threshold)
    return np.where(values > threshold, above, below)


def assert_scores(result, word, values, threshold):
    scores = result.scores[result.words.index(word)]
    np.testing.assert_allclose(scores, bent(values, threshold).clip(0, 1), rtol=0, atol=5e-6)  # measured 7e-7
    assert_same_mask(result[word], values, threshold)


class TestDAAM:
    def test_a_word_of_the_prompt_has_the_mean_of_its_places_there(self, trace):
        padded = trace.text.embed(PROMPT, padded=True)
        plain = trace.text.embed(PROMPT).prompt
        positions = [i for span in plain.spans if span.text in ("hot", "dog") for i in span.tokens]
        blocks = blocks_of(trace, padded.vectors, names=WITHOUT_EIGHTH)
        expected = reference.daam(blocks, positions)
        result = methods.DAAM().segment(trace, ["hot dog"])
        np.testing.assert_allclose(result.maps["hot dog"], expected, rtol=0, atol=1e-6)  # measured 2e-8
        assert_scores(result, "hot dog", reference.over_greatest(expected, trace.size), 0.4)

    def test_another_word_has_a_padded_prompt_of_its_own(self, trace):
        padded = trace.text.embed("sky", padded=True)
        expected = reference.daam(blocks_of(trace, padded.vectors, names=WITHOUT_EIGHTH), [1])
        assert_scores(methods.DAAM().segment(trace, "sky"), "sky", reference.over_greatest(expected, trace.size), 0.4)

    def test_a_template_is_used_for_every_word(self, trace):
        padded = trace.text.embed("a big dog", padded=True)
        expected = reference.daam(blocks_of(trace, padded.vectors, names=WITHOUT_EIGHTH), [3])
        result = methods.DAAM(template="a big {}").segment(trace, ["dog"])
        np.testing.assert_allclose(result.maps["dog"], expected, rtol=0, atol=1e-6)

    def test_tokens_have_their_own_softmax_and_threshold(self, trace):
        tokens = tokens_of("dog", "sky")
        blocks = blocks_of(trace, tokens.groups[0].vectors, names=WITHOUT_EIGHTH)
        result = methods.DAAM().segment(trace, tokens)
        for i, word in enumerate(("dog", "sky"), start=1):
            assert_scores(result, word, reference.over_greatest(reference.daam(blocks, [i]), trace.size), 0.8)

    def test_daams_own_stretching(self, trace):
        padded = trace.text.embed("sky", padded=True)
        expected = reference.daam(blocks_of(trace, padded.vectors, names=WITHOUT_EIGHTH), [1])
        values = reference.min_max(reference.bicubic(expected, trace.size))
        assert_scores(methods.DAAM(scale="stretched").segment(trace, ["sky"]), "sky", values, 0.4)

    def test_synonyms_are_one_word(self, trace):
        both = methods.DAAM().segment(trace, ["dog|sky"])
        each = methods.DAAM().segment(trace, ["dog", "sky"])
        assert torch.equal(both.maps["dog|sky"], torch.maximum(each.maps["dog"], each.maps["sky"]))


class TestAttn2Mask:
    def test_the_middle_call_of_the_prompts_last_token(self, trace):
        text = trace.text.embed("A photograph of a hot dog")
        blocks = blocks_of(trace, text.vectors, names=WITHOUT_MIDDLE, steps=slice(1, 2))
        expected = mean_map(blocks, len(text.vectors) - 2)
        result = methods.Attn2Mask().segment(trace, ["hot dog"])
        assert_scores(result, "hot dog", reference.resize(reference.min_max(expected), trace.size), 0.4)
        assert (result["hot dog"].numpy() == reference.attn2mask(expected, trace.size, 0.2)).mean() > 0.999

    def test_tokens_have_a_beta_of_their_own(self, trace):
        tokens = tokens_of("dog")
        blocks = blocks_of(trace, tokens.groups[0].vectors, names=WITHOUT_MIDDLE, steps=slice(1, 2))
        result = methods.Attn2Mask().segment(trace, tokens)
        assert (result["dog"].numpy() == reference.attn2mask(mean_map(blocks, 1), trace.size, -0.2)).mean() > 0.999

    def test_beta_is_said_by_the_threshold(self):
        method = methods.Attn2Mask()
        assert (method.beta, method.token_beta) == (pytest.approx(0.2), pytest.approx(-0.2))

    def test_the_crf_is_that_of_hard_labels(self, trace):
        plain = methods.Attn2Mask().segment(trace, ["dog"])["dog"]
        wide = replace(PUBLISHED_CRF, scaled=False, colour_width=60.0)
        for crf, options in {True: PUBLISHED_CRF, wide: wide}.items():
            found = methods.Attn2Mask(crf=crf).segment(trace, ["dog"])["dog"]
            assert torch.equal(found, hard_crf(plain, np.asarray(trace.image), options))
        assert not torch.equal(found, plain)


class TestPublishedOVAM:
    @pytest.mark.parametrize(("queries", "half"), [("first", "uncond"), ("cond", "cond")])
    def test_the_map_over_its_greatest_value(self, trace, queries, half):
        text = trace.text.embed("A photograph of a sky")
        blocks = blocks_of(trace, text.vectors, names=WITHOUT_MIDDLE, half=half)
        values = reference.over_greatest(mean_map(blocks, len(text.vectors) - 2), trace.size)
        result = methods.PublishedOVAM(crf=False, queries=queries).segment(trace, ["sky"])
        assert_scores(result, "sky", values, 0.4)

    def test_tokens(self, trace):
        tokens = tokens_of("sky", rows=2)
        blocks = blocks_of(trace, tokens.groups[0].vectors, names=WITHOUT_MIDDLE, half="uncond")
        expected = mean_map(blocks, 1) + mean_map(blocks, 2)
        result = methods.PublishedOVAM(crf=False).segment(trace, tokens)
        assert_scores(result, "sky", reference.over_greatest(expected, trace.size), 0.75)

    def test_masks_are_those_of_a_crf_on_hard_labels(self, trace):
        plain = methods.PublishedOVAM(crf=False).segment(trace, ["sky"])["sky"]
        found = methods.PublishedOVAM().segment(trace, ["sky"])
        expected = hard_crf(plain, np.asarray(trace.image), PUBLISHED_CRF)
        assert torch.equal(found["sky"], expected)
        assert torch.equal(found.labels == 1, expected)

    def test_another_word_does_not_change_a_mask(self, trace):
        alone = methods.PublishedOVAM().segment(trace, ["sky"])
        assert torch.equal(methods.PublishedOVAM().segment(trace, ["dog", "sky"])["sky"], alone["sky"])

    def test_a_real_image_has_one_half(self):
        encoded = make_trace(kind="encoded")
        found = methods.PublishedOVAM(crf=False).segment(encoded, ["sky"])
        expected = methods.PublishedOVAM(crf=False, queries="cond").segment(encoded, ["sky"])
        assert torch.equal(found.scores, expected.scores)


class TestHardCrf:
    def test_is_the_mean_field_of_labels_that_are_99_percent_sure(self):
        random = np.random.default_rng(3)
        image = random.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        mask = torch.from_numpy(random.random((9, 12)) < 0.4)
        changes = {"scaled": False, "reach": 8.0, "colour_weight": 2.0, "smooth_weight": 1.0}
        word, kernels = np.where(mask, 0.99, 0.01), [(3.0, None, 1.0), (8.0, 13.0, 2.0)]
        expected = reference.dense_crf(np.stack([1 - word, word]), image, 5, kernels, 1e-9)[1]
        clear = np.abs(expected - 0.5) > 0.03  # the lattice's gaussian is not exact: see the tests of the CRF
        assert clear.mean() > 0.9
        assert ((expected > 0.5) == hard_crf(mask, image, replace(PUBLISHED_CRF, **changes)).numpy())[clear].all()

    def test_nothing_stays_nothing(self):
        empty = torch.zeros(4, 5, dtype=torch.bool)
        assert hard_crf(empty, np.zeros((4, 5, 3), np.uint8), PUBLISHED_CRF) is empty


class TestDatasetDiffusion:
    def expected(self, trace, maps, **changes):
        affinities = [trace.self_attention[name].values["cond"].double().numpy() for name in list(SELF)[:2]]
        options = {"products": 4, "threshold": 0.6, "ignored": 0.5} | changes
        return reference.dataset_diffusion(maps, affinities, (4, 8), trace.size, **options)

    def test_words_share_one_padded_prompt(self, trace):
        padded = trace.text.embed("dog hot dog sky", padded=True)
        blocks = blocks_of(trace, padded.vectors, names=["down_blocks.2.attn2", "up_blocks.1.attn2"])
        maps = [mean_map(blocks, 1), (mean_map(blocks, 2) + mean_map(blocks, 3)) / 2, mean_map(blocks, 4)]
        labels, values = self.expected(trace, maps)
        result = methods.DatasetDiffusion().segment(trace, ["dog", "hot dog", "sky"])
        for i, value in enumerate(values):
            scores = bent(value, 0.6).clip(0, 1)
            np.testing.assert_allclose(result.scores[i], scores, rtol=0, atol=5e-6)  # measured 6e-7
        assert (result.labels.numpy() == labels).mean() > 0.995
        assert set(np.unique(labels)) == {0, 1, 2, 3, 255}

    def test_tokens_keep_the_prompt_they_were_fitted_in(self, trace):
        tokens = tokens_of("sky")
        blocks = blocks_of(trace, tokens.groups[0].vectors, names=["down_blocks.2.attn2", "up_blocks.1.attn2"])
        labels, _ = self.expected(trace, [mean_map(blocks, 1)])
        result = methods.DatasetDiffusion().segment(trace, tokens)
        assert (result.labels.numpy() == labels).mean() > 0.995

    def test_a_value_at_the_threshold_is_the_word_s(self, trace, monkeypatch):
        maps = torch.linspace(0, 1, 32).reshape(1, 4, 8)
        monkeypatch.setattr(methods.DatasetDiffusion, "maps", lambda self, trace, entries: maps)
        small = replace(trace, size=(4, 8))
        threshold = float(maps[0, 2, 3])
        found = methods.DatasetDiffusion(threshold=threshold).segment(small, ["sky"])
        assert bool(found["sky"][2, 3])
        assert not bool(found["sky"][2, 2])

    def test_the_band_follows_the_threshold(self, trace):
        method = replace(methods.DatasetDiffusion(), threshold=0.4, band=0.0)
        assert 255 not in method.segment(trace, ["sky"]).labels
        with pytest.raises(OptionError, match=r"band=0.1: expected less than the threshold, 0.05"):
            replace(methods.DatasetDiffusion(), threshold=0.05)

    def test_the_default_self_attention_is_of_one_way_and_must_be_asked_for(self):
        kept = make_trace(parts={"4x8": (4, 8)})
        with pytest.raises(NothingCapturedError, match="only the mean over the blocks on the way up"):
            methods.DatasetDiffusion().segment(kept, ["sky"])
        assert methods.DatasetDiffusion(any_self_attention=True).segment(kept, ["sky"]).words == ("sky",)

    @pytest.mark.parametrize(
        ("words_at", "pixels_at", "words", "pixels"),
        [
            ("1/4", "1/2", (2, 4), (4, 8)),  # published
            ("1/1", "1/1", (8, 16), (8, 16)),
            ("1/2", "1/1", (4, 8), (8, 16)),
            ("1/4", "1/4", (2, 4), (2, 4)),
        ],
    )
    def test_the_grids_are_those_of_the_options(self, words_at, pixels_at, words, pixels):
        """A grid that is as fine as the finest one is read as it is; a coarser one is enlarged to the pixels'."""
        parts = {"down_blocks.1.attn1": pixels, "up_blocks.2.attn1": pixels, "up_blocks.1.attn1": (1, 2)}
        found = make_trace(parts=parts)
        padded = found.text.embed("dog sky", padded=True)
        blocks = blocks_of(found, padded.vectors, names=[name for name in WITHOUT_MIDDLE if GRIDS[name] == words])
        affinities = [found.self_attention[name].values["cond"].double().numpy() for name in list(parts)[:2]]
        method = methods.DatasetDiffusion(words_at=words_at, pixels_at=pixels_at)
        options = {"products": 4, "threshold": 0.6, "ignored": 0.5}
        maps = [mean_map(blocks, 1), mean_map(blocks, 2)]
        labels, values = reference.dataset_diffusion(maps, affinities, pixels, found.size, **options)
        result = method.segment(found, ["dog", "sky"])
        assert result.maps["dog"].shape == pixels
        for i, value in enumerate(values):
            np.testing.assert_allclose(result.scores[i], bent(value, 0.6).clip(0, 1), rtol=0, atol=5e-6)
        assert (result.labels.numpy() == labels).mean() > 0.995
        assert method.requires == {"blocks": "all", "self_attention": pixels_at}

    def test_words_at_the_finest_grid_are_read_there_alone(self, trace):
        """Without the coarser blocks nothing changes; by default there is nothing to read then."""
        finest = trace.select(blocks="1/1")
        method = methods.DatasetDiffusion(words_at="1/1")
        assert torch.equal(method.segment(finest, ["sky"]).scores, method.segment(trace, ["sky"]).scores)
        with pytest.raises(UnsupportedPipelineError, match="the grids 8x16: expected cross attention at 1/2 and 1/4"):
            methods.DatasetDiffusion().segment(finest, ["sky"])

    def test_words_of_a_finer_grid_than_the_pixels_are_means_there(self, trace, monkeypatch):
        """Each place of the pixels' grid gets the mean of its four places of the words' grid."""
        fine = torch.rand(2, 8, 16, generator=torch.Generator().manual_seed(0))
        monkeypatch.setattr("ovam.methods.dataset_diffusion._class_maps", lambda trace, entries: fine)
        found = methods.DatasetDiffusion(words_at="1/1").maps(trace, ["dog", "sky"])
        monkeypatch.setattr(
            "ovam.methods.dataset_diffusion._class_maps",
            lambda trace, entries: fine.unflatten(1, (4, 2)).unflatten(3, (8, 2)).mean((2, 4)),
        )
        torch.testing.assert_close(found, methods.DatasetDiffusion().maps(trace, ["dog", "sky"]), rtol=0, atol=1e-5)

    def test_the_line_that_captures_asks_for_the_grids_of_the_options(self, trace):
        method = methods.DatasetDiffusion(words_at="1/1", pixels_at="1/8")
        line = "ovam.capture(pipe, **ovam.methods.DatasetDiffusion(words_at='1/1', pixels_at='1/8').requires)"
        with pytest.raises(NothingCapturedError, match=f"1/8 of the finest grid.*none of it.*use {re.escape(line)}"):
            method.segment(trace, ["sky"])
        kept = make_trace(parts={"1x2": (1, 2)})
        with pytest.raises(NothingCapturedError, match="pixels_at='1/8', any_self_attention=True"):
            method.segment(kept, ["sky"])
        assert replace(method, any_self_attention=True).segment(kept, ["sky"]).words == ("sky",)

    @pytest.mark.parametrize("parts", [{}, {"8x16": (8, 16)}])
    def test_without_self_attention_of_that_grid(self, parts):
        with pytest.raises(NothingCapturedError, match=r"1/2 of the finest grid.*none of it.*by_name\('dataset-diff"):
            methods.DatasetDiffusion().segment(make_trace(parts=parts), ["sky"])


class TestEveryMethod:
    ALL = pytest.mark.parametrize("name", methods.names())

    @ALL
    def test_words_that_cannot_be_asked(self, trace, name):
        method = methods.by_name(name)
        for words, error in {("sky", "Sky"): OptionError, (): EmptyWordsError, ("!!",): EmptyWordsError}.items():
            with pytest.raises(error):
                method.segment(trace, list(words))

    @ALL
    def test_tokens_of_another_encoder(self, trace, name):
        foreign = replace(tokens_of("sky"), space=replace(synthetic.SPACE, encoder="Other"))
        with pytest.raises(SpaceMismatchError, match="were fitted for Other"):
            methods.by_name(name).segment(trace, ["dog", foreign])

    @ALL
    def test_a_trace_without_queries_or_without_the_half(self, trace, name):
        with pytest.raises(NothingCapturedError):
            methods.by_name(name).segment(replace(trace, blocks={}), ["sky"])
        if name == "attn2mask":
            return
        other = "cond" if name == "published-ovam" else "uncond"
        blocks = {key: replace(block, query={other: block.query[other]}) for key, block in trace.blocks.items()}
        with pytest.raises(NothingCapturedError, match="cond"):
            methods.by_name(name).segment(replace(trace, blocks=blocks), ["sky"])

    @ALL
    @pytest.mark.user_error
    @pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan"), "0.4", True])
    def test_thresholds_that_are_none(self, name, value):
        for field in ("threshold", "token_threshold"):
            with pytest.raises(OptionError, match=f"{field}="):
                replace(methods.by_name(name), **{field: value})

    @ALL
    def test_a_crf_without_a_picture(self, trace, name):
        method, latent = methods.by_name(name), replace(trace, image_png=None)
        if name in ("attn2mask", "published-ovam"):
            with pytest.raises(NothingCapturedError, match="no picture"):
                replace(method, crf=True).segment(latent, ["sky"])
            method = replace(method, crf=False)
        assert method.segment(latent, ["sky"]).size == trace.size


@pytest.mark.user_error
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.DAAM(scale="max"), "scale='max'"),
        (lambda: methods.DAAM(template="a {} here"), "template='a {} here'"),
        (lambda: methods.Attn2Mask(crf="yes"), "crf='yes'"),
        (lambda: methods.Attn2Mask(template=""), "template=''"),
        (lambda: methods.Attn2Mask(steps="last"), "steps='last'"),
        (lambda: methods.PublishedOVAM(queries="uncond"), "queries='uncond'"),
        (lambda: methods.DatasetDiffusion(products=0), "products=0"),
        (lambda: methods.DatasetDiffusion(words_at="1/3"), "words_at='1/3': expected one of '1/1', '1/2', '1/4'"),
        (lambda: methods.DatasetDiffusion(pixels_at=2), "pixels_at=2: expected one of '1/1'"),
        (lambda: methods.by_name("damm"), "method='damm'.*'daam'"),
    ],
)
def test_values_that_are_not_allowed(make, message):
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_family_that_a_method_cannot_read():
    pipe = tiny.sd3()
    pipe.set_progress_bar_config(disable=True)
    with ovam.capture(pipe) as traces:
        pipe("a dog", num_inference_steps=2, height=32, width=32)
    with pytest.raises(UnsupportedPipelineError, match=r"StableDiffusion3Pipeline with joint attention.*'daam'"):
        methods.DatasetDiffusion().segment(traces[0], ["dog"])
    assert methods.DAAM().segment(traces[0], ["dog", "sky"]).words == ("dog", "sky")


def test_a_model_whose_grids_are_halved_only_once(sd2):
    with ovam.capture(sd2, self_attention="1/2") as traces:
        sd2("a dog", num_inference_steps=2, height=32, width=32)
    with pytest.raises(UnsupportedPipelineError, match="at 1/2 and 1/4 of the finest grid"):
        methods.DatasetDiffusion().segment(traces[0], ["dog"])


class TestNeeds:
    def test_of_several_methods_together(self):
        every = [methods.by_name(name) for name in methods.names()]
        assert methods.requires_of(every) == {"blocks": "all", "guidance": "both", "self_attention": "1/2"}
        with_trained = methods.requires_of([methods.DAAM(), methods.DatasetDM()])
        assert with_trained["blocks"] == ["all", "down_blocks", "mid_block", "up_blocks"]
        assert methods.requires_of([methods.Attn2Mask()]) == {"blocks": "all", "steps": "middle"}
        assert methods.requires_of([methods.Attn2Mask(), methods.DAAM()]) == {"blocks": "all"}
        assert methods.requires_of([methods.PublishedOVAM()]) == {"blocks": "all", "guidance": "uncond"}
        assert methods.requires_of([]) == {}

    def test_that_contradict_each_other(self):
        class Finer(methods.DatasetDiffusion):
            requires = {"self_attention": "1/1"}  # noqa: RUF012

        with pytest.raises(OptionError, match="self_attention='1/1' for one method"):
            methods.requires_of([methods.DatasetDiffusion(), Finer()])

    def test_of_real_images_are_those_that_encode_takes(self):
        assert methods.PublishedOVAM().requires_encoded == {"blocks": "all"}
        assert methods.DatasetDiffusion().requires_encoded == {"blocks": "all", "self_attention": "1/2"}


class TestShareOfTheFinestGrid:
    @pytest.mark.parametrize(
        ("finest", "grids"),
        [
            ((64, 64), {(64, 64): 1, (32, 32): 2, (16, 16): 4, (8, 8): 8}),
            ((33, 33), {(17, 17): 2, (9, 9): 4, (5, 5): 8}),  # odd sides are rounded up at each halving
            ((24, 40), {(24, 40): 1, (12, 20): 2, (6, 10): 4, (3, 5): 8}),
        ],
    )
    def test_is_a_power_of_two(self, finest, grids):
        assert {grid: share_of(grid, finest) for grid in grids} == grids

    def test_chooses_blocks(self):
        assert choose_blocks(GRIDS, "1/1") == ("down_blocks.0.attn2",)
        assert choose_blocks(GRIDS, ["1/2", "1/8"]) == (
            "down_blocks.1.attn2",
            "down_blocks.3.attn2",
            "up_blocks.2.attn2",
        )
        with pytest.raises(
            MissingBlockError, match=r"block '1/16' fits none.*a size relative to the finest grid \('1/4'\)"
        ):
            choose_blocks(GRIDS, "1/16")

    def test_of_maps_and_of_self_attention(self, trace, sd1):
        assert trace.maps(["sky"], blocks="1/4").grid == (2, 4)
        with ovam.capture(sd1, blocks="1/2", self_attention="1/2") as traces:
            sd1("a dog", num_inference_steps=2, height=32, width=48)
        assert {block.grid for block in traces[0].blocks.values()} == {(8, 12)}
        assert {part.grid for part in traces[0].self_attention.values()} == {(8, 12)}
        assert {name.partition(".")[0] for name in traces[0].self_attention} == {"down_blocks", "up_blocks"}


VALUES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8)


@given(VALUES, st.floats(0.01, 0.99))
def test_scores_exceed_the_border_exactly_where_values_exceed_the_threshold(values, threshold):
    found = bordered(torch.tensor(values)[None, None], torch.tensor(threshold)[None, None, None])[0, 0]
    given_values = torch.tensor(values)
    assert torch.equal(found > 0.5, given_values > torch.tensor(threshold))
    order = given_values.argsort()
    assert (found[order].diff() >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


@given(st.integers(2, 6), st.integers(2, 6), st.integers(2, 13), st.integers(2, 13), st.integers(0, 99))
def test_the_bicubic_of_the_loops_is_that_of_torch(height, width, tall, wide, seed):
    image = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    found = F.interpolate(image[None, None].double(), (tall, wide), mode="bicubic")[0, 0]
    np.testing.assert_allclose(
        reference.bicubic(image.double().numpy(), (tall, wide)), found, rtol=0, atol=1e-12
    )  # measured 4e-15


class TestOwnMethods:
    """What someone who writes a method gets wrong is told by name."""

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (methods.DAAM(), "is no method"),
            (dict, "is no method"),
            (type("Bare", (methods.Method,), {}), "Bare.name is None"),
            (type("Spaced", (methods.Method,), {"name": "x y"}), "'x y'"),
            (type("Bare", (methods.Method,), {"name": "bare"}), "no default for threshold, token_threshold"),
        ],
    )
    def test_what_is_registered(self, wrong, message):
        before = methods.names()
        with pytest.raises(OptionError, match=message):
            methods.register(wrong)
        assert methods.names() == before

    @pytest.mark.user_error
    @pytest.mark.parametrize(
        ("wrong", "error", "message"),
        [
            (
                {"values": lambda values: values.mT},
                OptionError,
                r"of shape \(2, 32, 24\): .*'sky', each \(24, 32\)",
            ),
            ({"values": lambda values: values[:1]}, OptionError, "a map for each of 'dog', 'sky'"),
            ({"values": lambda values: values.numpy()}, OptionError, "WordScores.values is a ndarray"),
            ({"maps": lambda maps: maps[0]}, OptionError, "WordScores.maps is of shape"),
            ({"thresholds": lambda thresholds: thresholds[:1]}, OptionError, "1 numbers for 2 words"),
            ({"values": lambda values: values / 0}, NotFiniteError, "NaN or infinity"),
        ],
    )
    def test_what_is_found(self, trace, wrong, error, message):
        found = methods.WordScores(torch.rand(2, 3, 4), torch.rand(2, *trace.size), (0.5, 0.5))
        assert methods.segmentation_of(trace, ("dog", "sky"), found).words == ("dog", "sky")
        found = replace(found, **{name: change(getattr(found, name)) for name, change in wrong.items()})
        with pytest.raises(error, match=message):
            methods.segmentation_of(trace, ("dog", "sky"), found)


def test_the_method_of_the_page_keeps_the_contract():
    page = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    written, proven = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-2:]
    names = {"ovam": ovam, "__name__": "page"}
    exec(written.partition("ovam.methods.register")[0], names)
    exec(proven, names)
    case = names["TestFinest"]()
    tests = [getattr(case, name) for name in dir(case) if name.startswith("test_")]
    assert len(tests) > 10
    for test in tests:
        test()


class TestContractOfDAAM(MethodContract):
    def make_method(self):
        return methods.DAAM()


class TestContractOfAttn2Mask(MethodContract):
    def make_method(self):
        return methods.Attn2Mask()


class TestContractOfAttn2MaskWithACrf(MethodContract):
    def make_method(self):
        return methods.Attn2Mask(crf=True)


class TestContractOfPublishedOVAM(MethodContract):
    def make_method(self):
        return methods.PublishedOVAM()


class TestContractOfDatasetDiffusion(MethodContract):
    def make_method(self):
        return methods.DatasetDiffusion()


class TestContractOfDatasetDiffusionAtTheFinestGrid(MethodContract):
    def make_method(self):
        return methods.DatasetDiffusion(words_at="1/1", pixels_at="1/1")
