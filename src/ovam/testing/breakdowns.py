"""Make a run fail at a chosen place, to test what it leaves behind."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

from ovam.backbones.registry import backbone_of
from ovam.tracing.session import Session
from ovam.tracing.watch import Watch


class BreakdownError(Exception):
    """Raised by the contract inside a run, to make it fail."""


def breaking(owner: Any, method: str, when: Callable[..., bool] = lambda *_: True) -> Any:
    """Return a context in which a method raises a `BreakdownError` once, at the first call that fits `when`."""
    whole, armed = getattr(owner, method), [True]

    def broken(*args: Any, **kwargs: Any) -> Any:
        if armed and when(*args):
            armed.clear()
            raise BreakdownError
        return whole(*args, **kwargs)

    return patch.object(owner, method, broken)


def breakdowns(pipe: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield each place where a run can fail: its description, and a context in which the run fails there once."""
    yield "while installing", breaking(type(backbone_of(pipe).denoiser), "register_forward_pre_hook")
    for hook in ("_on_start", "_on_prompt", "_on_latents", "_on_pictures"):
        yield f"in {hook}", breaking(Session, hook)
    # the other hooks fail in the second denoiser call, when something is already stored
    yield "in _on_denoiser", breaking(Watch, "_on_denoiser", lambda watch, *_: len(watch.run.calls) == 1)
    for target in names:
        broken = breaking(Watch, "_on_block", _in_second_call_of(target))
        yield f"in the hook of {target!r}", broken


def raises(action: Callable[[], object], expected: type[Exception]) -> bool:
    """Whether an action raises the expected error; other errors pass through."""
    try:
        action()
    except expected:
        return True
    return False


def _in_second_call_of(target: str) -> Callable[..., bool]:
    return lambda watch, name, _: name == target and len(watch.run.calls) == 2
