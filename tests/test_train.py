"""Training: it learns, goes on where it stopped, and leaves a folder that transformers loads alone."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
from typer.testing import CliRunner

import labelled
from ovam.cli import app
from ovam.cli.training import weighted
from ovam.errors import DatasetError, ModelNotFoundError, OptionError, OvamError
from ovam.train import TrainOptions, load, predict, train
from ovam.train.cases import choose
from ovam.train.curves import ticks
from ovam.train.folder import read_labelled
from ovam.train.mixture import collated
from ovam.train.model_input import Scaling
from ovam.train.options import PLAIN
from ovam.train.scores import masks_and_classes, scores_of
from ovam.train.segmenter import start
from ovam.train.survey import survey

SPARSE = {17: "disc", 90: "square"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Two training sets with sparse ids, a validation set with others, and a tiny model."""
    folder = tmp_path_factory.mktemp("training")
    labelled.dataset(folder / "real", 12, classes=SPARSE)
    labelled.dataset(folder / "made", 12, seed=1, classes=SPARSE)
    labelled.dataset(folder / "val", 7, seed=2, size=(48, 60))
    labelled.tiny_segformer(folder / "tiny")
    return folder


def opened(file):
    with Image.open(file) as picture:
        return picture.copy()


def options(here, **changes):
    return TrainOptions(**{"arch": str(here / "tiny"), "batch_size": 4, "size": 64, "learning_rate": 3e-3, **changes})


def run(here, name, given, **changes):
    sets = [(here / "real", 1), (here / "made", 1)]
    return train(sets, here / "val", here / name, options=given, device="cpu", **changes)


@pytest.fixture(scope="module")
def learnt(here):
    """A training of 60 steps: what it returned."""
    state = torch.random.get_rng_state()
    result = run(here, "learnt", options(here, steps=60, evaluate_every=20))
    assert torch.equal(torch.random.get_rng_state(), state)  # random numbers of the caller go on as before
    return result


class TestResult:
    def test_it_learns(self, learnt):
        loss = [point["loss"] for point in learnt["curve"] if "loss" in point]
        assert np.mean(loss[-5:]) < 0.5 * np.mean(loss[:5])  # measured: 0.31
        assert learnt["figures"]["miou"] > 0.7  # measured: 0.86; 0.25 of a constant map
        miou = {point["step"]: point["miou"] for point in learnt["curve"] if "miou" in point}
        assert list(miou) == [20, 40, 60]
        assert learnt["best_step"] == max(miou, key=miou.get)
        assert learnt["figures"]["miou"] == pytest.approx(max(miou.values()), abs=1e-4)

    def test_files(self, here, learnt):
        folder = here / "learnt"
        assert json.loads((folder / "result.json").read_text())["figures"] == learnt["figures"]
        report = (folder / "report.md").read_text()
        assert all(text in report for text in ("disc", "square", "curves.png", "cases.png", "mIoU 0."))
        for name in ("curves.png", "cases.png"):
            with Image.open(folder / name) as picture:
                assert picture.width > 600
        assert [case["kind"] for case in learnt["cases"]] == ["good"] * 3 + ["median"] + ["bad"] * 3
        assert [entry["id"] for entry in learnt["classes"]] == [0, 17, 90]
        assert [entry["weight"] for entry in learnt["data"]] == [1, 1, None]
        modes = {(folder / name).stat().st_mode for name in ("config.json", "model.safetensors")}
        assert len(modes) == 1

    def test_transformers_alone_predicts_the_same(self, here, learnt):
        folder, files = here / "learnt", sorted((here / "val/images").iterdir())
        model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
        assert model.config.id2label == {0: "background", 1: "disc", 2: "square"}
        processor = AutoImageProcessor.from_pretrained(folder)
        ours = load(folder)
        assert ours.classes.ids == (0, 17, 90)
        for file in files:
            picture = opened(file)
            with torch.inference_mode():
                output = model(**processor(picture, return_tensors="pt"))
            sizes = [(picture.height, picture.width)]
            theirs = processor.post_process_semantic_segmentation(output, target_sizes=sizes)[0]
            found = ours(file)
            assert found.shape == (48, 60)
            assert (np.array([0, 17, 90])[theirs.numpy()] == found).mean() > 0.999  # rounding at outlines

    def test_label_maps_are_evaluated(self, here, learnt):
        files = sorted((here / "val/images").iterdir())
        assert predict(here / "learnt", files, here / "predicted") == SPARSE
        truth = here / "truth"
        truth.mkdir()
        for file in sorted((here / "val/masks").iterdir()):
            mask = np.asarray(opened(file))
            Image.fromarray(np.array([*(0, 17, 90), *[255] * 253], np.uint8)[mask]).save(truth / file.name)
        names = here / "predicted/names.json"
        done = CliRunner().invoke(
            app, ["evaluate", str(here / "predicted"), str(truth), "--names", str(names), "--json"]
        )
        assert json.loads(done.stdout)["figures"]["miou"] == pytest.approx(learnt["figures"]["miou"], abs=1e-4)

    def test_two_pictures_of_one_name(self, here, learnt):
        file = here / "val/images/000000.png"
        with pytest.raises(OptionError, match="two pictures have the name 000000"):
            predict(here / "learnt", [file, here / "real/images/000000.png"], here / "twice")


