"""Token optimisation against the second opinion: maps, loss and gradient; what a fit finds, keeps and refuses."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch

import ovam
import reference
import tiny
from ovam import errors
from ovam.maps.calibration import Calibration, stretched
from ovam.maps.thresholds import Thresholds
from ovam.masks.annotations import IGNORE, Annotation, annotation_from_labels, annotation_of, target_of
from ovam.tokens.class_maps import class_maps, share_sums
from ovam.tokens.loss import Target, loss_of
from ovam.tokens.objective import Objective, start_of, target_on
from ovam.tokens.optimize import optimize_tokens
from ovam.tokens.options import AGAINST, PHRASES
from ovam.tokens.token_set import BACKGROUND, Fit, TokenGroup, TokenSet
from ovam.trace.quantised import quantised
from synthetic import WIDTH, make_trace
from test_errors import assert_refuses

SMALL = {"grids": {"fine": (4, 6), "coarse": (2, 3)}, "heads": {"fine": 2, "coarse": 1}, "steps": 2}


def rows_of(count, seed=0):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def group_of(*classes, seed=0, **changes):
    made = {"calibrations": {}, "fit": Fit("synthetic"), **changes}
    return TokenGroup((BACKGROUND, *classes), rows_of(1 + len(classes), seed), **made)


def planted_mask(trace, seed=0):
    """Where the map of a random token is strongest, on three tenths of the image: what a fit can reach."""
    random = torch.Generator().manual_seed(seed)
    words = trace.text.embed("dog", as_phrase=True).taken_rows()
    planted = trace.maps(words.std() * torch.randn(2, words.shape[1], generator=random)).resized().token_maps[1]
    return planted > planted.quantile(0.7)


def reference_maps(trace, vectors):
    """Maps of all rows but the first by the second opinion, float64."""
    blocks = {}
    for name, block in trace.blocks.items():
        key = reference.block_keys(trace.text.projections[name].double().numpy(), vectors, block.heads)
        blocks[name] = (block.query["cond"].double().numpy(), key, block.scale, block.grid)
    return reference.mean_maps(reference.all_maps(blocks, [len(vectors)]))[None, None][1:]


@pytest.fixture(scope="module")
def trace():
    return make_trace()


@pytest.fixture(scope="module")
def mask(trace):
    return planted_mask(trace)


class TestObjective:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
    @pytest.mark.parametrize("rows", [2, 3])
    def test_maps_are_those_of_the_trace_and_of_the_reference(self, dtype, rows):
        trace = make_trace(dtype=dtype)
        found = class_maps(trace, rows_of(rows))
        # measured: 6e-8 and 2e-7
        assert (found - trace.maps(rows_of(rows)).token_maps[1:]).abs().max() < 1e-6
        assert np.abs(found.numpy() - reference_maps(trace, rows_of(rows).double().numpy())).max() < 1e-6

    @pytest.mark.parametrize("rows", [2, 4])
    def test_the_gradient_of_shares(self, rows):
        random = torch.Generator().manual_seed(0)
        query = torch.randn(2, 3, 4, 5, generator=random, dtype=torch.double)
        key = torch.randn(2, rows, 5, generator=random, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(lambda key: share_sums(query, key, 0.7), key)

    @pytest.mark.parametrize(
        "stored", [torch.Tensor.float, torch.Tensor.half, quantised], ids=["whole", "half", "eight"]
    )
    @pytest.mark.parametrize("rows", [2, 4])
    @pytest.mark.parametrize("floats", [1, 60, 200, 2**21])
    def test_queries_are_read_in_pieces(self, stored, rows, floats, monkeypatch):
        random = torch.Generator().manual_seed(0)
        query = stored(torch.randn(2, 3, 7, 5, generator=random) * torch.tensor([1.0, 0.2, 3.0])[:, None, None])
        key = torch.randn(2, rows, 5, generator=random, requires_grad=True)
        slope = torch.randn(rows - 1, 7, generator=random)
        expected = share_sums(query.float().double(), key.double(), 0.7).float()
        (wanted,) = torch.autograd.grad((expected * slope).sum(), key)
        monkeypatch.setattr("ovam.maps.attention._FLOATS", floats)
        found = share_sums(query, key, 0.7)
        (gradient,) = torch.autograd.grad((found * slope).sum(), key)
        assert torch.allclose(found, expected, atol=1e-6)  # measured: 3.6e-7 of sums up to 6
        assert torch.allclose(gradient, wanted, atol=2e-6)  # measured: 8.3e-7

    @pytest.mark.parametrize("classes", [1, 3])
    def test_the_loss_and_its_gradient(self, classes):
        random = torch.Generator().manual_seed(classes)
        logits = torch.randn(classes, 3, 4, generator=random, dtype=torch.double, requires_grad=True)
        shares = torch.rand(classes + 1, 3, 4, generator=random, dtype=torch.double)
        target = Target(shares / shares.sum(0), torch.rand(3, 4, generator=random, dtype=torch.double))
        expected = reference.token_loss(logits.detach().numpy(), target.shares.numpy(), target.weight.numpy())
        assert abs(loss_of([logits], [target]).item() - expected) < 1e-12  # measured: 4e-16
        assert torch.autograd.gradcheck(lambda logits: loss_of([logits], [target]), logits)

    def test_the_pull_is_on_the_mean_square_of_all_steps_calibrations_ten_times(self, trace, mask):
        target = target_on(trace, annotation_of({"sky": mask}, trace.size), ("sky",))
        objective = Objective([trace], [target], ("sky",), against=("dog",))
        steps = 0.1 * torch.randn(objective.parameters, generator=torch.Generator().manual_seed(0))
        vectors, scales, offsets = objective.split(steps)
        _, first, _ = objective.split(torch.zeros_like(steps))
        away = ((vectors - objective.start) / objective.unit).square().mean()
        steeper = torch.expm1(scales / 4 - 1).log() - torch.expm1(first / 4 - 1).log()
        border = (-offsets / scales).logit() - torch.tensor(0.6).logit()
        held = torch.cat([steeper, border]).square().mean()
        assert abs(objective.strain(steps) - (away + 10 * held)) < 1e-4 * (away + 10 * held)

    def test_the_whole_gradient_is_that_of_plain_loops(self):
        """Text side, shares, mean, calibration and loss together, along three directions."""
        trace = make_trace(**SMALL)
        labels = np.zeros(trace.size, dtype=np.uint8)
        labels[2:9, 3:8], labels[0] = 1, IGNORE
        annotation = Annotation(labels, ("sky",))
        objective = Objective([trace], [target_on(trace, annotation, ("sky",))], ("sky",))
        steps = 0.1 * torch.randn(objective.parameters, generator=torch.Generator().manual_seed(1))
        shares, weight = objective.targets[0].shares.double().numpy(), objective.targets[0].weight.double().numpy()

        def expected(at):
            vectors, scales, offsets = (part.double().numpy() for part in objective.split(at))
            fine = reference.resize(reference.min_max(reference_maps(trace, vectors).sum(0)), weight.shape)
            return reference.token_loss((scales[0] * fine + offsets[0])[None], shares, weight)

        loss = objective.loss(steps.requires_grad_(), 0.0)
        (gradient,) = torch.autograd.grad(loss, [steps])
        assert abs(float(loss.detach()) - expected(steps.detach().double())) < 1e-5
        for seed in range(3):
            way = torch.randn(len(steps), generator=torch.Generator().manual_seed(seed), dtype=torch.double)
            ends = [expected(steps.detach().double() + sign * 1e-4 * way) for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / 2e-4
            assert abs(float(gradient.double() @ way) - slope) < 1e-3 * max(1.0, abs(slope))


class TestFit:
    def test_a_planted_token_is_recovered(self, trace, mask):
        tokens = optimize_tokens(trace, {"whisker": mask}, against=(), evaluations=300, pull=0.0, distance=0.01)
        found = trace.segment(tokens)
        assert (found["whisker"] & mask).sum() >= 0.9 * (found["whisker"] | mask).sum()
        assert torch.equal(found.labels == 1, found["whisker"])
        record = tokens.groups[0].fit
        assert record.loss == min(record.losses) < 0.5 * record.losses[0]
        assert record.blocks == tuple(trace.blocks)
        assert record.timesteps == ((900.0, 899.0, 898.0),)

    def test_words_against_are_rows_of_the_background(self, trace, mask):
        """They begin as the words do, take part in the softmax, and have no map of their own."""
        (group,) = optimize_tokens(trace, {"whisker": mask}, against=["sky", "hot dog"], evaluations=3).groups
        assert group.rows == (*[BACKGROUND] * 3, *["whisker"] * len(PHRASES))
        (usual,) = optimize_tokens(trace, {"sky": mask}, evaluations=1).groups
        others = len(AGAINST)  # the start token's, and all but the class
        assert Counter(usual.rows) == {BACKGROUND: others, "sky": len(PHRASES)}
        target = target_on(trace, annotation_of({"whisker": mask}, trace.size), ("whisker",))
        objective = Objective([trace], [target], ("whisker",), against=("sky", "hot dog"), distance=1.0)
        words = ("sky", "hot dog", "whisker", "a photograph of the whisker", "the whisker")
        starts = [start_of(trace, [word])[0] for word in words]
        assert torch.allclose(objective.start, torch.stack([starts[0][0], *(rows[1] for rows in starts)]))
        nearer = Objective([trace], [target], ("whisker",), against=("sky", "hot dog"), distance=0.25)
        assert torch.allclose(nearer.start, starts[0][0] + 0.25 * (objective.start - starts[0][0]))
        expected = reference_maps(trace, group.vectors.double().numpy())[-len(PHRASES) :].sum(0)
        found = trace.maps(TokenSet((group,), trace.text.space))
        assert found.words == ("whisker",)
        assert np.abs(found["whisker"].numpy() - expected).max() < 1e-6  # measured: 4e-8
        (begun,) = objective.logits(torch.zeros(objective.parameters))
        begin = reference_maps(trace, objective.start.double().numpy())[-len(PHRASES) :].sum(0)
        expected = reference.min_max(begin)
        fine, one = (
            reference.resize(expected, tuple(target.weight.shape)),
            objective.unpacked(begun.new_zeros(objective.parameters))[1],
        )
        assert np.abs(begun[0].numpy() - (one["whisker"].scale * fine + one["whisker"].offset)).max() < 1e-4

    def test_the_best_is_kept_and_not_the_last(self, trace, mask, monkeypatch):
        """From the ninth evaluation on the loss rises; what came before is returned, with what it says of itself."""
        good, tried = loss_of, []

        def rising(logits, targets):
            tried.append(float(good(logits, targets).detach()))
            return good(logits, targets) + 10.0 * (len(tried) > 8)

        monkeypatch.setattr("ovam.tokens.objective.loss_of", rising)
        tokens = optimize_tokens(trace, {"whisker": mask}, against=(), evaluations=12, pull=0.0)
        monkeypatch.undo()
        group = tokens.groups[0]
        assert group.fit.loss == min(tried[:8])
        again = class_maps(trace, group.vectors).sum(0, keepdim=True)
        target = target_on(trace, annotation_of({"whisker": mask}, trace.size), ("whisker",))
        one = group.calibrations["whisker"]
        fine = torch.nn.functional.interpolate(stretched(again)[None], tuple(target.weight.shape), mode="bilinear")
        found = loss_of([one.scale * fine[0] + one.offset], [target])
        assert abs(float(found) - group.fit.loss) < 1e-5  # measured: 1e-7

    @pytest.mark.parametrize("most", [1, 2, 5, 9])
    def test_no_more_evaluations_are_made_than_were_asked_for(self, trace, mask, most):
        fits = [optimize_tokens(trace, {"whisker": mask}, evaluations=each).groups[0] for each in (most, 20)]
        assert fits[0].fit.losses == fits[1].fit.losses[:most]  # line searches that would go on included
        assert fits[0].fit.stopped == f"after {most} evaluations"

    def test_a_loss_that_ceases_to_be_finite(self, trace, mask, monkeypatch, caplog):
        good, calls = loss_of, []

        def breaking(logits, targets):
            calls.append(1)
            return good(logits, targets) * (float("nan") if len(calls) == 5 else 1.0)

        monkeypatch.setattr("ovam.tokens.objective.loss_of", breaking)
        with caplog.at_level(logging.WARNING, logger="ovam"):
            group = optimize_tokens(trace, {"whisker": mask}).groups[0]
        assert group.fit.stopped == "not finite in the loss of finite maps, at evaluation 5"
        assert "at evaluation 5" in caplog.text
        assert len(group.fit.losses) == 5
        assert torch.isfinite(group.vectors).all()
        assert group.fit.loss == min(group.fit.losses[:4])

    def test_queries_that_are_not_finite_are_named(self, mask):
        broken = make_trace()
        broken.blocks["coarse"].query["cond"][0, 1, 2] = float("nan")
        parts = ["block 'coarse'", "annotation 0", "evaluation 1"]
        assert_refuses(errors.NotFiniteError, parts, lambda: optimize_tokens(broken, {"whisker": mask}))

    def test_several_classes_share_one_background(self, trace):
        planted = trace.maps(rows_of(3, seed=5)).resized().token_maps[1:]
        winner = planted.argmax(0)
        strong = planted.amax(0) > planted.amax(0).quantile(0.4)
        masks = {"sky": (winner == 0) & strong, "hot dog": (winner == 1) & strong}
        tokens = optimize_tokens(trace, masks, against=(), evaluations=200, pull=0.0, distance=0.01)
        assert tokens.groups[0].rows == (BACKGROUND, *["sky"] * len(PHRASES), *["hot dog"] * len(PHRASES))
        labels = trace.segment(tokens).labels
        right = masks["sky"] + 2 * masks["hot dog"]
        assert (labels == right).float().mean() > 0.8  # chance of the greatest label: 0.4

    def test_ignored_pixels_do_not_count(self, trace, mask):
        """Whatever the mask says under ignored pixels, the fit is the same."""
        hidden = torch.zeros_like(mask)
        hidden[:4] = True
        fits = []
        for under in (0, 1):
            labels = mask.to(torch.uint8)
            labels[hidden] = under
            labels = torch.where(hidden, torch.tensor(IGNORE, dtype=torch.uint8), labels)
            fits.append(optimize_tokens(trace, {"whisker": labels}, evaluations=5).groups[0])
        assert torch.equal(fits[0].vectors, fits[1].vectors)
        whole = optimize_tokens(trace, {"whisker": mask}, evaluations=5).groups[0]
        assert not torch.equal(whole.vectors, fits[0].vectors)

    def test_several_annotations_weigh_alike_and_may_lack_a_class(self):
        first, second = make_trace(0), make_trace(1)
        masks = [{"sky": planted_mask(first)}, {"sky": planted_mask(second), "dog": ~planted_mask(second)}]
        masks[1]["dog"][:, 3:] = False
        tokens = optimize_tokens([first, second], masks, evaluations=15)
        assert tokens.classes == ("sky", "dog")
        assert len(set(tokens.groups[0].fit.annotations)) == 2
        twice = optimize_tokens([first, first], [masks[0], masks[0]], evaluations=15, pull=2.0)
        once = optimize_tokens(first, masks[0], evaluations=15, pull=1.0)  # half as strong beside two annotations
        assert torch.allclose(twice.groups[0].vectors, once.groups[0].vectors, atol=1e-4)

    def test_blocks_and_half_of_the_fit(self, mask):
        trace = make_trace(halves=("cond", "uncond"))
        chosen = optimize_tokens(trace, {"sky": mask}, blocks=["fine"], guidance="uncond", evaluations=3).groups[0].fit
        assert (chosen.blocks, chosen.half) == (("fine",), "uncond")

    def test_gradients_through_a_replay(self):
        """Of joint attention, along one direction, and none in the model's weights."""
        pipe = tiny.sd3()
        with ovam.capture(pipe, blocks=["transformer_blocks.0", "transformer_blocks.1"], dtype=torch.float32) as traces:
            pipe("a dog", num_inference_steps=2, height=32, width=32, max_sequence_length=16)
        trace = traces[0]
        rows = trace.text.embed("dog", as_phrase=True).taken_rows()[[0, 2]]
        way = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)) * rows.std()
        pixels = torch.randn(trace.blocks["transformer_blocks.0.attn"].grid, generator=torch.Generator().manual_seed(1))
        at = torch.zeros((), requires_grad=True)
        (slope,) = torch.autograd.grad((class_maps(trace, rows + at * way)[0] * pixels).sum(), [at])
        ends = [float((trace.maps(rows + sign * 1e-3 * way).token_maps[1] * pixels).sum()) for sign in (1, -1)]
        assert abs(float(slope) - (ends[0] - ends[1]) / 2e-3) < 0.02 * abs(float(slope))
        assert all(weight.grad is None for weight in pipe.transformer.parameters())

    def test_a_choice_of_blocks_may_be_read_once_only(self, trace, mask):
        both = [{"sky": mask}] * 2
        (group,) = optimize_tokens([trace] * 2, both, blocks=iter(["fine"]), evaluations=1).groups
        assert group.fit.blocks == ("fine",)

    def test_one_step_by_its_number(self, trace, mask):
        (group,) = optimize_tokens(trace, {"sky": mask}, steps=1, evaluations=1).groups
        assert group.fit.timesteps == ((trace.calls[1].timestep,),)

    def test_runs_in_inference_mode_can_be_fitted_to(self):
        pipe = tiny.sd1()
        with torch.inference_mode(), ovam.capture(pipe) as traces:
            pipe("a cat", num_inference_steps=1, height=32, width=32)
        half = np.arange(32)[:, None].repeat(32, 1) < 16
        (group,) = optimize_tokens(traces[0], {"cat": half}, evaluations=2).groups
        assert group.fit.losses[-1] < group.fit.losses[0]


