"""`import ovam` is light: the command line answers at once, and nothing is loaded that is not used."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "matplotlib")


def assert_imports_nothing_heavy(statement, heavy=HEAVY):
    """Run a statement in a fresh interpreter and look at what it loaded."""
    code = f"import sys\n{statement}\nprint(*sorted(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) & set(heavy)
    assert not loaded, f"{statement!r} loads {sorted(loaded)}"


def test_import_is_light():
    assert_imports_nothing_heavy("import ovam")


def test_looking_around_is_light():
    """What a shell's completion asks for, and what a program that only catches errors needs."""
    assert_imports_nothing_heavy("import ovam; dir(ovam); ovam.__version__; ovam.OvamError")


@pytest.mark.parametrize("statement", ["import ovam; ovam.Trace", "import ovam.backbones.unet"])
def test_the_check_can_fail(statement):
    with pytest.raises(AssertionError, match=r"loads .*'torch'"):
        assert_imports_nothing_heavy(statement)


def test_reading_a_trace_needs_no_model_library():
    """The mathematics knows no model: maps of a stored trace come without diffusers."""
    models = ("diffusers", "transformers", "matplotlib")
    assert_imports_nothing_heavy("import ovam; ovam.Trace.load, ovam.AttentionMaps, ovam.capture", models)


def test_results_need_no_package_of_others():
    others = ("supervision", "label_studio_sdk", "pycocotools", "matplotlib", "diffusers")
    assert_imports_nothing_heavy("import ovam.masks.result, ovam.mask_files, ovam.notebook", others)


def test_label_maps_are_evaluated_without_the_renderer():
    code = "import sys, ovam.commands.evaluate; print(*[name for name in sys.modules if 'ovam.mini' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there():
    code = "import ovam; print(*[name for name in ovam.__all__ if getattr(ovam, name) is None]); ovam.absent"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == ""
    assert "AttributeError: module 'ovam' has no attribute 'absent'" in done.stderr


def test_modules_are_found_when_they_are_first_used():
    code = "import ovam; print(ovam.pictures.overlay.__name__, ovam.masks.__name__, ovam.maps.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["overlay", "ovam.masks", "ovam.maps"]