GIVEN = {"steps": 9, "evaluate_every": 4, "accumulate": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def unbroken(here):
    """Folder of a training that was not interrupted."""
    run(here, "unbroken", options(here, **GIVEN))
    return here / "unbroken"


class TestResume:
    @pytest.mark.parametrize("stop", [3, 4, 6])
    def test_a_training_that_was_interrupted_ends_with_the_same_weights(self, here, unbroken, stop):
        """Ctrl-C within the rhythm of checkpoints or on it; a torn checkpoint lies there as well."""
        name, given = f"stopped-{stop}", options(here, **GIVEN)

        def interrupt(what, done, total):
            if what.startswith("training") and done == stop:
                os.kill(os.getpid(), signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(OvamError, match=rf"stopped at step {stop} of 9: resume it with resume=True"):
            run(here, name, given, progress=interrupt)
        assert signal.getsignal(signal.SIGINT) is before
        torn = here / name / "checkpoints/checkpoint-8"
        torn.mkdir()
        (torn / "trainer_state.json").write_text("{")
        with pytest.raises(OptionError, match=f"holds a training up to step {stop}: expected a new folder"):
            run(here, name, given)
        with pytest.raises(OptionError, match=r"other settings .*seed was 0, is 1"):
            run(here, name, replace(given, seed=1), resume=True)
        result = run(here, name, given, resume=True)
        for file in ("model.safetensors", "checkpoints/checkpoint-9/model.safetensors"):
            first, second = load_file(unbroken / file), load_file(here / name / file)
            assert all(torch.equal(first[key], second[key]) for key in first)
        curve = json.loads((unbroken / "result.json").read_text())["curve"]
        miou = [[point for point in each if "miou" in point] for each in (curve, result["curve"])]
        assert miou[0] == miou[1]

    def test_another_seed_gives_other_weights(self, here, unbroken):
        """So that equal weights above mean something."""
        run(here, "other", replace(options(here, **GIVEN), seed=1))
        first, second = (load_file(folder / "model.safetensors") for folder in (unbroken, here / "other"))
        assert not all(torch.equal(first[key], second[key]) for key in first)

    def test_a_training_that_is_over(self, here, unbroken):
        before = (unbroken / "model.safetensors").read_bytes()
        run(here, "unbroken", options(here, **GIVEN), resume=True)
        assert (unbroken / "model.safetensors").read_bytes() == before

    def test_the_model_is_that_of_the_best_step_with_all_its_weights(self, here, unbroken):
        """Here of one before the last; the Trainer's own loading would mix the two, see `ovam.train.trainer`."""
        folder = shutil.copytree(unbroken, here / "best")
        best, last = folder / "checkpoints/checkpoint-8", folder / "checkpoints/checkpoint-9"
        state = json.loads((last / "trainer_state.json").read_text())
        state |= {"best_global_step": 8, "best_model_checkpoint": str(best)}
        (last / "trainer_state.json").write_text(json.dumps(state))
        assert run(here, "best", options(here, **GIVEN), resume=True)["best_step"] == 8
        kept, final, later = (load_file(each / "model.safetensors") for each in (best, folder, last))
        assert all(torch.equal(kept[key], final[key]) for key in kept)
        assert not all(torch.equal(later[key], final[key]) for key in kept)

    def test_nothing_to_resume(self, here):
        with pytest.raises(OptionError, match="holds no checkpoint"):
            run(here, "nothing", options(here), resume=True)


class TestOtherModels:
    @pytest.mark.parametrize("kind", ["upernet", "mask2former"])
    def test_a_step_and_what_it_leaves(self, here, kind):
        folder = getattr(labelled, f"tiny_{kind}")(here / kind)
        given = options(here, arch=str(folder), steps=2, augment=PLAIN)
        result = run(here, f"{kind}-out", given)
        assert all(point["loss"] < 100 for point in result["curve"] if "loss" in point)
        name, auto = ("mask2former", AutoModelForUniversalSegmentation), AutoModelForSemanticSegmentation
        model = (name[1] if kind == name[0] else auto).from_pretrained(here / f"{kind}-out").eval()
        processor = AutoImageProcessor.from_pretrained(here / f"{kind}-out")
        file = here / "val/images/000000.png"
        inputs = processor(opened(file), return_tensors="pt")
        with torch.inference_mode():
            output = model(**inputs)
        theirs = processor.post_process_semantic_segmentation(output, target_sizes=[(48, 60)])[0].numpy()
        agreeing = (np.array([0, 17, 90])[theirs] == load(here / f"{kind}-out")(file)).mean()
        assert agreeing > 0.97  # Mask2Former's own way goes by 384 x 384 pixels

    def test_names_begin_with_random_weights_of_a_seed(self):
        classes = survey_classes()
        first, second, third = (start("segformer-b0", classes, size=64, seed=seed).model for seed in (0, 0, 1))
        weights = [next(iter(each.parameters())) for each in (first, second, third)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert first.config.semantic_loss_ignore_index == 255
        assert first.config.num_labels == 3

    def test_a_head_of_other_classes_is_begun_anew(self, here):
        labelled.tiny_segformer(here / "five", labels=5)
        begun = start(str(here / "five"), survey_classes(), size=64, seed=0)
        assert begun.model.config.num_labels == 3
        assert begun.own_weights

    @pytest.mark.parametrize(
        ("arch", "parts"),
        [
            ("segfromer", ["'segfromer' is unknown", "'segformer-b0'", "mask2former"]),
            ("mask2fromer", ["'mask2former'"]),
            ("nobody/nothing", ["could not be loaded", "give a folder"]),
        ],
    )
    def test_unknown(self, here, arch, parts):
        with pytest.raises(ModelNotFoundError) as caught:
            run(here, "unknown", options(here, arch=arch, steps=1))
        assert all(part in str(caught.value) for part in parts)
        assert not (here / "unknown").exists()

    def test_a_folder_of_another_kind(self, here):
        with pytest.raises(ModelNotFoundError, match=r"without config\.json"):
            load(here / "val")
        (here / "clip").mkdir()
        (here / "clip/config.json").write_text('{"model_type": "clip"}')
        with pytest.raises(ModelNotFoundError, match="is a clip: expected one that segments"):
            load(here / "clip")


def survey_classes():
    from ovam.train.classes import Classes

    return Classes.of(labelled.CLASSES)


class TestIgnored:
    def loss(self, here, folder, labels, universal=False):
        """Loss as the trainer has it, without dropout."""
        from ovam.train.trainer import SegmentationTrainer

        begun = start(str(folder), survey_classes(), size=64, seed=0)
        trainer = SegmentationTrainer.__new__(SegmentationTrainer)
        trainer.model, trainer._universal = begun.model.eval(), universal
        pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        return trainer.compute_loss(begun.model, {"pixel_values": pixels, "labels": labels})

    def test_what_is_ignored_does_not_change_the_loss(self, here, learnt):
        labels = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
        ignored = labels.clone()
        ignored[:, 32:] = 255
        model = start(str(here / "learnt"), survey_classes(), size=64, seed=0).model.eval()
        pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits = torch.nn.functional.interpolate(model(pixel_values=pixels).logits, size=(64, 64), mode="bilinear")
            right = torch.nn.functional.cross_entropy(logits[:, :, :32], labels[:, :32]).item()
        found, other = (self.loss(here, here / "learnt", each).item() for each in (ignored, labels))
        assert found == pytest.approx(right, abs=1e-5)
        assert other != pytest.approx(right, abs=1e-4)

    def test_a_batch_without_labels_has_no_loss(self, here):
        loss = self.loss(here, here / "tiny", torch.full((2, 64, 64), 255))
        loss.backward()
        assert loss.item() == 0

    def test_truths_of_a_model_of_masks(self):
        labels = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
        masks, classes = masks_and_classes(labels, 3)
        assert [each.tolist() for each in classes] == [[0, 2], []]
        assert masks[0].tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]]]
        assert masks[1].shape == (0, 2, 2)

    def test_scores_of_masks(self):
        """Two sure queries: one of class 1 on the left, one of class 0 on the right."""
        masks = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
        queries = torch.tensor([[[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]]])
        output = type("Output", (), {"class_queries_logits": queries, "masks_queries_logits": masks})()
        assert scores_of(output).argmax(1).tolist() == [[[1, 0]]]


