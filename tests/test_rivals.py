"""The rivals of token optimisation: each lowers its own loss, and the published protocol has the defects it says."""

import numpy as np
import pytest
import torch
from benchmarks.rivals import authors, harness, slime, words

import reference
from synthetic import make_trace
from test_tokens import planted_mask, reference_maps

SHORT = {"iterations": 12}


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@pytest.fixture(scope="module")
def mask(trace):
    return planted_mask(trace).numpy()


class Seen(list):
    """A watcher that keeps what it was told: (iteration, seconds, vectors)."""

    def __call__(self, *told):
        self.append(told)

    @property
    def vectors(self):
        return [told[2] for told in self]


def fine_map(trace, rows):
    """The class's map at the image's size by the second opinion."""
    return reference.resize(reference_maps(trace, rows.double().numpy())[0], trace.size)


@pytest.mark.parametrize(
    ("rival", "settings"),
    [
        (authors, authors.Settings(rate=30.0, **SHORT)),
        (authors, authors.Settings(rate=1.0, scale="mean", loss="shares", keep="best", **SHORT)),
        (slime, slime.Settings(**SHORT)),
    ],
    ids=["authors", "authors without defects", "slime"],
)
def test_a_rival_lowers_its_own_loss(rival, settings, trace, mask):
    seen = Seen()
    found = rival.fit([trace], [mask], "dog", settings, seen)
    start = harness.start_rows(trace, settings.template.format("dog"))
    losses = [float(rival.objective([trace], [mask], rows, settings)) for rows in (start, seen.vectors[-1])]
    assert losses[1] < 0.98 * losses[0]
    assert [told[0] for told in seen] == list(range(1, settings.iterations + 1))
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


def test_blocks_and_the_square_error_of_slime(trace, mask):
    rows = harness.start_rows(trace, "A photograph of a dog")
    some = slime.Settings(blocks=("coarse",), size=4)
    alone = slime.objective([trace.select(blocks=["coarse"])], [mask], rows, slime.Settings(size=4))
    assert slime.objective([trace], [mask], rows, some) == alone
    share, target = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 0.0]])
    entropy = -(np.log(0.5) + np.log(0.75)) / 2
    assert abs(float(slime.loss_of(share, target, 2.0)) - (entropy + 2 * (0.25 + 0.0625) / 2)) < 1e-6


def test_the_word_is_cut_at_its_threshold(trace, mask):
    seen = Seen()
    settings = words.Settings(0.3, 'a photograph of a "{}"')
    scores = words.fit([trace], [mask], "hot dog", settings, seen)(trace)
    word_map = trace.maps('a photograph of a "hot dog"')["hot dog"].numpy()
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
        told.append(seconds)
        for _ in range(50):
            next(now)

    told = []
    harness.descend(
        lambda rows: rows.square().sum(),
        torch.ones(2, 3),
        lambda rows: torch.optim.SGD(rows, lr=0.1),
        iterations=3,
        keep="last",
        watch=slow,
    )
    assert told == [1, 2, 3]