class TestRefusals:
    def test_traces_that_do_not_go_together(self, trace, mask):
        fewer = trace.select(blocks=["fine"])
        both = [{"sky": mask}] * 2
        assert_refuses(
            errors.MissingBlockError, ["'coarse'", "trace 1", "blocks="], lambda: optimize_tokens([trace, fewer], both)
        )
        assert_refuses(
            errors.MissingBlockError, ["'mid'"], lambda: optimize_tokens(trace, {"sky": mask}, blocks=["mid"])
        )
        assert_refuses(
            errors.AnnotationError, ["1 annotations", "2 traces"], lambda: optimize_tokens([trace] * 2, both[:1])
        )

    @pytest.mark.parametrize(
        "option",
        [{"rows": 0}, {"rows": 4}, {"evaluations": 0}, {"pull": -1.0}, {"pull": float("nan")}, {"distance": 0.0}],
    )
    def test_options(self, trace, mask, option):
        message = f"{next(iter(option))}={next(iter(option.values()))}"
        assert_refuses(errors.OptionError, [message], lambda: optimize_tokens(trace, {"sky": mask}, **option))

    def test_a_class_that_is_background_as_well(self, trace, mask):
        assert_refuses(
            errors.OptionError,
            ["'sky'", "against"],
            lambda: optimize_tokens(trace, {"sky": mask}, against=["lawn", "sky"]),
        )
        assert_refuses(
            errors.OptionError, ["'sky'", "against"], lambda: optimize_tokens(trace, {"Sky": mask}, against=["sky"])
        )
        (usual,) = optimize_tokens(trace, {"Sky": mask}, evaluations=1).groups
        assert usual.rows.count(BACKGROUND) == len(AGAINST)  # the start token's, and all but the class

    def test_two_spellings_of_a_class(self, trace, mask):
        message = ["'sky' of annotation 0", "'Sky' in annotation 1"]
        both = [{"sky": mask}, {"Sky": mask}]
        assert_refuses(errors.AnnotationError, message, lambda: optimize_tokens([trace] * 2, both))

        assert_refuses(errors.EmptyWordsError, [], lambda: optimize_tokens(trace, {"sky": mask}, against=["lawn", " "]))

    def test_a_class_that_no_annotation_shows(self, trace):
        labels = np.zeros(trace.size, dtype=np.uint8)
        labels[3:6, 3:6] = 8
        annotation = annotation_from_labels(labels, {8: "cat", 12: "dog"}, trace.size)
        assert_refuses(errors.AnnotationError, ["'dog'"], lambda: optimize_tokens(trace, annotation))


