"""Every error the library raises on purpose.

A message names the object, what it is, what was expected and what to do. Each class also derives from the
builtin that callers would catch anyway; `docs/errors.md` has a row for each.
"""


class OvamError(Exception):
    """Root of all deliberate errors."""

    def __str__(self) -> str:  # KeyError would print the message's repr
        return str(self.args[0]) if self.args else ""


class EmptyWordsError(OvamError, ValueError):
    """No words were given, or only blanks."""


class UnknownWordError(OvamError, KeyError):
    """A word has no map here, because the attribution prompt of the maps does not contain it."""


class AmbiguousWordError(OvamError, KeyError):
    """A word stands more than once in the attribution prompt and was asked for by its text."""


class PromptTooLongError(OvamError, ValueError):
    """A text has more tokens than the text encoder reads."""


class UnsupportedPipelineError(OvamError, TypeError):
    """No backbone knows this pipeline, or the way it is set up."""


class NestedCaptureError(OvamError, RuntimeError):
    """A capture was begun on a pipeline that is being captured already."""


class NothingCapturedError(OvamError, RuntimeError):
    """Something is missing because no run stored it: queries, a picture, or a half of guidance."""


class SilentBlockError(NothingCapturedError, RuntimeError):
    """A chosen block did not run in a denoiser call."""


class MissingBlockError(OvamError, KeyError):
    """A block or grid was named that is not there."""


class MissingStepError(OvamError, IndexError):
    """A step was named that is not there."""


class CaptureTooLargeError(OvamError, MemoryError):
    """The capture would keep more bytes than the limit allows."""


class SpaceMismatchError(OvamError, ValueError):
    """A token embedding comes from another space than the one the trace's keys are made from."""


class NoTextEncoderError(OvamError, RuntimeError):
    """A trace without a text encoder was asked about a text."""


class NotFiniteError(OvamError, ArithmeticError):
    """Queries or maps contain NaN or infinity."""


class TraceFileError(OvamError, ValueError):
    """A file is not a trace, is damaged, or is of a newer format."""


class ImageInputError(OvamError, ValueError):
    """An image could not be read, or is of a kind that was not expected."""


class ModelNotFoundError(OvamError, OSError):
    """A model name is neither `mini`, a folder of a pipeline, nor a model id that could be loaded."""


class OptionError(OvamError, ValueError):
    """An option has a value outside what it can take."""


class SplitError(OvamError, ValueError):
    """A split of the rendered scenes is unknown, or a scene belongs to another split than the one that was named."""


class GroundTruthError(OvamError, ValueError):
    """A ground truth and a prediction do not belong together, or the truth holds labels that are not allowed."""


class AnnotationError(OvamError, ValueError):
    """A mask or label map can't be used to fit tokens on."""


class TokenFileError(OvamError, ValueError):
    """A file holds no tokens, is damaged, or is of a newer format."""


class WeightsError(OvamError, ValueError):
    """A trained method has no weights, or they are damaged, of another method or of another UNet."""


class ProbabilityError(OvamError, ValueError):
    """Class probabilities can't be used: only one class, sums that are not 1, or another size than the picture's."""


class RecipeError(OvamError, ValueError):
    """A recipe of a data set has an unknown key, a value that is not allowed, or parts that do not go together."""


class DatasetError(OvamError, ValueError):
    """A folder is no data set, is damaged, or belongs to another recipe."""


class MissingPackageError(OvamError, ImportError):
    """A package that ovam does not depend on is needed, and is not installed."""
