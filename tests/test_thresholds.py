"""Thresholds of optimised tokens: what `segment` does with them, and how they are chosen on annotated pictures."""

import numpy as np
import pytest
import torch

import ovam
from ovam import errors
from ovam.commands.requests import plain
from ovam.maps.calibration import Calibration
from ovam.maps.thresholds import Thresholds, moved
from ovam.masks.annotations import IGNORE, Annotation
from ovam.tokens.thresholds import TRIED, best_presence, choose_thresholds
from ovam.tokens.token_set import TokenSet
from synthetic import make_trace
from test_errors import assert_refuses
from test_tokens import group_of


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@pytest.fixture(scope="module")
def tokens(trace):
    groups = (group_of("sky", calibrations={"sky": Calibration(9.0, -5.0)}), group_of("car", seed=1))
    return TokenSet(groups, trace.text.space)


class TestUse:
    def test_the_threshold_becomes_the_border_and_the_order_stays(self):
        values = torch.linspace(0, 1, 101)
        found = moved(values, 0.3)
        assert torch.equal(found > 0.5, values > 0.3)
        assert (found.diff() >= 0).all()
        inside = values[1:-1].double()
        expected = inside * 0.7 / (inside * 0.7 + (1 - inside) * 0.3)  # odds over those of the threshold
        assert (found[1:-1] - expected).abs().max() < 1e-6  # measured 1.2e-7
        assert torch.equal(moved(values, None), values)

    def test_segmenting_cuts_each_token_at_its_own(self, trace, tokens):
        before = trace.segment(tokens)
        own = tokens.with_thresholds({"sky": Thresholds(mask=0.31), "car": Thresholds(mask=0.62)})
        found = trace.segment(["lawn", own])
        for name, threshold in (("sky", 0.31), ("car", 0.62)):
            scores = before.scores[before.words.index(name)]
            clear = (scores - threshold).abs() > 1e-6  # not decided by rounding
            assert torch.equal(found[name][clear], (scores > threshold)[clear])
            assert 0 < found[name].float().mean() < 1
        lawn = trace.segment(["lawn"]).scores[0]
        assert (found.scores[0] - lawn).abs().max() < 1e-6, "a word has no threshold of its own"
        assert torch.equal(trace.maps(own).only(["Sky"]).segment()["sky"], trace.segment(own)["sky"])

    def test_below_its_presence_threshold_a_token_gets_no_pixels(self, trace, tokens):
        plain_presence = trace.segment(tokens).presence
        above, below = (min(0.99, 1.1 * plain_presence["sky"]), 0.9 * plain_presence["car"])
        own = tokens.with_thresholds({"sky": Thresholds(presence=above), "car": Thresholds(presence=below)})
        found = trace.segment(own)
        assert found.presence["sky"] < 0.5 < found.presence["car"]
        assert not found["sky"].any()
        assert torch.equal(found["car"], trace.segment(tokens)["car"])
        assert torch.equal(trace.segment(own, presence=0.0)["sky"], trace.segment(tokens)["sky"])
        assert not trace.segment(own, presence=0.99)["car"].any()
        refined_alike = ovam.methods.DAAM().segment(trace, own).presence
        assert refined_alike == pytest.approx(found.presence, abs=1e-6)

    def test_a_word_has_no_gate_of_its_own(self, trace, tokens):
        own = tokens.with_thresholds({"sky": Thresholds(mask=0.4)})
        assert trace.segment(own)["sky"].any()
        assert trace.segment(own).presence == pytest.approx(trace.segment(tokens).presence, abs=1e-6)

    def test_other_thresholds_are_another_request(self, tokens):
        """Or a second run would take the results of the first one for its own."""
        every = (tokens, *(tokens.with_thresholds({"sky": Thresholds(mask=level)}) for level in (0.4, 0.6)))
        assert len({str(plain(each)) for each in every}) == 3

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"mask": 1.0}, "mask=1.0"),
            ({"presence": 0.0}, "presence=0.0"),
            ({"mask": "0.5"}, "mask='0.5'"),
            ({"pictures": -1}, "pictures=-1"),
            ({"refined": 1}, "refined=1"),
        ],
    )
    @pytest.mark.user_error
    def test_values_are_checked(self, given, message):
        assert_refuses(errors.OptionError, [message], lambda: Thresholds(**given))


class TestChoice:
    def test_the_mask_threshold_has_the_best_iou_of_all_pictures_together(self, tokens):
        traces = [make_trace(seed) for seed in range(3)]
        masks = [trace.segment(tokens)["sky"].numpy() for trace in traces]
        masks = [np.roll(mask, 2, 1) for mask in masks]
        marks = [Annotation(mask.astype(np.uint8), ("sky",)) for mask in masks]
        marks[0].labels[:2] = IGNORE
        found = choose_thresholds(tokens, traces, marks).thresholds
        assert found.keys() == {"sky"}
        assert found["sky"].pictures == 3
        assert found["sky"].presence is None, "no picture lacks the class"
        best = {}
        for level in TRIED:
            both = either = 0
            for trace, mark in zip(traces, marks, strict=True):
                score = trace.segment(tokens).scores[0].numpy()
                for mine, label in zip((score > level).ravel(), mark.labels.ravel(), strict=True):
                    both += label != IGNORE and bool(mine and label)
                    either += label != IGNORE and bool(mine or label)
            best[level] = both / either
        assert best[found["sky"].mask] == max(best.values())

    def test_presence_parts_pictures_with_the_class_from_others(self, tokens):
        traces = [make_trace(seed) for seed in range(6)]
        levels = [trace.segment(tokens).presence["car"] for trace in traces]
        order = np.argsort(levels)
        mask = np.zeros(traces[0].size, dtype=bool)
        mask[:4] = True
        marks = [{"car": mask} if place in order[3:] else {} for place in range(6)]
        chosen = choose_thresholds(tokens, traces, marks)
        assert levels[order[2]] < chosen.thresholds["car"].presence < levels[order[3]]
        assert [bool(trace.segment(chosen)["car"].any()) for trace in traces] == [
            place in order[3:] for place in range(6)
        ]
        again = choose_thresholds(chosen, traces, marks)
        assert again.thresholds == chosen.thresholds, "earlier thresholds change nothing"

    def test_where_they_overlap_most_are_right(self):
        assert best_presence([0.6, 0.8, 0.9, 0.2], [0.1, 0.3, 0.4]) == pytest.approx(0.5)
        assert best_presence([0.5], []) is None

    @pytest.mark.user_error
    def test_what_can_not_be_used(self, trace, tokens):
        mask = np.zeros(trace.size, dtype=bool)
        mask[:4] = True
        refused = [
            ([trace], [], "0 annotations"),
            ([trace], [{}], "sky or car"),
            ([trace], [{"cow": mask}], "sky or car"),
        ]
        for traces, marks, message in refused:
            assert_refuses(
                errors.AnnotationError,
                [message],
                lambda traces=traces, marks=marks: choose_thresholds(tokens, traces, marks),
            )
        given = ([trace], [{"sky": mask}])
        assert_refuses(
            errors.NothingCapturedError, ["self_attention"], lambda: choose_thresholds(tokens, *given, refine=True)
        )
