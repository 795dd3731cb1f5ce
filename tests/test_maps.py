"""Maps and masks against the second opinion of reference.py, for every storage type and every reduction."""

import re

import numpy as np
import pytest
import torch

import reference
from ovam.defaults import CHOSEN
from ovam.errors import OptionError
from ovam.maps import attention
from ovam.maps.attention import weight_sums
from ovam.maps.result import AttentionMaps
from ovam.prompt import Span
from ovam.trace.blocks import choose_blocks
from ovam.trace.calls import Call
from synthetic import GRIDS, HEADS, PADDED, make_trace

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KEEPS = [(), ("block",), ("head",), ("step",), ("head", "step"), ("block", "step")]
PROMPT, PHRASES = "a whisker on the hot dog", ["hot dog"]
# measured: 9e-7 on single weights, 7e-8 on means, for every storage type, since the sums are float32 whatever is stored
TOLERANCE = 5e-6


def references(trace, embeddings, half="cond"):
    """All single maps of a trace by the second opinion, from the queries as they are stored."""
    vectors = np.concatenate([embedding.vectors.double().numpy() for embedding in embeddings])
    lengths = [len(embedding.vectors) for embedding in embeddings]
    blocks = {}
    for name, block in trace.blocks.items():
        key = reference.block_keys(trace.text.projections[name].double().numpy(), vectors, HEADS[name])
        blocks[name] = (block.query[half].double().numpy(), key, block.scale, block.grid)
    return reference.all_maps(blocks, lengths)


def assert_maps_are(found, expected, tolerance=TOLERANCE):
    """Two stacks of maps agree, in shape and in every value."""
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= tolerance


def assert_reductions_are(maps, expected, keep, tolerance=TOLERANCE):
    """Each kept entry of the maps, found by its label, is the mean that the reference has under that label."""
    firsts = maps.kept.get("head", maps.kept.get("block", (None,)))
    steps = [call.index for call in maps.kept["step"]] if "step" in keep else [None]
    stacked = maps.token_maps.reshape(len(firsts), len(steps), *maps.token_maps.shape[-3:])
    means = reference.mean_maps(expected, keep)
    assert {(first, step) for first in firsts for step in steps} == set(means)
    for i, first in enumerate(firsts):
        for j, step in enumerate(steps):
            assert_maps_are(stacked[i, j], means[first, step], tolerance)


@pytest.fixture(scope="module")
def trace():
    return make_trace(halves=("cond", "uncond"))


@pytest.fixture(scope="module")
def expected(trace):
    return references(trace, [trace.text.embed(PROMPT)])


