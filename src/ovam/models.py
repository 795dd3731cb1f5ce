"""Loading models by name: the embedded `mini`, a folder, or a model id."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ovam.backbones.offload import real_weights
from ovam.backbones.registry import backbone_of
from ovam.errors import ModelNotFoundError, OptionError, OvamError
from ovam.model_names import MINI as MINI
from ovam.model_names import check_name, not_found, offline_reason
from ovam.tensor_file import fingerprint

_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError, RuntimeError),
    *(SafetensorError, TypeError, ValueError),
)
"""What libraries raise that read files which are not as they think."""


def mini_folder() -> Path:
    """Return the folder of the embedded model, in the ordinary diffusers layout."""
    return Path(str(resources.files("ovam.mini") / "weights"))


def folder_of(name: str | Path) -> Path:
    """Return the folder of the embedded model, or the name as a path."""
    return mini_folder() if str(name) == MINI else Path(name)


def load(name: str | Path = MINI, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """Load a pipeline.

    Args:
        name: "mini", the folder of a pipeline, or a model id, which diffusers downloads if need be.
        dtype: Type of the weights.
        device: Where the pipeline runs.

    Raises:
        ModelNotFoundError: the name is none of these, or the model could not be loaded. A single file of weights can't
            be loaded: open it with `from_single_file` of its pipeline class in diffusers, and use that pipeline.
        UnsupportedPipelineError: it is a pipeline that no backbone reads.
        OptionError: torch can't use the device, or the type is none of torch's.
    """
    if not isinstance(dtype, torch.dtype):  # diffusers would take float32 instead without a word
        raise OptionError(f"dtype={dtype!r}: expected a type of torch, such as torch.float16")
    _check_device(device)
    check_name(name)
    folder = folder_of(name)
    local = folder.is_dir()
    if local and not (folder / "model_index.json").is_file():
        raise ModelNotFoundError(
            f"folder {folder} is not a pipeline: expected a model_index.json in it, as pipe.save_pretrained writes"
        )
    with at_hand(name, local) as only_here:
        pipe = pretrained(folder if local else str(name), dtype=dtype, local_files_only=only_here)
    backbone_of(pipe)
    return _moved(pipe, device)


@contextmanager
def at_hand(name: str | Path, local: bool) -> Iterator[bool]:
    """Read a model inside the `with` block: give whether to read only local files, and turn failures into one error.

    Raises:
        ModelNotFoundError: the model is not there, or is damaged, or the network can't be reached.
    """
    offline = None if local else offline_reason(str(name))
    try:
        with _torchvision_warning_hidden(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")  # diffusers' own, to the Hub
            yield local or offline is not None
    except OvamError:
        raise
    except _DAMAGE as error:  # of many kinds, where a folder's files are not as they should be
        if offline is not None:
            raise not_found(
                name, f"the network can't be reached: {offline}; and no whole copy is in the local cache"
            ) from error
        raise not_found(name, _reason(error)) from error


@contextmanager
def _torchvision_warning_hidden() -> Iterator[None]:
    """Keep back transformers' warning that it prepares pictures by Pillow instead: nothing here depends on it."""

    def unrelated(record: logging.LogRecord) -> bool:
        return "requires torchvision" not in record.getMessage()

    log = logging.getLogger("transformers.utils.import_utils")
    log.addFilter(unrelated)
    try:
        yield
    finally:
        log.removeFilter(unrelated)


def pretrained(source: str | Path, *, dtype: torch.dtype, **options: Any) -> Any:
    """Return a pipeline as diffusers reads it, after `check_tokenizers`; `options` are those of diffusers."""
    from diffusers import DiffusionPipeline

    with warnings.catch_warnings():
        # diffusers calls the argument dtype in newer versions and warns of the old name, its only one before
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        pipe = DiffusionPipeline.from_pretrained(source, torch_dtype=dtype, **options)
        check_tokenizers(pipe.components)
        return pipe


def _check_device(device: str | torch.device) -> None:
    """Raises OptionError where torch can't use a device, before gigabytes are read for it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch's own, of several kinds and lengths
        raise _unusable(device, _first_line(error)) from error
    if torch.device(device).type == "meta":
        raise _unusable(device, "tensors on it have a shape but no numbers")


def check_tokenizers(parts: Mapping[str, Any]) -> None:
    """Check that each tokenizer fits its text encoder. If its files are missing, transformers makes an empty tokenizer.

    Raises:
        ValueError: a tokenizer has less than half of the encoder's tokens, or allows longer texts than the encoder
            reads.
    """
    for name, tokenizer in parts.items():
        config = getattr(parts.get(name.replace("tokenizer", "text_encoder")), "config", None)
        if not name.startswith("tokenizer") or tokenizer is None or config is None:
            continue
        count, limit = getattr(config, "vocab_size", 0), getattr(config, "max_position_embeddings", None)
        if 2 * len(tokenizer) < count:
            raise ValueError(f"{name} has {len(tokenizer)} tokens, its text encoder {count}: its vocabulary is missing")
        if limit is not None and tokenizer.model_max_length > limit:
            raise ValueError(
                f"{name} has no maximum length, or one above the {limit} tokens that its text encoder reads: its "
                "tokenizer_config.json is missing or belongs to another tokenizer"
            )


def _moved(pipe: Any, device: str | torch.device) -> Any:
    try:
        return pipe.to(device)
    except (RuntimeError, AssertionError) as error:
        raise _unusable(device, _first_line(error)) from error


def _unusable(device: str | torch.device, reason: str) -> OptionError:
    return OptionError(
        f"device {str(device)!r} can't be used here ({reason}): expected 'cpu', or the name of a device that "
        "torch finds on this machine, as 'cuda' or 'cuda:1'"
    )


def _reason(error: Exception) -> str:
    """What a library says of a folder's files; of a key or an attribute alone, with the error's kind."""
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first_line if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {first_line}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def outline(name: str | Path) -> Any:
    """Return a pipeline without text encoders, whose denoiser and autoencoder have shapes but no weights.

    Args:
        name: As in `load`; only configurations are read.

    Raises:
        ModelNotFoundError, UnsupportedPipelineError: as in `load`.
    """
    import diffusers

    check_name(name)
    source = folder_of(name)
    local = source.is_dir()
    with at_hand(name, local) as only_here:
        where = source if local else str(name)
        index = diffusers.DiffusionPipeline.load_config(where, local_files_only=only_here)
        options = {option: value for option, value in index.items() if not option.startswith("_")}
        for part, value in options.items():
            if isinstance(value, list | tuple):
                library, kind = value
                own = library == "diffusers"
                options[part] = _outlined(getattr(diffusers, kind), where, part, only_here) if own else None
        pipe = getattr(diffusers, index["_class_name"])(**options)
    backbone_of(pipe)
    return pipe


def _outlined(kind: Any, source: str | Path, part: str, only_here: bool) -> Any:
    """A part as its configuration describes it; a module's weights have no memory."""
    config = kind.load_config(source, subfolder=part, local_files_only=only_here)
    with torch.device("meta" if issubclass(kind, torch.nn.Module) else "cpu"):
        return kind.from_config(config)


def short_name(name: str) -> str:
    """Return a model's name as traces store it: "mini", an id, or the last part of a folder's name."""
    if Path(name) == mini_folder():
        return MINI
    return Path(name).name if Path(name).exists() else name


def model_hash(pipe: Any) -> str:
    """Return a hash of a pipeline's weights, the same for its float32 and float16 copies: 16 hexadecimal digits."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return fingerprint({f"{name}.{key}": t for name, part in parts.items() for key, t in real_weights(part).items()})
