"""What the command line owes whoever types: quick refusals, nothing left behind, its own words, whole output."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from PIL import Image

import ovam
import tiny
from ovam.cli import app
from ovam.cli.terminal import running
from ovam.cli.wording import as_typed
from ovam.commands.evaluate import evaluate
from ovam.commands.generate import generate
from ovam.commands.trace_file import is_trace
from ovam.errors import AnnotationError, GroundTruthError, ImageInputError, OptionError, TokenFileError
from ovam.masks.annotations import annotation_of
from ovam.text_sides import text_of
from ovam.tokens.legacy import import_tokens
from ovam.tracing.encode import read_image
from ovam.tracing.options import CaptureOptions
from test_cli import PROMPT, SMALL, assert_fails, call, run_process, succeed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Stable Diffusion 1."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd1"
    tiny.sd1().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Folder of a run without words."""
    out = tmp_path_factory.mktemp("made") / "out"
    succeed("generate", PROMPT, "--model", model, "--output-dir", out, *SMALL)
    return out


def commands(group=None, path=()):
    """Every command with the words that call it; research commands aside, which are no user's."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        below = getattr(command, "commands", None)
        yield from commands(command, (*path, name)) if below else [((*path, name), command)]


PARAMETERS = [
    pytest.param(parameter, id=" ".join((*path, parameter.name)))
    for path, command in commands()
    for parameter in command.params
    if path[0] != "mini" or path[1] == "scenes"
]


# what is typed


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_value_that_is_typed_is_bounded_or_checked_while_it_is_read(parameter):
    kind = parameter.type_descriptor
    if kind.is_ranged or kind.annotation in (int, float, list[int]):
        bounded = parameter.min is not None and parameter.max is not None
        assert bounded or parameter.callback, "a number without bounds"
    elif kind.is_path or "Path" in str(kind.annotation) or kind.annotation in (str, list[str]):
        assert parameter.callback, "a text or a path that nothing looks at"


def test_what_is_wrong_is_told_before_torch_is_loaded(model, made, tmp_path):
    (tmp_path / "text.txt").write_text("no trace")
    wrong = [
        ["generate", ""],
        ["generate", "a cat", "--words", " , "],
        ["generate", "a cat", "--output-dir", str(tmp_path / "text.txt")],
        ["generate", "a cat", "--model", str(tmp_path / "missing")],
        ["generate", "a cat", "--tokens", str(tmp_path / "missing")],
        ["generate", "a cat", "--disk", str(tmp_path / "missing")],
        ["maps", str(tmp_path / "missing"), "--words", "cat"],
        ["maps", str(tmp_path / "text.txt"), "--words", "cat"],
        ["segment", str(tmp_path / "missing.png"), "--words", "cat"],
        ["optimize", "--image", "no.png", "--mask", "no.png", "--word", "cat", "--output", str(tmp_path / "x")],
        ["tokens", "show", str(tmp_path / "text.txt")],
        ["evaluate", "no", "no"],
    ]
    code = (
        f"import sys, ovam.cli\nfor wrong in {wrong!r}:\n"
        "    try: ovam.cli.app(wrong)\n"
        "    except SystemExit as end: assert end.code in (1, 2), wrong\n"
        "    assert 'torch' not in sys.modules, wrong\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_python_calls_are_refused_alike(tmp_path, sd1):
    cases = (
        ({"prompt": " "}, "prompt=' '"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale=inf"),
        ({"true_cfg_scale": float("nan")}, "true_cfg_scale=nan"),
        ({"height": 0}, "height=0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"num_inference_steps": 5000}, "num_inference_steps=5000"),
    )
    for options, message in cases:
        with pytest.raises(OptionError, match=re.escape(message)):
            generate(**{"prompt": PROMPT, "words": "cat", "output_dir": tmp_path / "out", "model": sd1} | options)
    for options, message in (
        ({"limit_gib": float("inf")}, "limit_gib=inf"),
        ({"disk": tmp_path / "missing"}, "missing"),
    ):
        with pytest.raises(OptionError, match=re.escape(message)):
            CaptureOptions(**options)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_file_to_read(tmp_path, model):
    """Opening one waits until somebody writes to it."""
    pipe, label = tmp_path / "pipe", tmp_path / "label.png"
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "label.npy")
    Image.fromarray(np.ones((4, 4), np.uint8)).save(label)
    for error, read in (
        (ImageInputError, lambda: read_image(pipe)),
        (AnnotationError, lambda: annotation_of({"cat": pipe}, (4, 4))),
        (TokenFileError, lambda: import_tokens(pipe, text_of(model))),
        (GroundTruthError, lambda: evaluate(label, pipe)),
        (GroundTruthError, lambda: evaluate(label, label, names=pipe)),
        (GroundTruthError, lambda: evaluate(label, label, scenes=pipe)),
        (GroundTruthError, lambda: evaluate(label, label, scores=tmp_path)),
    ):
        with pytest.raises(error, match="a pipe or a device"):
            read()
    for command in (
        ("maps", pipe),
        ("segment", pipe),
        ("info", pipe),
        ("tokens", "show", pipe),
        ("evaluate", pipe, pipe),
    ):
        words = ("--words", "cat") if command[0] in ("maps", "segment") else ()
        assert_fails(call(*command, *words), "pipe")


def test_a_picture_whose_ninth_byte_is_a_brace_is_a_picture(tmp_path):
    Image.new("RGB", (40, 123)).save(tmp_path / "x.gif")
    assert (tmp_path / "x.gif").read_bytes()[8:9] == b"{"
    assert not is_trace(tmp_path / "x.gif")


def test_a_trace_is_known_by_how_it_begins(made, tmp_path):
    shutil.copy(made / "run.safetensors", tmp_path / "renamed")
    assert is_trace(tmp_path / "renamed")


def test_no_folder_is_loaded_since_a_trace_has_its_name(made, model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "tiny-sd1")
    monkeypatch.chdir(tmp_path)
    assert_fails(call("maps", made / "run.safetensors", "--words", "cat"), "'tiny-sd1'", "--model")
    succeed("maps", made / "run.safetensors", "--words", "cat", "--model", "tiny-sd1", "--output-dir", "x")


# what is left


def test_what_fails_leaves_no_folder(model, tmp_path, monkeypatch):
    common = ("generate", PROMPT, "--words", "cat", "--model", model, *SMALL)
    assert_fails(call(*common, "--blocks", "99", "--output-dir", tmp_path / "new" / "out"), "99")
    assert not list(tmp_path.iterdir())

    def fail(*args, **kwargs):
        raise OSError("no room")

    monkeypatch.setattr("ovam.pictures.label_map_picture", fail)  # the last that is written, but for the record
    assert call(*common, "--output-dir", tmp_path / "new" / "out").exit_code == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    assert call(*common, "--output-dir", tmp_path / "mine").exit_code == 1
    assert (tmp_path / "mine" / "file").read_text() == "mine"


def test_an_interruption_leaves_no_folder(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ovam.commands.scenes.write_json", interrupt)
    done = call("mini", "scenes", "--n", 1, "--output-dir", tmp_path / "out")
    assert done.exit_code == 130
    assert not (tmp_path / "out").exists()


# what is printed


def test_words_may_be_asked_later(made, model, tmp_path):
    assert {path.name for path in made.iterdir()} == {"image.png", "run.safetensors", "result.json"}
    command = ("maps", made / "run.safetensors", "--words", "cat", "--model", model)
    assert [word["word"] for word in succeed(*command, "--output-dir", tmp_path / "m")["words"]] == ["cat"]
    done = call("generate", PROMPT, "--model", model, "--output-dir", tmp_path / "g", *SMALL)
    assert f"ovam maps {tmp_path / 'g' / 'run.safetensors'} --words" in " ".join(done.stdout.split())


def test_an_image_is_said_to_be_looked_at_by_which_model_and_how_large(model, tmp_path, monkeypatch):
    Image.new("RGB", (96, 48)).save(tmp_path / "photo.png")
    ask = ("segment", tmp_path / "photo.png", "--words", "cat", "--output-dir", tmp_path / "out")
    done = call(*ask, "--model", model)
    assert "model tiny-sd1" in done.stdout
    size = json.loads((tmp_path / "out" / "result.json").read_text())["working_size"]
    assert size[1] > size[0]
    assert f"{size[0]} x {size[1]} pixels" in done.stdout
    assert "--model takes" not in done.stdout
    monkeypatch.setattr("ovam.models.mini_folder", lambda: model)
    done = call(*ask)
    assert "model mini" in done.stdout
    assert "--model takes" in done.stdout


def test_seconds_are_those_of_the_whole_command(made, monkeypatch):
    """Libraries are loaded before a command's own clock starts."""

    def slow(*args, **kwargs):
        time.sleep(0.3)
        return {
            "command": "maps",
            "source": "x",
            "model": "y",
            "words": [],
            "files": {},
            "output_dir": ".",
            "seconds": 0.0,
        }

    monkeypatch.setattr("ovam.commands.maps.maps", slow)
    done = call("maps", made / "run.safetensors", "--words", "cat")
    (seconds,) = re.findall(r"([0-9.]+) seconds", done.stdout)
    assert float(seconds) >= 0.3


