"""The tokens that text encoders really read in a run: after cleaning, with all vectors of added names, and cut."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

Read = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Token numbers, padding included, by the text encoder's name in the pipeline, and by the text."""


class TextsRead:
    """What each text encoder was handed during the last call that encoded prompts."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Tensor]] = {}

    def read(self, arguments: Mapping[str, Any], before: Read) -> Read:
        """Which texts were read as which tokens, besides those of calls before; empty where that is not clear.

        Args:
            arguments: Of the call, by name.
            before: Of calls of the same run.
        """
        found = {encoder: dict(texts) for encoder, texts in before.items()}
        for encoder, calls in self.calls.items():
            told = _told(arguments, encoder.removeprefix("text_encoder"))
            if len(calls) <= len(told):  # more of them read one text in parts
                for texts, ids in zip(told, calls, strict=False):
                    rows = [tuple(row) for row in ids.tolist()]
                    texts = texts * len(rows) if len(texts) == 1 else texts
                    if len(texts) == len(rows):
                        found.setdefault(encoder, {}).update(zip(texts, rows, strict=True))
        return found


def _told(arguments: Mapping[str, Any], ending: str) -> list[list[str]]:
    """The texts of an encoder's calls, one after the other: the prompts, then the negative ones.

    Args:
        arguments: Of the call that encodes them.
        ending: Of the encoder's name and its prompts', as "_2".
    """
    told = []
    if arguments.get("prompt") is not None:
        told.append(_listed(arguments.get(f"prompt{ending}") or arguments["prompt"]))
    if arguments.get("do_classifier_free_guidance", True) and arguments.get("negative_prompt_embeds") is None:
        told.append(_listed(arguments.get(f"negative_prompt{ending}") or arguments.get("negative_prompt") or ""))
    return told


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


@contextmanager
def encoders_watched(pipe: Any, method: str, texts: TextsRead) -> Iterator[None]:
    """Note in `texts` what the pipeline's text encoders are handed whenever this method of it runs."""
    original, attributes = getattr(pipe, method), vars(pipe)

    @wraps(original)
    def watching(*args: Any, **kwargs: Any) -> Any:
        texts.calls = {}
        with ExitStack() as hooks:
            for name, part in [*vars(pipe).items()]:
                if name.startswith("text_encoder") and isinstance(part, nn.Module):
                    handle = part.register_forward_pre_hook(_noting(texts, name), with_kwargs=True)
                    hooks.callback(handle.remove)
            return original(*args, **kwargs)

    had_own = method in attributes
    attributes[method] = watching
    try:
        yield
    finally:
        if had_own:
            attributes[method] = original
        else:
            attributes.pop(method, None)


def _noting(texts: TextsRead, name: str) -> Any:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(ids, Tensor) and ids.ndim == 2:
            texts.calls.setdefault(name, []).append(ids.detach())

    return note