@pytest.mark.parametrize("keep", KEEPS, ids="+".join)
def test_every_reduction(trace, expected, keep):
    assert_reductions_are(trace.maps(PROMPT, keep=keep), expected, keep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_storage_type(dtype):
    stored = make_trace(dtype=dtype)
    maps = stored.maps(PROMPT)
    assert maps.token_maps.dtype == torch.float32
    assert_reductions_are(maps, references(stored, [stored.text.embed(PROMPT)]), ())


def test_narrow_storage_costs_little(expected):
    # measured against the unrounded queries: 9e-5 and 6.3e-4, on maps whose largest value is 0.37
    for dtype, floor in {torch.float16: 5e-4, torch.bfloat16: 3e-3}.items():
        narrow = make_trace(dtype=dtype, halves=("cond", "uncond"))
        assert_reductions_are(narrow.maps(PROMPT), expected, (), floor)


@pytest.mark.parametrize("keep", [(), ("head", "step")], ids="+".join)
def test_softmax_over_the_padded_prompt(trace, keep):
    maps = trace.maps(PROMPT, keep=keep, softmax_over="padded")
    assert maps.token_maps.shape[-3] == PADDED
    assert_reductions_are(maps, references(trace, [trace.text.embed(PROMPT, padded=True)]), keep)


@pytest.mark.parametrize("keep", [(), ("block",), ("head", "step")], ids="+".join)
def test_listed_words_are_prompts_of_their_own(trace, keep):
    words = ["sky", "hot dog", "whisker"]
    alone = [trace.text.embed(word, as_phrase=True) for word in words]
    maps = trace.maps(words, keep=keep)
    assert maps.words == tuple(words)
    assert_reductions_are(maps, references(trace, alone), keep)


def test_vectors_are_asked_like_words(trace):
    vectors = trace.text.embed(PROMPT).vectors[[3, 1]]
    embedding = type("Vectors", (), {"vectors": vectors})
    assert_reductions_are(trace.maps(vectors), references(trace, [embedding]), ())


def test_the_half_that_is_asked(trace, expected):
    unconditional = references(trace, [trace.text.embed(PROMPT)], "uncond")
    assert_reductions_are(trace.maps(PROMPT, guidance="uncond"), unconditional, ())
    assert_reductions_are(trace.maps(PROMPT), expected, ())


def test_chosen_blocks_and_steps(trace, expected):
    maps = trace.maps(PROMPT, blocks=["again", (3, 4)], steps=[2, 0])
    chosen = {key: value for key, value in expected.items() if key[0] != "fine" and key[2] != 1}
    assert_reductions_are(maps, chosen, ())


def test_one_step_by_its_number(trace):
    assert torch.equal(trace.maps(PROMPT, steps=1).token_maps, trace.maps(PROMPT, steps=[1]).token_maps)
    assert [call.step for call in trace.select(steps=0).calls] == [0]


LATTICES = {"a": (8, 16), "b": (16, 32), "c": (4, 8), "d": (8, 8), "e": (2, 2)}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ([8, 16], "abd"),
        ([(8, 16)], "a"),
        ((8, 4), "acd"),  # no grid
        ((16, 32), "b"),  # no two heights
        ((2, 2), "e"),  # both, and the same
        (("a", 16), "ab"),
        ((8, 16, 2), "abde"),
    ],
)
def test_two_numbers_are_a_grid_or_two_heights(choice, names):
    assert choose_blocks(LATTICES, choice) == tuple(names)


@pytest.mark.parametrize("choice", [(8, 16), (4, 8), (8, 8)])
def test_two_numbers_that_could_be_either_are_refused(choice):
    with pytest.raises(OptionError, match=re.escape(f"[{choice}] for the grid, or {list(choice)} for the heights")):
        choose_blocks(LATTICES, choice)


def test_coarse_blocks_alone_stay_on_their_grid(trace):
    maps = trace.maps(PROMPT, blocks=[3])
    assert maps.grid == GRIDS["coarse"]
    assert_reductions_are(maps, references(trace.select(blocks=["coarse"]), [trace.text.embed(PROMPT)]), ())


def test_calls_that_share_a_step_count_one_by_one():
    trace = make_trace(steps=3)
    shared = tuple(Call(i, step, 0.0) for i, step in enumerate([0, 1, 1]))  # as PNDM and Heun make them
    trace = type(trace)(trace.blocks, shared, trace.text, trace.source, trace.size)
    expected = references(trace, [trace.text.embed(PROMPT)])
    assert_reductions_are(trace.maps(PROMPT), expected, ())
    second = {key: value for key, value in expected.items() if key[2] > 0}
    assert_reductions_are(trace.maps(PROMPT, steps=[1]), second, ())


def test_word_maps_are_sums_of_token_maps(trace, expected):
    maps = trace.maps(PROMPT, phrases=PHRASES)
    token_maps = reference.mean_maps(expected)[None, None]
    positions = {"a": [1], "whisker": [2, 3, 4], "on": [5], "the": [6], "hot dog": [7, 8], "<start>": [0], "<end>": [9]}
    for word, tokens in positions.items():
        assert_maps_are(maps[word], reference.word_map(token_maps, tokens))
    for i, tokens in enumerate([positions[word] for word in maps]):
        assert_maps_are(maps[i], reference.word_map(token_maps, tokens))
        assert_maps_are(maps.stacked()[i], reference.word_map(token_maps, tokens))
    assert trace.maps(PROMPT).words == ("a", "whisker", "on", "the", "hot", "dog")
    kept = trace.maps(PROMPT, phrases=PHRASES, keep=("head", "step"))
    assert kept.stacked().shape == (sum(HEADS.values()), 3, 5, *GRIDS["fine"])
    assert torch.equal(kept["hot dog"], kept.token_maps[:, :, 7:9].sum(2))
    assert torch.equal(trace.maps(PROMPT, keep="step").stacked(), trace.maps(PROMPT, keep=("step",)).stacked())