def test_numbers_of_words_are_explained(model):
    done = call("verify", model, "--num-inference-steps", 1)
    assert done.exit_code == 0, done.output
    assert "only the checks can pass or fail" in done.stdout
    if "this is not so for" in done.stdout:
        assert "after 1 steps pictures are hardly formed" in " ".join(done.stdout.split())


def test_help_is_whole():
    groups = ((), ("tokens",), ("mini",))
    for path in (*groups, *(path for path, _ in commands())):
        done = call(*path, "--help")
        assert done.exit_code == 0
        assert "list[" not in done.stdout
        if path in groups:
            assert "..." not in done.stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("steps=[0, 99]: no", "--steps 0,99: no"),
        ("outputs=True was asked", "--outputs was asked"),
        ("dtype=torch.int8: no", "--dtype int8: no"),
        ("prompt='a dog' and prompt=''", '--prompt "a dog" and --prompt ""'),
        ("for example ['cat', 'hot dog']", 'for example "cat, hot dog"'),
        ("ask for it, trace.maps(['cat']), now", "ask for it, --words 'cat', now"),
        ("raise num_inference_steps; other steps", "raise --num-inference-steps; other steps"),
        ("in `words` or `against`", "in --words or --against"),
        ("a file a/steps=3.png stays", "a file a/steps=3.png stays"),
    ],
)
def test_messages_are_in_the_words_of_the_command_line(message, typed):
    names = ("steps", "outputs", "dtype", "prompt", "words", "against", "num_inference_steps")
    assert as_typed(message, {name: f"--{name.replace('_', '-')}" for name in names}) == typed


