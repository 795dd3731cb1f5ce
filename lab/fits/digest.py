"""The code that kept traces and fits were made by; other code makes them again."""

from importlib.metadata import version

from lab.digest import digest, syntax_of


def encoding() -> str:
    """Of what makes traces, with the version of torch."""
    return digest([version("torch"), syntax_of("ovam")])


def code() -> str:
    """Of what makes traces, fits, asks and scores, with the version of torch."""
    return digest([version("torch"), syntax_of("ovam", "lab.mini", "lab.rivals", "lab.fits")])