class TestUse:
    def test_a_set_stands_wherever_words_do(self, trace):
        tokens = TokenSet((group_of("sky", "dog"), group_of("car", seed=1)), trace.text.space)
        mixed = trace.maps(["cat", tokens, "hot dog"])
        assert mixed.words == ("cat", "sky", "dog", "car", "hot dog")
        alone = trace.maps(tokens)
        for name in tokens.classes:
            assert torch.allclose(mixed[name], alone[name], atol=1e-6)
        assert torch.allclose(mixed["cat"], trace.maps(["cat"])["cat"], atol=1e-6)
        expected = reference_maps(trace, tokens.groups[0].vectors.double().numpy())
        assert np.abs(torch.stack([alone["sky"], alone["dog"]]).numpy() - expected).max() < 1e-6

    def test_merging_changes_no_map(self, trace):
        first, second = (TokenSet((group_of(name, seed=i),), trace.text.space) for i, name in enumerate(["sky", "car"]))
        both = first.merged(second)
        assert both.classes == ("sky", "car")
        found = trace.segment(both)
        for one in (first, second):
            (name,) = one.classes
            assert torch.allclose(trace.maps(both)[name], trace.maps(one)[name], atol=1e-6)
            assert torch.equal(found[name], trace.segment(one)[name])
        assert_refuses(errors.OptionError, ["'sky'", "twice"], lambda: first.merged(first))

    def test_scores_have_their_border_where_the_fit_put_it(self, trace):
        plain = TokenSet((group_of("sky"),), trace.text.space)
        tilted = TokenSet((group_of("sky", calibrations={"sky": Calibration(10.0, -2.0)}),), trace.text.space)
        stretched = reference.min_max(reference_maps(trace, plain.groups[0].vectors.double().numpy())[0])
        fine = reference.resize(stretched, trace.size)
        away = np.abs(fine - 0.2) > 1e-5  # not decided by rounding
        assert (trace.segment(tilted)["sky"].numpy() == (fine > 0.2))[away].all()
        expected = 1 / (1 + np.exp(-(10 * fine - 2)))
        assert np.abs(trace.segment(tilted).scores[0].numpy() - expected).max() < 1e-5
        dropped = trace.segment(["dog"], against=tilted)
        assert dropped.words == ("dog",)
        assert_refuses(errors.OptionError, ["'sky'", "twice"], lambda: trace.segment(["sky", plain]))

    def test_another_encoder_is_refused_with_both_names(self, sd1, sd2, trace):
        tokens = TokenSet((group_of("sky"),), trace.text.space)
        with ovam.capture(sd1) as traces:
            sd1("a dog", num_inference_steps=1, height=32, width=32)
        parts = [str(trace.text.space), str(traces[0].text.space), "sky"]
        for action in (lambda: traces[0].maps(tokens), lambda: traces[0].segment(["dog", tokens])):
            assert_refuses(errors.SpaceMismatchError, parts, action)

    def test_another_unet_of_the_encoder_is_noted(self, trace, caplog):
        tokens = TokenSet((group_of("sky", fit=Fit("elsewhere", blocks=("fine",))),), trace.text.space)
        with caplog.at_level(logging.INFO, logger="ovam"):
            trace.maps(tokens)
        assert "fitted on 'elsewhere', asked of 'synthetic'" in caplog.text
        assert "1 blocks" in caplog.text
        assert TokenSet((group_of("sky"),), trace.text.space).notes(trace) == ()

    def test_streamed(self, sd1):
        run = {"num_inference_steps": 2, "height": 32, "width": 32}
        with ovam.capture(sd1, dtype=torch.float32) as traces:
            sd1("a dog", **run, generator=torch.Generator().manual_seed(0))
        space = traces[0].text.space
        vectors = torch.randn(2, space.width, generator=torch.Generator().manual_seed(0))
        own = {"sky": Thresholds(mask=0.4)}
        tokens = TokenSet((TokenGroup((BACKGROUND, "sky"), vectors, {}, Fit("tiny"), thresholds=own),), space)
        with ovam.stream(sd1, ["dog", tokens]) as maps:
            sd1("a dog", **run, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(maps[0]["sky"], traces[0].maps(tokens)["sky"], atol=1e-5)
        assert maps[0].thresholds == own

    def test_tokens_can_not_be_padded(self, trace):
        tokens = TokenSet((group_of("sky"),), trace.text.space)
        assert_refuses(errors.OptionError, ["padded"], lambda: trace.maps(["dog", tokens], softmax_over="padded"))


def test_targets_are_areas():
    labels = np.zeros((4, 6), dtype=np.uint8)
    labels[:2, :3], labels[2, 2:] = 1, IGNORE
    shares, weight = target_of(Annotation(labels, ("sky",)), ("dog", "sky"), (2, 3))
    planes = reference.area_shares(np.stack([labels == 0, labels == 9, labels == 1]), (2, 3))
    assert np.allclose(weight, planes.sum(0))
    assert np.allclose(shares * weight, planes)