class TestRules:
    def test_cases(self):
        scores = [0.5, float("nan"), 0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6, 0.4, 1.0]
        chosen = {kind: [case.index for case in choose(scores, 2) if case.kind == kind] for kind in ("good", "bad")}
        assert chosen == {"good": [10, 2], "bad": [7, 3]}
        assert [case.index for case in choose(scores, 2) if case.kind == "median"] == [8, 0]
        assert [case.kind for case in choose([0.5, 0.5, 0.4])] == ["good", "good", "bad"]
        assert [case.index for case in choose([0.5])] == [0]
        assert choose([float("nan")]) == []

    @pytest.mark.parametrize(("low", "high"), [(0, 0), (0.31, 0.32), (-5, 1200), (1e-7, 3e-7)])
    def test_ticks(self, low, high):
        marks = ticks(low, high)
        assert marks[0] <= low + 1e-12
        assert marks[-1] >= high - 1e-12
        assert 2 <= len(marks) <= 8

    def test_weights_on_the_command_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "take:2").mkdir()
        for text, expected in {
            "real:1": ("real", 1),
            "real": ("real", 1),
            "a:b:0.25": ("a:b", 0.25),
            "real:x": ("real:x", 1),
            "take:2": ("take:2", 1),
            "take:2:3": ("take:2", 3),
        }.items():
            folder, weight = weighted(text)
            assert (str(folder), weight) == expected

    def test_several_processes_share_the_validation(self, here):
        from ovam.train.validation import Validation

        data, classes = read_labelled(here / "val", "val"), survey_classes()
        validation = Validation(data, classes, survey(data, classes).sizes, Scaling(64))
        model = start(str(here / "tiny"), classes, size=64, seed=0).model.eval()
        shares = [[i for i, _ in validation.predicted(model, range(rank, 7, 2), batch=3)] for rank in (0, 1)]
        assert shares == [[0, 2, 4, 6], [1, 3, 5]]
        alone, together = (dict(validation.predicted(model, range(7), batch=batch)) for batch in (1, 4))
        assert all((alone[i] == together[i]).mean() > 0.999 for i in range(7))

    def test_batches(self):
        items = [{"labels": torch.full((2, 2), i)} for i in range(3)]
        assert collated(items)["labels"].shape == (3, 2, 2)


