"""Refinement by self-attention, held against plain loops in float64, and what it must do to a picture's edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ovam
import reference
import tiny
from ovam.errors import MissingBlockError, NothingCapturedError, OptionError
from ovam.maps.result import AttentionMaps, SelfAttention
from ovam.prompt import Span
from ovam.refine.options import RefineOptions

GRID, COARSE = (4, 6), (2, 3)


def affinity(grid, seed=0, *, peaked=6.0):
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.standard_normal((grid[0] * grid[1],) * 2).astype(np.float32))
    return SelfAttention(grid, torch.softmax(peaked * scores, dim=-1))


def maps_of(values, *parts, kept=()):
    """Maps (*kept, token, height, width) of words "0", "1", ..., with self-attention of these blocks."""
    tokens = tuple(str(i) for i in range(values.shape[-3]))
    spans = tuple(Span(token, (i,)) for i, token in enumerate(tokens))
    labels = {"step": tuple(range(len(values)))} if kept else {}
    held = {f"block.{i}": part for i, part in enumerate(parts)}
    return AttentionMaps(values, tokens, spans, (32, 48), labels, self_attention=held)


@pytest.fixture
def shares():
    """Maps of three tokens that share every pixel."""
    return torch.softmax(3 * torch.randn(3, *GRID, generator=torch.Generator().manual_seed(1)), dim=0)


METHODS = [
    {"method": "powers", "products": 1, "exponent": 1.0},
    {"method": "powers", "products": 4, "exponent": 1.0},
    {"method": "powers", "products": 2, "exponent": 2.0},
    {"method": "restart", "products": 5, "spread": 0.6},
    {"method": "sharpened", "products": 3, "sharpness": 0.05},
    {"method": "sharpened", "products": 1, "sharpness": 0.0},
]


class TestNumbers:
    @pytest.mark.parametrize("options", METHODS)
    def test_are_those_of_plain_loops(self, shares, options):
        part = affinity(GRID)
        expected = reference.refined(shares.flatten(1).numpy(), part.weights.numpy(), **options)
        found = maps_of(shares, part).refine(**options).token_maps.flatten(1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)  # measured 2.1e-7

    def test_axes_that_are_kept_apart_are_refined_one_by_one(self, shares):
        part, twice = affinity(GRID), torch.stack([shares, shares.flip(-1)])
        found = maps_of(twice, part, kept="step").refine().token_maps
        for apart, alone in zip(found, twice, strict=True):
            torch.testing.assert_close(apart, maps_of(alone, part).refine().token_maps, rtol=0, atol=1e-6)

    def test_blocks_of_one_grid_are_averaged_before_the_product(self, shares):
        first, second = affinity(GRID, 0), affinity(GRID, 1)
        mean = SelfAttention(GRID, (first.weights + second.weights) / 2)
        found = maps_of(shares, first, second).refine().token_maps
        torch.testing.assert_close(found, maps_of(shares, mean).refine().token_maps, rtol=0, atol=1e-6)
        assert torch.equal(first.weights, affinity(GRID, 0).weights)  # the kept ones stay as they were

    def test_by_default_the_finest_grid_is_used(self, shares):
        fine, coarse = affinity(GRID), affinity(COARSE)
        found = maps_of(shares, coarse, fine).refine().token_maps
        assert torch.equal(found, maps_of(shares, fine).refine().token_maps)

    def test_blocks_of_several_grids_give_the_mean_of_what_each_gives(self, shares):
        fine, coarse = affinity(GRID), affinity(COARSE)
        both = maps_of(shares, coarse, fine).refine(blocks=[2, 4]).token_maps
        each = [maps_of(shares, part).refine().token_maps for part in (fine, coarse)]
        torch.testing.assert_close(both, (each[0] + each[1]) / 2, rtol=0, atol=1e-6)


class TestRange:
    @pytest.mark.parametrize("options", METHODS)
    def test_no_map_leaves_its_own_range(self, shares, options):
        found = maps_of(shares, affinity(GRID)).refine(**options).token_maps
        for new, old in zip(found, shares, strict=True):
            assert old.min() - 1e-6 <= new.min()
            assert new.max() <= old.max() + 1e-6

    @pytest.mark.parametrize("options", METHODS[:4])
    def test_tokens_still_share_every_pixel(self, shares, options):
        found = maps_of(shares, affinity(GRID)).refine(**options).token_maps
        torch.testing.assert_close(found.sum(0), torch.ones(GRID), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("options", METHODS)
    def test_a_constant_map_stays_and_stays_finite(self, options):
        found = maps_of(torch.full((1, *GRID), 0.25), affinity(GRID)).refine(**options).token_maps
        torch.testing.assert_close(found, torch.full((1, *GRID), 0.25), rtol=0, atol=1e-6)

    def test_weights_of_zero_stay_finite(self, shares):
        two = SelfAttention(GRID, torch.eye(GRID[0] * GRID[1]))
        for options in METHODS:
            assert torch.isfinite(maps_of(shares, two).refine(**options).token_maps).all()


def test_an_edge_gets_sharper():
    """Two halves, in which pixels attend to their own half alone; the blurred map of the left one becomes a step."""
    columns = torch.arange(GRID[1])
    blurred = torch.sigmoid(2.5 - columns.float()).expand(*GRID)[None]
    left = (columns < GRID[1] // 2).repeat(GRID[0])
    same = (left[:, None] == left[None]).float()
    found = maps_of(blurred, SelfAttention(GRID, same / same.sum(1, keepdim=True))).refine(products=1)["0"]
    edge = GRID[1] // 2
    assert found[0, edge - 1] - found[0, edge] > 2 * (blurred[0, 0, edge - 1] - blurred[0, 0, edge])
    assert found[:, :edge].std() < 1e-6


@pytest.fixture(scope="module")
def trace():
    pipe = tiny.sd1()
    with torch.no_grad():
        for name, module in pipe.unet.named_modules():
            if name.endswith("attn1"):
                module.to_q.weight *= 6
                module.to_k.weight *= 6
    with ovam.capture(pipe, self_attention=[(12, 16), (6, 8)]) as traces:
        pipe("a dog", num_inference_steps=2, height=24, width=32, generator=torch.Generator().manual_seed(0))
    return traces[0]


class TestOnARun:
    def test_the_self_attention_of_the_half_of_the_maps_is_used(self, trace):
        maps = trace.maps(["dog"])
        parts = [part for part in trace.self_attention.values() if part.grid == (12, 16)]
        mean = sum(part.values["cond"] for part in parts) / len(parts)
        expected = torch.einsum("pq,q->p", mean @ mean, maps["dog"].flatten())
        found = maps.refine(products=2, exponent=1.0)["dog"].flatten()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_the_map_is_neither_constant_nor_as_before(self, trace):
        """The authors' released self-attention map is constant: its rows are multiplied with ones."""
        plain = trace.maps(["dog"])
        found = plain.refine(products=1)["dog"]
        assert found.std() > 0.05 * plain["dog"].std()
        assert not torch.allclose(found, plain["dog"], atol=1e-4)

    def test_without_self_attention_it_is_said_how_to_keep_it(self, trace):
        with pytest.raises(NothingCapturedError, match=r"no self-attention.*self_attention=True"):
            replace(trace, parts={}).maps(["dog"]).refine()

    def test_a_grid_that_was_not_kept_is_refused(self, trace):
        with pytest.raises(MissingBlockError, match=r"64.*12x16, 6x8"):
            trace.maps(["dog"]).refine(blocks=[64])


@pytest.mark.user_error
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"method": "crf"}, "method"),
        ({"products": 0}, "products"),
        ({"products": 2.5}, "products"),
        ({"exponent": 0}, "exponent"),
        ({"spread": 1.0}, "spread"),
        ({"spread": 0}, "spread"),
        ({"sharpness": -0.1}, "sharpness"),
        ({"sharpness": float("nan")}, "sharpness"),
        ({"blocks": [None]}, "blocks"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(given, named):
    with pytest.raises(OptionError, match=named):
        RefineOptions(**given)
