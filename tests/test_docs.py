"""What a newcomer reads is executed: every block of Python and every command runs, every link leads somewhere."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import test_contract
from families import CONTRACT, FAMILIES, FEATURES, README, REAL_IMAGES, written
from lab import reference
from ovam.backbones.registry import BACKBONES, supported
from ovam.cli import app
from ovam.methods import registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FEWER = {
    "generate": ["--num-inference-steps", "2"],
    "mini": ["--n", "2"],
    "dataset new": ["--num-inference-steps", "2", "--number", "4", "--batch", "2", "--width", "64", "--height", "64"],
    "dataset generate": ["--number", "4"],
    "train": ["--steps", "2", "--batch-size", "2", "--device", "cpu"],
}
"""Options that shorten a command and leave its meaning; given last, they win over the page's own."""

WRITTEN = {
    "README.md": (
        *("out/dog/image.png", "out/dog/labels.png", "out/dog/run.safetensors"),
        *(f"out/dog/{kind}/{word}.png" for kind in ("maps", "masks") for word in ("dog", "sand")),
        *("out/late/maps/puppy.png", "out/late/maps/sky.png", "out/seg/masks/dog.png", "out/seg/labels.png"),
    ),
    "datasets.md": (
        *("out/pets/contact-sheet.png", "out/pets/metadata.jsonl", "out/good/README.md", "out/as-many/images/*.png"),
        *("out/voc/SegmentationClass/*.png", "out/coco/annotations/*.json", "out/tar/*.tar"),
    ),
    "benchmark.md": (
        *(f"scenes/test/{kind}/*.png" for kind in ("images", "labels", "parts", "instances")),
        *("scenes/test/scenes.jsonl", "scenes/test/names.json"),
    ),
}
"""Files that a page's commands are said to write."""

_BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that a reader would run."""
    return _BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.name)
@pytest.mark.usefixtures("few_steps")
def test_pages_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    """The Python blocks of a page are one program, which finds what the commands above it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # a page registers a method
    names = {"__name__": "__main__"}
    for language, text in _blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
        else:
            for line in text.replace("\\\n", " ").splitlines():
                run_line(line)
    missing = [name for name in WRITTEN.get(page.name, ()) if not list(tmp_path.glob(name))]
    assert not missing


def run_line(line: str) -> None:
    """Run an `ovam` command, ask make whether it knows a target, and leave other lines alone."""
    program, *arguments = shlex.split(line, comments=True) or [""]
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    if program != "ovam":
        return
    if arguments[0] == "evaluate":  # what the reader brings: here labels that are all right
        shutil.copytree(arguments[2], arguments[1], dirs_exist_ok=True)
    fewer = FEWER.get(" ".join(arguments[:2]), FEWER.get(arguments[0], []))
    done = CliRunner().invoke(app, [*arguments, *fewer])
    assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.parametrize(
    "line", ['ovam generate "a dog" --word dog', "ovam segments image.png --words dog", "make dem"]
)
def test_a_line_that_is_out_of_date_fails(line):
    with pytest.raises((AssertionError, subprocess.CalledProcessError)):
        run_line(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    targets = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert not missing


def test_the_table_of_families_is_the_registry_s_and_its_tests_are_there():
    page = README.read_text()
    assert written(page) == page, "run python tests/families.py"
    assert Path(test_contract.__file__).relative_to(ROOT).as_posix() == CONTRACT
    shown = {name for name, _ in FAMILIES.values()}
    assert shown <= set(supported())
    assert all(shown & set(backbone.pipelines) for backbone in BACKBONES)
    for _, tests in FAMILIES.values():
        for test in FEATURES.values():
            assert callable(getattr(getattr(test_contract, tests), test))
    for file in REAL_IMAGES.values():
        assert (ROOT / file).is_file()


def test_the_reference_is_what_the_docstrings_say():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.written(), "run python -m lab.reference"
