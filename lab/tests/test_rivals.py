"""The rivals of token optimisation: each lowers its own loss, and the published protocol has the defects it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import reference
from lab.rivals import authors, harness, slime, words
from ovam.trace.trace import BlockPart
from synthetic import make_trace
from test_tokens import planted_mask, reference_maps

SHORT = {"iterations": 12}


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@pytest.fixture(scope="module")
def looking(trace):
    """The same trace with self-attention, sharp enough to tell its directions apart."""
    weights = (3 * torch.randn(2, 35, 35, generator=torch.Generator().manual_seed(5))).softmax(-1)
    blocks = {name: BlockPart(name, (5, 7), {"cond": weights[i]}) for i, name in enumerate(("first", "second"))}
    return replace(trace, parts={"self_attention": blocks})


@pytest.fixture(scope="module")
def mask(trace):
    return planted_mask(trace).numpy()


class Seen(list):
    """A watcher that keeps what it was told: (iteration, seconds, vectors)."""

    def __call__(self, *step):
        self.append(step)

    @property
    def vectors(self):
        return [step[2] for step in self]


def fine_map(trace, rows):
    """The class's map at the image's size by the second opinion."""
    return reference.resize(reference_maps(trace, rows.double().numpy())[0], trace.size)


@pytest.mark.parametrize(
    ("rival", "settings"),
    [
        (authors, authors.Settings(rate=30.0, **SHORT)),
        (authors, authors.Settings(rate=1.0, scale="mean", loss="shares", keep="best", **SHORT)),
    ],
    ids=["authors", "authors without defects"],
)
def test_a_rival_lowers_its_own_loss(rival, settings, trace, mask):
    seen = Seen()
    found = rival.fit([trace], [mask], "dog", settings, seen)
    start = harness.start_rows(trace, settings.template.format("dog"))
    losses = [float(rival.objective([trace], [mask], rows, settings)) for rows in (start, seen.vectors[-1])]
    assert losses[1] < 0.98 * losses[0]
    assert [step[0] for step in seen] == list(range(1, settings.iterations + 1))
    scores = found(trace)
    assert scores.shape == trace.size
    assert 0 <= scores.min() < 0.5 < scores.max() <= 1
    assert np.array_equal(scores, rival.fitted(seen.vectors[-1], settings)(trace))
    twice = rival.objective([trace, trace], [mask, ~mask], start, settings)
    each = [float(rival.objective([trace], [m], start, settings)) for m in (mask, ~mask)]
    assert abs(float(twice) - np.mean(each)) < 1e-6


def test_the_published_loss_is_that_of_plain_loops(trace, mask):
    """Both maps stretched by the extremes of both, and a softmax of what are shares already."""
    rows = harness.start_rows(trace, "A photograph of a dog")
    share = fine_map(trace, rows)
    both = np.stack([1 - share, share])
    both = (both - both.min()) / (both.max() - both.min())
    shares = np.exp(both) / np.exp(both).sum(0)
    expected = -np.log(np.where(mask, shares[1], shares[0])).mean()
    found = authors.objective([trace], [mask], rows, authors.PUBLISHED)
    assert abs(float(found) - expected) < 1e-5  # measured: 2e-7


def test_a_perfect_map_has_a_loss_as_published_and_none_without_the_defect():
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert abs(authors.loss_of(target, target, authors.PUBLISHED.loss) - np.log(1 + np.exp(-1))) < 1e-6
    assert authors.loss_of(target, target, "shares") < 1e-3


def test_the_divisor_of_the_published_protocol_never_acts():
    share = torch.linspace(0.1, 0.9, 6).view(2, 3)
    found = authors.scaled(share, authors.PUBLISHED.scale)
    assert torch.allclose(torch.stack([found.min(), found.max()]), torch.tensor([0.0, 1.0]))
    assert torch.equal(authors.scaled(share, "mean"), share)
    uneven = authors.scaled(torch.tensor([[0.3, 0.9]]), authors.PUBLISHED.scale)  # the background's least is 0.1
    assert torch.allclose(uneven, torch.tensor([[0.25, 1.0]]))


def test_the_last_vectors_are_returned_as_published_and_the_best_where_asked(trace, mask, monkeypatch):
    """On a loss that rises at this rate, each step leading to -1.1 times the vectors."""
    monkeypatch.setattr(authors, "objective", lambda traces, masks, rows, settings: rows.square().sum())
    start = harness.start_rows(trace, authors.PUBLISHED.template.format("dog"))
    given = {}
    for keep in (authors.PUBLISHED.keep, authors.SCRIPT.keep):
        seen = Seen()
        authors.fit([trace], [mask], "dog", authors.Settings(rate=1.05, iterations=3, keep=keep), seen)
        given[keep] = seen.vectors
    assert list(given) == ["last", "best"]
    assert all(torch.equal(rows, start) for rows in given["best"])
    for i, rows in enumerate(given["last"], start=1):
        assert torch.allclose(rows, (-1.1) ** i * start)


def test_the_rate_falls_in_steps(trace, mask):
    """A factor of 0 after three iterations stops it."""
    seen = Seen()
    authors.fit([trace], [mask], "dog", authors.Settings(every=3, factor=0.0, iterations=5), seen)
    _, second, third, *rest = seen.vectors
    assert not torch.equal(second, third)
    assert all(torch.equal(third, rows) for rows in rest)


def test_queries_of_the_batch_s_first_half_as_published(mask):
    trace = make_trace(halves=("cond", "uncond"))
    rows = harness.start_rows(trace, "A photograph of a dog")
    other = authors.Settings(queries="cond")
    published, conditional = (authors.objective([trace], [mask], rows, s) for s in (authors.PUBLISHED, other))
    trace.blocks["fine"].query["cond"].zero_()
    assert authors.objective([trace], [mask], rows, authors.PUBLISHED) == published
    assert authors.objective([trace], [mask], rows, other) != conditional


def test_a_class_begins_as_the_last_token_of_the_last_word(trace):
    embedded = trace.text.embed("A photograph of a dining table")
    assert embedded.prompt.tokens[-3:] == ("tab", "le", "<end>")
    rows = harness.start_rows(trace, "A photograph of a dining table")
    assert torch.equal(rows, embedded.vectors[[0, -2]])


def test_slime_lowers_its_own_loss(looking, mask):
    settings, seen = slime.Settings(least=0.0, **SHORT), Seen()
    found = slime.fit([looking], [mask], "dog", settings, seen)
    start = slime.start_row(looking, settings)
    assert torch.equal(start[0], looking.text.embed("part part").vectors[1])
    losses = [float(slime.objective([looking], [mask], row, settings)) for row in (start, seen.vectors[-1])]
    assert losses[1] < 0.98 * losses[0]
    scores = found(looking)
    assert scores.shape == looking.size
    assert 0 <= scores.min() < 0.5 < scores.max() <= 1


def test_slime_s_loss_is_that_of_plain_loops(looking, mask):
    """Scores before any softmax, means of heads and blocks; their shares spread by what each pixel attends to."""
    settings = slime.Settings(size=9, square=2.0)
    rows = torch.stack([looking.text.embed("part part").vectors[i] for i in (0, 1)])
    scores = looped_scores(looking, rows, (9, 9))
    target = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), (9, 9))[0].round().numpy()
    entropy = np.mean([-np.log(reference.softmax(scores[:, y, x])[int(target[y, x])]) for y, x in np.ndindex(9, 9)])
    shares = looped_spread(looking, np.apply_along_axis(reference.softmax, -1, np.moveaxis(scores, 0, -1)))
    wrong = [(reference.resize(shares[..., i], (9, 9)) - (target if i else 1 - target)) ** 2 for i in range(2)]
    found = slime.objective([looking], [mask], rows[1:], settings)
    assert abs(float(found) - (entropy + 2 * np.mean(wrong) * 2)) < 1e-6  # measured: 1e-7


def looped_scores(trace, rows, size):
    """Mean over heads and steps, then over blocks, (row, *size)."""
    blocks = []
    for name, block in trace.blocks.items():
        query = block.query["cond"].double().numpy()
        key = reference.block_keys(trace.text.projections[name].double().numpy(), rows.double().numpy(), block.heads)
        means = np.mean(
            [[query[h, s] @ key[h].T * block.scale for s in range(query.shape[1])] for h in range(block.heads)], (0, 1)
        )
        blocks.append([reference.resize(means[:, i].reshape(block.grid), size) for i in range(len(rows))])
    return np.mean(blocks, axis=0)


def looped_spread(trace, shares):
    """What each place of the 5 x 7 grid attends to, of shares (height, width, row)."""
    weights = np.mean([each.values["cond"].double().numpy() for each in trace.self_attention.values()], axis=0)
    areas = torch.from_numpy(np.moveaxis(shares, -1, 0))[None]
    coarse = torch.nn.functional.interpolate(areas, size=(5, 7), mode="area")[0].flatten(1).numpy()
    found = [[sum(row[k] * each[k] for k in range(35)) for row in weights] for each in coarse]
    return np.moveaxis(np.array(found).reshape(2, 5, 7), 0, -1)


def test_slime_compares_spread_maps_of_the_whole_prompt_in_their_own_ranges(looking):
    settings = slime.Settings(least=0.0)
    row = slime.start_row(looking, settings)
    background, own = slime.both_maps(looking, row, settings)
    maps = looking.maps("part part", softmax_over="padded").token_maps[:2]
    for found, each in ((background, maps[0]), (own, maps[1])):
        assert found.shape == looking.size
        assert torch.allclose(torch.stack([found.min(), found.max()]), torch.stack([each.min(), each.max()]), atol=1e-6)
    shares = np.moveaxis(np.stack([np.where(maps[0] > maps[0].mean(), maps[0], 0), maps[1]]).astype(float), 0, -1)
    spread = looped_spread(looking, shares)
    for i, found in enumerate((background, own)):
        wide = reference.resize(spread[..., i], looking.size)
        assert np.corrcoef(wide.ravel(), found.numpy().ravel())[0, 1] > 1 - 1e-6
    scores = slime.fitted(row, settings)(looking)
    assert np.array_equal(scores > 0.5, (own > background).numpy())


def test_slime_tuned_cuts_the_stretched_map_at_its_threshold(looking):
    settings = slime.Settings(threshold=0.7, size=9)
    row = slime.start_row(looking, settings)
    rows = torch.cat([looking.text.embed("part part").vectors[:1], row])
    scores = np.moveaxis(looped_scores(looking, rows, (9, 9)), 0, -1)
    shares = looped_spread(looking, np.apply_along_axis(reference.softmax, -1, scores))[..., 1]
    stretched = reference.min_max(reference.resize(shares, looking.size))
    away = np.abs(stretched - 0.7) > 1e-4  # not decided by rounding
    assert np.array_equal((slime.fitted(row, settings)(looking) > 0.5)[away], (stretched > 0.7)[away])


def test_slime_reads_narrow_queries_as_they_are_worth(looking, mask):
    narrow = replace(looking, blocks=make_trace(dtype=torch.float16).blocks)
    row, settings = slime.start_row(looking, slime.PUBLISHED), slime.PUBLISHED
    wide, found = (float(slime.objective([trace], [mask], row, settings)) for trace in (looking, narrow))
    assert abs(found - wide) < 1e-4 * wide  # measured: 6e-6


def test_slime_takes_a_class_whose_map_is_low_for_absent(looking):
    settings = slime.Settings(least=0.99)
    assert not slime.fitted(slime.start_row(looking, settings), settings)(looking).any()


def test_the_word_is_cut_at_its_threshold(trace, mask):
    seen = Seen()
    settings = words.Settings(0.3, "a photograph of a {}")
    scores = words.fit([trace], [mask], "hot dog", settings, seen)(trace)
    word_map = trace.maps("a photograph of a hot dog", phrases=["hot dog"])["hot dog"].numpy()
    stretched = reference.min_max(reference.resize(word_map, trace.size))
    away = np.abs(stretched - 0.3) > 1e-5  # not decided by rounding
    assert np.array_equal((scores > 0.5)[away], (stretched > 0.3)[away])
    assert len(seen) == 1


def test_the_border_comes_to_lie_at_a_half():
    values = torch.tensor([0.0, 0.4, 0.8, 0.81, 0.9, 1.0, float("nan")])
    found = harness.bordered(values, 0.8)
    assert np.allclose(found, [0, 0.25, 0.5, 0.525, 0.75, 1, 0])
    assert (found > 0.5).tolist() == (values > 0.8).tolist()


def test_a_watcher_s_own_time_does_not_count(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: float(next(now)))

    def slow(iteration, seconds, vectors):
        times.append(seconds)
        for _ in range(50):
            next(now)

    times = []
    harness.descend(
        lambda rows: rows.square().sum(),
        torch.ones(2, 3),
        lambda rows: torch.optim.SGD(rows, lr=0.1),
        iterations=3,
        keep="last",
        watch=slow,
    )
    assert times == [1, 2, 3]