def test_a_word_that_stands_twice_is_not_asked_by_python(made, model):
    options = ("--attribution-prompt", "a dog and a dog", "--words", "dog", "--model", model)
    assert_fails(call("maps", made / "run.safetensors", *options), "'dog' stands 2 times", "another prompt")


def test_names_that_are_no_text(made, model, tmp_path):
    """Bytes that are no UTF-8, as a terminal hands them over."""
    odd = tmp_path / "odd-\udcff"
    common = ("--words", "cat", "--model", model)
    assert_fails(call("maps", made / "run.safetensors", *common, "--output-dir", odd), "not UTF-8")
    assert call("maps", made / "run.safetensors", "--words", "\udcff").exit_code == 2
    shutil.copytree(model, odd)
    assert_fails(call("generate", PROMPT, "--model", odd, "--output-dir", tmp_path / "out"), "no UTF-8")
    shutil.copy(made / "image.png", odd / "image.png")
    result = succeed("segment", odd / "image.png", *common, "--output-dir", tmp_path / "out")
    assert result["source"] == str(odd / "image.png")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here that is always full")  # noqa: PTH110
@pytest.mark.parametrize(
    ("arguments", "redirected"),
    [(["--help"], "> /dev/full"), (["--help"], ">&-"), (["info", "--json"], "> /dev/full")],
)
def test_standard_output_that_is_full_or_closed(arguments, redirected):
    command = f'"{sys.executable}" -m ovam {" ".join(arguments)} {redirected}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=240)
    if redirected == ">&-":
        assert done.stderr == ""
        return
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output can't be written to")
    assert done.stderr.count("\n") == 1


def test_json_is_json_in_any_encoding(made, model, tmp_path, monkeypatch):
    arguments = ("maps", made / "run.safetensors", "--words", "chat doré", "--model", model, "--output-dir", tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert json.loads(run_process(*arguments, "--json").stdout)["words"][0]["word"] == "chat doré"


@pytest.mark.parametrize("library", ["typer", "torch"])
def test_an_interruption_while_libraries_are_loaded_shows_no_traceback(library):
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "class Interrupting:\n"
        "    def find_spec(self, name, *more):\n"
        f"        if name == {library!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from ovam.__main__ import main\n"
        "sys.argv = ['ovam', 'info']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_an_interruption_after_that_can_be_tidied_up_after():
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with running():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_loading_says_nothing_of_torchvision(model):
    code = f"import ovam; ovam.load({str(model)!r})"
    own = ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "torchvision" not in done.stderr


# models by name


def test_without_a_network_that_is_what_is_said_and_once(monkeypatch):
    urls = []

    def unreachable(url, **options):
        urls.append(url)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    for load in (ovam.plan, ovam.load):
        with pytest.raises(
            ovam.OvamError, match="the network can't be reached: Name or service not known; and no whole"
        ):
            load("some/model")
    assert len(urls) == 2


def test_names_that_can_be_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for name, message in (
        (tmp_path / "model.safetensors", r"single file.*from_single_file\("),
        (tmp_path / "missing", "could not be loaded.*no such folder"),
        ("a/b/c", "no such folder"),
        ("a" * 300, "no such folder"),
    ):
        for load in (ovam.load, ovam.plan, text_of):
            with pytest.raises(ovam.OvamError, match=message):
                load(name)


@pytest.mark.user_error
@pytest.mark.parametrize("device", ["meta", "gpu", 3])
def test_a_device_that_can_not_be_used_is_told_before_the_model_is_looked_for(device):
    with pytest.raises(OptionError, match="can't be used here"):
        ovam.load("missing/model", device=device)