@pytest.mark.parametrize(
    ("typed", "listed"), [("Cat", "cat"), ("cafe\u0301", "caf\u00e9"), ("caf\u00e9", "CAFE\u0301")]
)
def test_a_word_is_found_however_its_accents_are_composed_and_whatever_its_capitals(trace, typed, listed):
    maps, masks = trace.maps([typed, "sky"]), trace.segment([typed, "sky"])
    assert torch.equal(maps[listed], maps[0])
    assert torch.equal(masks[listed], masks.scores[0] > masks.threshold)


def test_padding_is_a_word_of_all_its_tokens(trace):
    maps = trace.maps("a sky", softmax_over="padded")
    assert torch.equal(maps["<pad>"], maps.token_maps[4:].sum(0))


@pytest.mark.parametrize("size", [(15, 14), (4, 5), (5, 7), (11, 3), (1, 1)], ids=str)
def test_resizing(size):
    random = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    maps = AttentionMaps(random, ("a", "b", "c"), (Span("a", (0,)),), (20, 14), {"step": (0, 1)})
    found = maps.resized(size).token_maps
    expected = np.stack([[reference.resize(plane.double().numpy(), size) for plane in step] for step in random])
    # measured: 3.3e-7
    assert_maps_are(found, expected, 2e-6)
    assert maps.resized().grid == (20, 14)


@pytest.mark.parametrize("floats", [1, 80, 240, 600, 2**25])
def test_weights_do_not_depend_on_how_the_queries_are_cut(floats, monkeypatch):
    monkeypatch.setattr(attention, "_FLOATS", floats)
    query, key = random_block(heads=2, steps=5, pixels=11, tokens=6)
    expected = reference.block_weights(query.double().numpy(), key.double().numpy(), 0.5, [4, 2])
    for keep_head in (False, True):
        for keep_step in (False, True):
            found = weight_sums(query, key, scale=0.5, lengths=[4, 2], keep_head=keep_head, keep_step=keep_step)
            axes = (() if keep_head else (0,)) + (() if keep_step else (1,))
            # measured: 8e-7 on sums of 10 weights
            assert_maps_are(found, expected.sum(axes, keepdims=True), 1e-5)


@pytest.mark.parametrize("size", [1e-20, 1.0, 2.0, 10.0, 1e4], ids=str)
@pytest.mark.parametrize("first", [0.0, -5.0, 5.0], ids=["first like others", "first lowest", "first highest"])
def test_scores_of_any_size(size, first):
    """The first token's score is a start token's in practice: often far above the others, never sure to be."""
    query, key = random_block(heads=1, steps=2, pixels=9, tokens=5)
    query, key[:, 0] = query.abs(), key[:, 0] + first
    found = weight_sums(query, size * key, scale=0.5, lengths=[5], keep_head=True, keep_step=True)
    expected = reference.block_weights(query.double().numpy(), size * key.double().numpy(), 0.5, [5])
    assert_maps_are(found, expected)  # measured: 1e-6, also where the scores pass what an exponential can hold


def test_gradient_with_respect_to_keys():
    query, key = random_block(heads=2, steps=2, pixels=4, tokens=4)
    direction = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(5))
    goal = torch.randn(4, 4, generator=torch.Generator().manual_seed(6))
    key.requires_grad_(True)
    (weight_sums(query, key, scale=0.5, lengths=[3, 1])[0, 0] * goal).sum().backward()

    def loss(shift):
        moved = (key.detach() + shift * direction).double().numpy()
        weights = reference.block_weights(query.double().numpy(), moved, 0.5, [3, 1]).sum((0, 1))
        return float((weights * goal.double().numpy()).sum())

    slope = (loss(1e-3) - loss(-1e-3)) / 2e-3
    # measured: 2.6e-5 of a slope of 0.27
    assert abs(float((key.grad * direction).sum()) - slope) < 1e-3


