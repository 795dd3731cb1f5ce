"""What a leaderboard must know of a method beside its figures."""

from dataclasses import dataclass
from enum import StrEnum

from ovam.errors import OptionError


class Question(StrEnum):
    """What a method was asked of each picture."""

    all_names = "all names"
    list_given = "list given"


@dataclass(frozen=True)
class Entry:
    """A method, so that its figures can be made again.

    Attributes:
        method: Its name.
        question: Whether every name was asked of every picture, or those of its true list alone.
        model: The model whose maps it reads, with its version; "none" where there is none.
        made_with: The command that made the predictions.
    """

    method: str
    question: Question
    model: str
    made_with: str


def entry_of(
    *, method: str | None, question: Question | None, model: str | None, made_with: str | None
) -> Entry | None:
    """The entry of a leaderboard, or None where nothing was given.

    Raises:
        OptionError: some of it was given and some was not.
    """
    if method and question and model and made_with:
        return Entry(method, question, model, made_with)
    given = {"--method": method, "--question": question, "--model": model, "--made-with": made_with}
    missing = [option for option, value in given.items() if not value]
    if len(missing) < len(given):
        raise OptionError(
            f"the entry for a leaderboard lacks {', '.join(missing)}: "
            f"expected all of {', '.join(given)}, or none of them to print the figures alone"
        )
    return None
