"""A leaderboard entry: facts about a method besides its scores."""

from dataclasses import dataclass
from enum import StrEnum

from ovam.errors import OptionError


class Question(StrEnum):
    """Which names a method was queried with for each picture."""

    all_names = "all names"
    list_given = "list given"


@dataclass(frozen=True)
class Entry:
    """A method, with the facts needed to reproduce its scores.

    Attributes:
        method: Name of the method.
        question: Whether each picture was queried with all names, or only with those of its true list.
        model: The model whose maps it uses, with its version; "none" if there is none.
        made_with: The command that made the predictions.
    """

    method: str
    question: Question
    model: str
    made_with: str


def entry_of(
    *, method: str | None, question: Question | None, model: str | None, made_with: str | None
) -> Entry | None:
    """Return the entry of a leaderboard, or None if nothing was given.

    Raises:
        OptionError: only some of the facts were given.
    """
    if method and question and model and made_with:
        return Entry(method, question, model, made_with)
    given = {"--method": method, "--question": question, "--model": model, "--made-with": made_with}
    missing = [option for option, value in given.items() if not value]
    if len(missing) < len(given):
        raise OptionError(
            f"the entry for a leaderboard lacks {', '.join(missing)}: "
            f"expected all of {', '.join(given)}, or none of them to print only the figures"
        )
    return None