def random_block(heads, steps, pixels, tokens, sharp=2.0, head_dim=4):
    random = torch.Generator().manual_seed(0)
    query = sharp * torch.randn(heads, steps, pixels, head_dim, generator=random)
    return query, sharp * torch.randn(heads, tokens, head_dim, generator=random)


WORDS, AGAINST = ["sky", "hot dog", "whisker"], ["lawn", "the"]


def scores_of(trace):
    """Raw and calibrated maps of all words by the second opinion, and the scores' (word, height, width)."""
    prompts = [trace.text.embed(word, as_phrase=True) for word in [*WORDS, *AGAINST]]
    token_maps = reference.mean_maps(references(trace, prompts))[None, None]
    raw, start = [], 0
    for prompt in prompts:
        raw.append(reference.word_map(token_maps, [start + i for i in prompt.prompt.spans[0].tokens]))
        start += len(prompt.vectors)
    return raw, np.stack([reference.min_max(reference.resize(image, trace.size)) for image in raw])


def presence_of(trace, word, raw):
    chosen = CHOSEN["presence"]
    tokens = len(trace.text.embed(word, as_phrase=True).prompt.spans[0].tokens)
    return reference.presence(raw, chosen["scale"], chosen["offset"], tokens)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks(dtype, threshold):
    trace = make_trace(dtype=dtype)
    found = trace.segment(WORDS, against=AGAINST, threshold=threshold)
    raw, scores = scores_of(trace)
    # calibration divides by a map's spread; measured: 5e-7
    scores = reference.contested(scores[: len(WORDS)], scores[len(WORDS) :], threshold)
    assert_maps_are(found.scores, scores, 1e-5)
    margin = np.sort(np.concatenate([scores, np.full((1, *trace.size), threshold)]), axis=0)
    clear = (margin[-1] - margin[-2]) > 1e-4
    assert clear.mean() > 0.99  # elsewhere rounding may decide
    labels = reference.label_map(scores, len(WORDS), threshold)
    assert found.labels.shape == trace.size
    assert (found.labels.numpy() == labels)[clear].all()
    assert set(np.unique(labels)) == {0, 1, 2, 3}  # every outcome occurs
    for i, word in enumerate(WORDS):
        assert found.presence[word] == pytest.approx(presence_of(trace, word, raw[i]), abs=TOLERANCE)
        off = np.abs(scores[i] - threshold) > 1e-4
        assert (found[word].numpy() == (scores[i] > threshold))[off].all()


def test_rivals_only_take_away():
    trace = make_trace()
    with_rivals, without = (trace.segment(WORDS, against=against).labels for against in (AGAINST, []))
    assert ((with_rivals == without) | (with_rivals == 0)).all()
    assert (with_rivals != without).any()


def test_presence_is_of_the_strongest_pixels():
    """On a grid of more than a hundred pixels, where the strongest share is more than one."""
    trace = make_trace(grids={"fine": (12, 15)}, heads={"fine": 2}, sharp=0.5)
    raw = trace.maps(["sky"])["sky"].double().numpy()
    found = trace.segment(["sky"]).presence["sky"]
    assert found == pytest.approx(presence_of(trace, "sky", raw), abs=TOLERANCE)
    assert found < presence_of(trace, "sky", np.full(2, raw.max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_and_masks_are_float32_whatever_the_caller_has_set(trace, dtype):
    """Users ask inside the autocast or under the default type of their model; float32 is what is promised."""

    def answers():
        result = trace.segment(["dog", "sky"], against=["lawn"])
        return trace.maps(PROMPT).token_maps, trace.maps(["dog"], keep="head").token_maps, result.scores

    expected = answers()
    with torch.autocast("cpu", dtype):
        inside = answers()
    torch.set_default_dtype(dtype)
    try:
        under = answers()
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    for found in (inside, under):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
