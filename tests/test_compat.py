"""Calls remembered from DAAM mean what they meant there."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from ovam.compat.daam import trace
from ovam.errors import MissingBlockError, NothingCapturedError, UnknownWordError
from ovam.testing.evidence import ExplicitSoftmax

PROMPT = "a hot dog on the grass, a tree"
SIZE = {"height": 32, "width": 48, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def tracer():
    pipe = tiny.sd1()
    pipe.set_progress_bar_config(disable=True)
    with trace(pipe) as tracer:
        pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SIZE)
    return tracer


def test_maps_are_daams_but_for_the_number_of_calls_and_the_enlargement(tracer):
    """DAAM's own rule, on the attention that the model computes: enlarged to the finest grid, then averaged."""
    pipe = tiny.sd1()
    pipe.set_progress_bar_config(disable=True)
    names = list(tracer.traces[0].blocks)
    grids = {name: block.grid for name, block in tracer.traces[0].blocks.items()}
    explicit = {name: ExplicitSoftmax() for name in names}
    for name, processor in explicit.items():
        pipe.unet.get_submodule(name).set_processor(processor)
    pipe(PROMPT, generator=torch.Generator().manual_seed(0), **SIZE)
    finest, maps = max(grids.values()), []
    for name, processor in explicit.items():
        for seen in processor.seen:
            weights = seen.weights.chunk(2)[1][0]  # the conditional half: (head, pixel, token)
            of_heads = weights.transpose(1, 2).unflatten(-1, grids[name])
            maps.append(F.interpolate(of_heads, finest, mode="bilinear"))
    expected = torch.cat(maps).mean(0)
    found = tracer.compute_global_heat_map()
    assert found.heat_maps.shape[0] == 11  # start, eight words and the comma, end
    assert (found.heat_maps - expected[:11]).abs().max() < 1e-3  # measured 3e-4: queries in float16


def test_a_word_is_the_mean_of_its_tokens_wherever_it_stands(tracer):
    whole = tracer.compute_global_heat_map()
    for word, positions in {"grass": [6], "a": [1, 8], "hot dog": [2, 3], "Tree": [9]}.items():
        assert torch.equal(whole.compute_word_heat_map(word).value, whole.heat_maps[positions].mean(0)), word


def test_expanded_maps_are_height_by_width(tracer):
    word = tracer.compute_global_heat_map().compute_word_heat_map("dog")
    image = tracer.last_image
    assert image.size == (48, 32)
    values = word.expand_as(image)
    assert values.shape == (32, 48)
    assert (values.min(), values.max()) == (pytest.approx(0), pytest.approx(1))
    assert word.expand_as(image, absolute=True).max() < 0.9
    assert set(word.expand_as(image, threshold=0.5).unique().tolist()) == {0.0, 1.0}


def test_an_overlay_is_a_picture_and_a_file(tracer, tmp_path):
    word = tracer.compute_global_heat_map().compute_word_heat_map("dog")
    picture = word.plot_overlay(tracer.last_image, out_file=tmp_path / "dog.png")
    assert (tmp_path / "dog.png").stat().st_size > 100
    assert picture.width * 32 == picture.height * 48


def test_late_words_and_shares(tracer):
    late = tracer.compute_global_heat_map(prompt="a red boat")
    assert late.compute_word_heat_map("boat").value.shape == late.heat_maps.shape[1:]
    shares = tracer.compute_global_heat_map(normalize=True).heat_maps
    assert torch.allclose(shares[1:-1].sum(0), torch.ones(shares.shape[1:]), atol=1e-3)  # measured 1e-4


def test_factors_choose_grids(tracer):
    finest = tracer.compute_global_heat_map(factors={1}).heat_maps
    assert finest.shape[1:] == max(block.grid for block in tracer.traces[0].blocks.values())
    expected = tracer.traces[0].maps(PROMPT, softmax_over="padded", keep=("block",)).token_maps
    grids = [block.grid for block in tracer.traces[0].blocks.values()]
    assert torch.allclose(finest, expected[[grid == max(grids) for grid in grids]].mean(0)[:11], atol=1e-6)


@pytest.mark.user_error
def test_what_is_not_there_is_named(tracer):
    with pytest.raises(UnknownWordError, match=r"word 'sky' is not in the prompt .*expected some of a, hot, dog"):
        tracer.compute_global_heat_map().compute_word_heat_map("sky")
    with pytest.raises(UnknownWordError, match="word 'dog hot'"):
        tracer.compute_global_heat_map().compute_word_heat_map("dog hot")
    with pytest.raises(MissingBlockError, match=r"factors=\{3\}"):
        tracer.compute_global_heat_map(factors={3})
    with trace(tiny.sd1()) as empty, pytest.raises(NothingCapturedError):
        empty.compute_global_heat_map()
