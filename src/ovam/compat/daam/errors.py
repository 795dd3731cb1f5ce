"""Errors derived from those that DAAM's callers catch: `ValueError`, `RuntimeError`, `FileNotFoundError`."""

from ovam.errors import MissingBlockError, OvamError, UnknownWordError


class WordNotFoundError(UnknownWordError, ValueError):
    """The prompt of the maps does not contain the word."""


class NoHeatMapsError(MissingBlockError, RuntimeError):
    """No block or head fits the given factors, head and layer."""


class ExperimentFileError(OvamError, FileNotFoundError):
    """A folder has no readable experiment."""
