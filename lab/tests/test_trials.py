"""Trials of what carries an annotation further: each changes what it names; one that names nothing changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.fits import trials
from lab.fits.methods import variant
from lab.fits.traces import View
from lab.fits.trials import Trial, TrialObjective
from lab.rivals.spread import spread
from ovam.evaluate import average_precision
from ovam.masks.annotations import annotation_of
from ovam.tokens.objective import Objective, target_on
from ovam.tokens.options import AGAINST, PULL
from ovam.trace.trace import BlockPart
from synthetic import HEADS, make_trace
from test_tokens import planted_mask


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@pytest.fixture(scope="module")
def mask(trace):
    return planted_mask(trace).numpy()


def objective(trace, mask, **changes):
    return TrialObjective([trace], [mask], "dog", Trial(**changes))


def steps_of(objective, spread=0.05):
    return spread * torch.randn(objective.parameters, generator=torch.Generator().manual_seed(0))


def test_a_trial_that_changes_nothing_has_the_default_loss(trace, mask):
    tried = objective(trace, mask)
    target = target_on(trace, annotation_of({"dog": mask}, trace.size), ("dog",))
    default = Objective([trace], [target], ("dog",), against=AGAINST)
    steps = steps_of(tried)
    assert tried.parameters == default.parameters
    assert (tried.maps(trace, steps) - default.maps(trace, steps)).abs().max() < 1e-6  # measured: 6e-8
    assert abs(tried.loss(steps, 3.0) - default.loss(steps, 3.0)) < 1e-5  # measured: 1e-6


def test_rows_of_a_class_add_up(trace, mask):
    tried = objective(trace, mask, rows=2)
    steps = steps_of(tried)
    vectors, *_ = tried.split(steps)
    maps = trace.maps(vectors).token_maps
    assert len(maps) == 1 + len(AGAINST) + 2
    assert (tried.maps(trace, steps)[0] - maps[-2:].sum(0)).abs().max() < 1e-6  # measured: 6e-8
    assert not torch.equal(tried.start[-1], tried.start[-2])  # else they would stay alike for ever


@pytest.mark.parametrize("weighted", ["blocks", "heads"])
def test_weights_are_those_of_the_mean_and_are_held_back(weighted, trace, mask):
    tried = objective(trace, mask, weighted=weighted)
    assert tried.weights == (len(HEADS) if weighted == "blocks" else sum(HEADS.values()))
    steps = steps_of(tried)
    vectors, *_ = tried.split(steps)
    given = (tried.weights**0.5 * steps[-tried.weights :]).exp()
    of_head = torch.cat(
        [
            given[i].expand(heads) if weighted == "blocks" else given[sum([*HEADS.values()][:i]) :][:heads]
            for i, heads in enumerate(HEADS.values())
        ]
    )
    maps = trace.maps(vectors, keep=("head",)).token_maps[..., -tried.rows :, :, :]
    maps = maps.sum(-3).reshape(sum(HEADS.values()), -1)
    right = (of_head[:, None] * maps).sum(0) / of_head.sum()
    assert (tried.maps(trace, steps).flatten() - right).abs().max() < 1e-6  # measured: 6e-8
    free = torch.cat([steps[: -tried.weights], torch.zeros(tried.weights)])
    held = tried.strain(steps) - tried.strain(free)
    assert abs(held - given.log().square().mean()) < 1e-5


def test_the_heads_that_are_kept_are_those_whose_own_maps_fit_best(trace, mask):
    tried = objective(trace, mask, heads=0.5)
    maps = [each.numpy() for each in trials.of_heads(trace, tried.start, tried.rivals)]
    finest = np.array([average_precision(mask, _resized(each, trace.size)) for each in maps])
    kept = tried.kept.bool().numpy()
    assert kept.sum() == 3  # of 6
    assert finest[kept].min() >= finest[~kept].max()
    alone = sum(torch.from_numpy(maps[i]) for i in np.flatnonzero(kept)) / 3
    assert (tried.maps(trace, torch.zeros(tried.parameters))[0] - alone).abs().max() < 1e-6


def _resized(found, size):
    return torch.nn.functional.interpolate(torch.from_numpy(found)[None, None], size=size, mode="bilinear")[
        0, 0
    ].numpy()


def test_maps_are_spread_by_the_rows_of_self_attention(trace, mask):
    """A pixel takes what it attends to: here each attends to the one after it alone, in one block of two."""
    grid = (3, 4)
    onward = torch.eye(12).roll(1, dims=1)
    blocks = {
        name: BlockPart(name, each, {"cond": weights})
        for name, each, weights in (("a", grid, onward), ("b", grid, torch.eye(12)), ("c", (5, 7), torch.eye(35)))
    }
    maps = torch.arange(12.0).view(1, *grid)
    found = spread(replace(trace, parts={"self_attention": blocks}), maps, 3)
    assert torch.equal(found.flatten(), (maps.flatten() + maps.flatten().roll(-1)) / 2)
    even = {"a": BlockPart("a", grid, {"cond": torch.full((12, 12), 1 / 12)})}  # all that is spread becomes flat
    kept = replace(trace, parts={"self_attention": even})
    for trial in (Trial(spread=3), Trial(spread_asked=3)):
        assert trials.fit(trial, [kept], [mask], "dog")(kept).max() < 0.5


def test_a_fit_of_a_trial_finds_the_mask(trace, mask):
    scores = trials.fit(Trial(weighted="heads", pull=0.0), [trace], [mask], "dog")(trace)
    found = scores > 0.5
    assert (found & mask).sum() / (found | mask).sum() > 0.6  # measured: 0.86


def test_several_views_of_one_annotation_pull_as_one_does():
    one, three = variant({"heads": 0.5}), variant({"heads": 0.5, "noises": 3})
    assert one.fit.args[0].pull == PULL
    assert three.fit.args[0].pull == 3 * PULL  # which is divided by the number of traces
    assert [view.noise for view in three.views] == [0, 1, 2]
    assert variant({"mirrored": True}).fit.args[0] == {"pull": 2 * PULL}
    assert variant({"timesteps": [10, 300]}).views == [View(timesteps=(10, 300))]
    with pytest.raises(TypeError):
        variant({"heads": 0.5, "against": []})  # a trial has no such option, and would leave it out without a word


def test_a_mirrored_view_mirrors_pictures_and_masks_alike():
    picture = np.arange(12).reshape(2, 2, 3)
    assert View(mirrored=True).of(picture).tolist() == picture[:, ::-1].tolist()
    assert View(mirrored=True).of(picture[..., 0]).tolist() == picture[..., 0][:, ::-1].tolist()
