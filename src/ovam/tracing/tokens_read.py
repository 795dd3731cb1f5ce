"""Record the tokens that text encoders really read: after cleaning, textual inversion and truncation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

Read = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Token numbers, padding included, by the text encoder's name in the pipeline and then by the text."""


class TextsRead:
    """The inputs of each text encoder during the last call that encoded prompts."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Tensor]] = {}

    def read(self, arguments: Mapping[str, Any], before: Read) -> Read:
        """Return the tokens of each text, added to those of earlier calls; unclear texts are left out.

        Args:
            arguments: Arguments of the call, by name.
            before: Tokens from earlier calls of the same run.
        """
        found = {encoder: dict(texts) for encoder, texts in before.items()}
        for encoder, calls in self.calls.items():
            by_call = _texts_of(arguments, encoder.removeprefix("text_encoder"))
            if len(calls) <= len(by_call):  # with more calls, one text was read in parts
                for texts, ids in zip(by_call, calls, strict=False):
                    rows = [tuple(row) for row in ids.tolist()]
                    texts = texts * len(rows) if len(texts) == 1 else texts
                    if len(texts) == len(rows):
                        found.setdefault(encoder, {}).update(zip(texts, rows, strict=True))
        return found


def _texts_of(arguments: Mapping[str, Any], ending: str) -> list[list[str]]:
    """Return the texts of an encoder's calls, in order: the prompts, then the negative prompts.

    Args:
        arguments: Arguments of the call that encodes them.
        ending: End of the encoder's name and of its prompt arguments, such as "_2".
    """
    texts = []
    if arguments.get("prompt") is not None:
        texts.append(_listed(arguments.get(f"prompt{ending}") or arguments["prompt"]))
    if arguments.get("do_classifier_free_guidance", True) and arguments.get("negative_prompt_embeds") is None:
        texts.append(_listed(arguments.get(f"negative_prompt{ending}") or arguments.get("negative_prompt") or ""))
    return texts


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


@contextmanager
def encoders_watched(pipe: Any, method: str, texts: TextsRead) -> Iterator[None]:
    """Record in `texts` the inputs of the pipeline's text encoders whenever this method of it runs."""
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
