"""What holds for any trace, whatever its numbers."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovam.maps.attention import weight_sums
from ovam.maps.calibration import stretched
from ovam.maps.result import AttentionMaps
from ovam.prompt import Span
from ovam.trace.static_text import StaticText
from ovam.trace.trace import BlockTrace, Trace
from ovam.tracing.decoded import png
from synthetic import make_trace

sizes = st.integers(1, 9)
seeds = st.integers(0, 10**6)
sharpness = st.sampled_from([1e-6, 1.0, 10.0, 1e3])
phrases = st.lists(
    st.sampled_from(["sky", "hot dog", "whisker", "a", "lawn", "grass mower"]), min_size=1, max_size=5, unique=True
)
# measured: 6e-7, from sums of up to 50 weights in another order
TOLERANCE = 5e-6


@st.composite
def sketches(draw, dtypes=(torch.float32,), halves=(("cond",),)):
    """Arguments of `make_trace`; the trace itself is made in the test, since shape checks draw random numbers."""
    names = draw(st.lists(st.sampled_from(["fine", "coarse", "again"]), min_size=1, unique=True))
    return {
        "seed": draw(seeds),
        "grids": {name: (draw(sizes), draw(sizes)) for name in names},
        "heads": {name: draw(st.integers(1, 3)) for name in names},
        "head_dim": draw(st.integers(1, 5)),
        "steps": draw(st.integers(1, 4)),
        "dtype": draw(st.sampled_from(dtypes)),
        "halves": draw(st.sampled_from(halves)),
        "sharp": draw(sharpness),
    }


def assert_same_maps(found, expected, tolerance=TOLERANCE):
    """Two stacks of maps agree, in shape and in every value."""
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@given(sketch=sketches(dtypes=(torch.float32, torch.float16, torch.bfloat16)), words=phrases)
def test_the_weights_of_each_prompt_sum_to_one(sketch, words):
    trace = make_trace(**sketch)
    for options in ({}, {"keep": ("head", "step")}, {"softmax_over": "padded"}):
        joint = trace.maps(" ".join(words) if "softmax_over" not in options else words[0], **options).token_maps
        assert_same_maps(joint.sum(-3), torch.ones_like(joint.sum(-3)))
        assert joint.min() >= 0
    separate = trace.maps(words).token_maps
    assert_same_maps(separate.sum(-3), torch.full_like(separate[0], float(len(words))))


@given(seed=seeds, heads=st.integers(1, 3), lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_weights_do_not_depend_on_prompts_beside_them(seed, heads, lengths):
    random = torch.Generator().manual_seed(seed)
    query, key = torch.randn(heads, 2, 6, 3, generator=random), torch.randn(heads, sum(lengths), 3, generator=random)
    together = weight_sums(query, key, scale=1.0, lengths=lengths)
    alone = [weight_sums(query, part, scale=1.0, lengths=[part.shape[1]]) for part in key.split(lengths, dim=1)]
    assert_same_maps(together, torch.cat(alone, dim=2))


@given(sketch=sketches(), data=st.data())
def test_the_order_of_steps_changes_nothing(sketch, data):
    trace = make_trace(**sketch)
    order = data.draw(st.permutations(range(len(trace.calls))))
    blocks = {
        name: replace(block, query={half: query[:, order] for half, query in block.query.items()})
        for name, block in trace.blocks.items()
    }
    shuffled = replace(trace, blocks=blocks)
    assert_same_maps(shuffled.maps("sky lawn").token_maps, trace.maps("sky lawn").token_maps)
    kept = trace.maps("sky lawn", keep=("step",)).token_maps
    assert_same_maps(shuffled.maps("sky lawn", keep=("step",)).token_maps, kept[order])


@given(sketch=sketches(), data=st.data())
def test_the_order_of_heads_changes_nothing(sketch, data):
    trace = make_trace(**sketch)
    shuffled, orders = shuffled_heads(trace, data)
    assert_same_maps(shuffled.maps("sky lawn").token_maps, trace.maps("sky lawn").token_maps)
    kept = trace.maps("sky lawn", keep=("head",))
    places = {label: i for i, label in enumerate(kept.kept["head"])}
    moved = [places[name, head] for name in trace.blocks for head in orders[name]]
    assert_same_maps(shuffled.maps("sky lawn", keep=("head",)).token_maps, kept.token_maps[moved])


def shuffled_heads(trace, data):
    """The trace of a model whose heads are numbered in another way."""
    blocks, projections, orders = {}, {}, {}
    for name, block in trace.blocks.items():
        order = orders[name] = data.draw(st.permutations(range(block.heads)))
        query = {half: query[list(order)] for half, query in block.query.items()}
        blocks[name] = BlockTrace(name, block.grid, block.scale, query)
        projections[name] = trace.text.projections[name].unflatten(0, (block.heads, -1))[list(order)].flatten(0, 1)
    text = StaticText(projections, trace.text.heads, trace.text.reader, trace.text.space)
    return replace(trace, blocks=blocks, text=text), orders


@given(sketch=sketches(), words=phrases, data=st.data())
def test_the_order_of_listed_words_changes_no_map(sketch, words, data):
    trace = make_trace(**sketch)
    order = data.draw(st.permutations(range(len(words))))
    maps, moved = trace.maps(words), trace.maps([words[i] for i in order])
    assert moved.words == tuple(words[i] for i in order)
    assert_same_maps(moved.stacked(), maps.stacked()[list(order)])
    for word in words:
        assert_same_maps(trace.maps([word])[word], maps[word])


@given(value=st.floats(0, 1, width=32), old=st.tuples(sizes, sizes), new=st.tuples(sizes, sizes))
def test_a_constant_map_stays_constant(value, old, new):
    maps = AttentionMaps(torch.full((1, *old), value), ("a",), (Span("a", (0,)),), (9, 9), {})
    resized = maps.resized(new)
    assert_same_maps(resized.token_maps, torch.full((1, *new), value))
    assert not stretched(resized[0]).any()


@given(seed=seeds, old=st.tuples(sizes, sizes), new=st.tuples(sizes, sizes))
def test_resizing_stays_in_range(seed, old, new):
    random = torch.rand(2, *old, generator=torch.Generator().manual_seed(seed))
    maps = AttentionMaps(random, ("a", "b"), (Span("a", (0,)),), (9, 9), {}).resized(new).token_maps
    assert maps.min() >= random.min() - TOLERANCE
    assert maps.max() <= random.max() + TOLERANCE


@settings(max_examples=20)
@given(
    sketch=sketches(
        dtypes=(torch.float32, torch.float16, torch.bfloat16), halves=(("cond",), ("uncond",), ("cond", "uncond"))
    ),
    grey=st.none() | st.integers(0, 255),
)
def test_a_saved_trace_is_the_same_trace(sketch, grey):
    trace = make_trace(**sketch | {"grids": dict.fromkeys(sketch["grids"], next(iter(sketch["grids"].values())))})
    trace = replace(trace, image_png=None if grey is None else png(Image.new("L", trace.size[::-1], grey)))
    with TemporaryDirectory() as folder:
        first, second = Path(folder, "first.safetensors"), Path(folder, "second.safetensors")
        trace.save(first)
        loaded = Trace.load(first)
        loaded.save(second)
        assert first.read_bytes() == second.read_bytes()
        trace.save(second)
        assert first.read_bytes() == second.read_bytes()
    assert_same_trace(loaded, trace)


def assert_same_trace(found, expected):
    """All that a trace holds is equal, to the last bit."""
    assert (found.calls, found.source, found.size) == (expected.calls, expected.source, expected.size)
    assert found.image_png == expected.image_png
    assert found.text.space == expected.text.space
    assert list(found.blocks) == list(expected.blocks)
    for name, block in expected.blocks.items():
        other = found.blocks[name]
        assert (other.grid, other.scale, list(other.query)) == (block.grid, block.scale, list(block.query))
        for half, query in block.query.items():
            assert other.query[half].dtype == query.dtype
            assert torch.equal(other.query[half], query)
        assert torch.equal(found.text.projections[name], expected.text.projections[name])
    vectors = expected.text.embed("a lawn").vectors
    assert torch.equal(found.maps(vectors).token_maps, expected.maps(vectors).token_maps)
