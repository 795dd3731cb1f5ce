"""Errors that are also those which DAAM's callers catch: `ValueError`, `RuntimeError`, `FileNotFoundError`."""

from ovam.errors import MissingBlockError, OvamError, UnknownWordError


class WordNotFoundError(UnknownWordError, ValueError):
    """A word was asked of the maps of a prompt in which it does not stand."""


class NoHeatMapsError(MissingBlockError, RuntimeError):
    """No block or head fits the factors, head and layer that were asked for."""


class ExperimentFileError(OvamError, FileNotFoundError):
    """A folder has no experiment that can be read."""
