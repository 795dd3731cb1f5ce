"""Set-up shared by all tests: one thread, no network, quiet third parties, and tiny pipelines."""

import functools
import gc
import os

# read when the libraries are imported, so they are set before
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["DIFFUSERS_VERBOSITY"] = "error"

import pytest

pytest.register_assert_rewrite("ovam.testing")

import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import tiny  # noqa: E402

torch.set_num_threads(1)  # sums have one order, and runs side by side do not slow each other

# the same examples in every run, so that a failure is of the change at hand; no deadline, since machines are busy
settings.register_profile(
    "ovam", max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ovam")


@pytest.fixture(scope="session")
def sd1():
    """Tiny Stable Diffusion 1, shared: tests must leave it as it is."""
    return tiny.sd1()


@pytest.fixture(scope="session")
def sd2():
    """Tiny Stable Diffusion 2, shared: tests must leave it as it is."""
    return tiny.sd2()


@pytest.fixture(scope="session", autouse=True)
def stretched_words():
    """Words are scored by their stretched maps, whatever was chosen on validation scenes; gives what was chosen."""
    from ovam.masks import masks

    shipped = masks.WORD_CALIBRATIONS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovam.masks.masks.WORD_CALIBRATIONS", {})
        yield shipped


@pytest.fixture
def shipped_words(stretched_words, monkeypatch):
    """Words are scored as in a process of its own, which no test has changed."""
    monkeypatch.setattr("ovam.masks.masks.WORD_CALIBRATIONS", stretched_words)


@pytest.fixture
def few_steps(monkeypatch):
    """Let pages and examples make pictures with at most eight steps: shorter, and with the same meaning."""
    run = StableDiffusionPipeline.__call__

    @functools.wraps(run)
    def shorter(pipe, *given, **named):
        return run(pipe, *given, **(named | {"num_inference_steps": min(8, named.get("num_inference_steps", 50))}))

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", shorter)


def pytest_collection_finish():
    """Spare what the imports made from every later search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Mark what the contracts of `ovam.testing` hand wrong values to: they import no pytest."""
    for item in items:
        if getattr(item, "originalname", "") == "test_a_threshold_that_is_none_is_refused":
            item.add_marker("user_error")
