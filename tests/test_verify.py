"""`ovam verify`: what it finds in a pipeline that is all right, and in one that is not."""

import json

import pytest
import torch
from typer.testing import CliRunner

import tiny
from ovam.cli import app
from ovam.testing.verify import CHECKS, SUBJECTS, verify

SMALL = {"height": 32, "width": 32, "num_inference_steps": 2}


@pytest.mark.parametrize("family", ["sd1", "sd3", "flux"])
def test_a_family_passes(family):
    found = verify(getattr(tiny, family)(), **SMALL)
    assert found["passed"], found["checks"]
    assert len(found["checks"]) == len(CHECKS)
    assert found["size"] == [32, 32]
    assert list(found["words"]) == list(SUBJECTS)
    assert all(0 < value <= 1 for values in found["words"].values() for value in values.values())


def test_what_fails_is_told_and_the_rest_is_checked_all_the_same():
    pipe, numbers = tiny.sd1(), torch.Generator().manual_seed(0)
    pipe.unet.conv_in.register_forward_hook(lambda module, args, out: out + torch.randn(out.shape, generator=numbers))
    checks = verify(pipe, **SMALL)["checks"]
    failed = {name for name, check in checks.items() if not check["passed"]}
    assert failed == {"capture_does_not_touch_the_image", "stream_equals_the_maps_of_a_capture"}
    assert "image" in checks["capture_does_not_touch_the_image"]["message"]


def test_the_command_prints_what_can_be_posted_and_fails_with_the_checks(tmp_path, monkeypatch):
    tiny.sd1().save_pretrained(tmp_path / "model")
    command = ["verify", str(tmp_path / "model"), *"--height 32 --width 32 --num-inference-steps 2 --json".split()]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["pipeline"] == "StableDiffusionPipeline"
    found["checks"]["capture_does_not_touch_the_image"] |= {"passed": False, "message": "another image"}
    monkeypatch.setattr("ovam.commands.info.verify_model", lambda *args, **options: found)
    shown = CliRunner().invoke(app, command[:-1]).stdout
    assert "capture does not touch the image" in shown
    assert "failed: another image" in shown
    assert all(thing in shown for thing in SUBJECTS)
    assert "{" not in shown
    monkeypatch.setattr("ovam.commands.info.verify_model", lambda *args, **options: {"passed": False})
    assert CliRunner().invoke(app, command).exit_code == 1