class TestCommand:
    def invoke(self, here, *given):
        base = ["train", "--data", f"{here / 'real'}:1", "--val", str(here / "val"), "--arch", str(here / "tiny")]
        more = ["--batch-size", "2", "--size", "64", "--device", "cpu", *given]
        return CliRunner().invoke(app, [*base, *more])

    def test_trains_and_prints(self, here):
        done = self.invoke(here, "--steps", "2", "--output-dir", str(here / "command"), "--no-flip")
        assert done.exit_code == 0, done.output
        assert "SegformerForSemanticSegmentation" in done.stdout
        assert "report.md" in done.stdout
        record = json.loads((here / "command/result.json").read_text())
        assert record["settings"]["augment"]["flip"] == 0
        assert record["settings"]["augment"]["blur"] > 0

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["--resume"], "--resume, but"),
            (["--size", "50"], "--size 50: expected a multiple of 32"),
            (["--arch", "segformer"], "the most similar name is 'segformer-b0'"),
            (["--device", "cuda:1"], "--device cuda:1: expected 'cpu'"),
            (["--data", "absent:2"], "data set absent is not there"),
        ],
    )
    def test_errors(self, here, given, message):
        done = self.invoke(here, "--steps", "2", "--output-dir", str(here / "failed"), *given)
        assert done.exit_code == 1
        assert message in done.stderr
        assert not (here / "failed").exists()

    def test_classes_that_differ(self, here, tmp_path):
        other = labelled.dataset(tmp_path / "other", 1, classes={1: "disc", 2: "cube"})
        with pytest.raises(DatasetError, match=r"only in .*real: square; only in .*other: cube"):
            train([(here / "real", 1), (other, 1)], here / "val", tmp_path / "out")

    def test_the_model_does_not_go_among_its_data(self, here, tmp_path):
        data = labelled.dataset(tmp_path / "data", 2, seed=4)
        with pytest.raises(OptionError, match=r"is the data set .*data: expected a folder of the model's own"):
            train([(here / "real", 1), (data, 1)], here / "val", data)
