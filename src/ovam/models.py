"""Loading models by name: the embedded `mini`, a folder, or a model id."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ovam.backbones.base import TextReader
from ovam.backbones.clip_text import ClipText, fingerprint
from ovam.backbones.offload import real_weights
from ovam.backbones.registry import backbone_of
from ovam.errors import ModelNotFoundError, OptionError, OvamError
from ovam.json_text import read_json

MINI = "mini"
_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError, RuntimeError),
    *(SafetensorError, TypeError, ValueError),
)
"""What libraries raise that read files which are not as they think."""


def mini_folder() -> Path:
    """Folder of the embedded model, in the ordinary diffusers layout."""
    return Path(str(resources.files("ovam.mini") / "weights"))


def _folder_of(name: str | Path) -> Path:
    """Folder of the embedded model, or the name as a path."""
    return mini_folder() if str(name) == MINI else Path(name)


def load(name: str | Path = MINI, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Any:
    """Load a pipeline.

    Args:
        name: "mini", the folder of a pipeline, or a model id, which diffusers downloads if need be.
        dtype: Type of the weights.
        device: Where the pipeline runs.

    Raises:
        ModelNotFoundError: the name is none of these, or the model could not be loaded.
        UnsupportedPipelineError: it is a pipeline that no backbone reads.
        OptionError: torch can't use the device, or the type is none of torch's.
    """
    if not isinstance(dtype, torch.dtype):  # diffusers would take float32 instead without a word
        raise OptionError(f"dtype={dtype!r}: expected a type of torch, such as torch.float16")
    folder = _folder_of(name)
    local = folder.is_dir()
    if local and not (folder / "model_index.json").is_file():
        raise ModelNotFoundError(
            f"folder {folder} is not a pipeline: expected a model_index.json in it, as pipe.save_pretrained writes"
        )
    pipe = _pretrained(str(name), folder if local else str(name), dtype=dtype, local_files_only=local)
    return _moved(pipe, device)


def _pretrained(name: str, source: str | Path, *, dtype: torch.dtype, **options: Any) -> Any:
    """The pipeline, if a backbone reads it."""
    from diffusers import DiffusionPipeline

    with _damage_told(name), warnings.catch_warnings():
        # diffusers calls the argument dtype in newer versions and warns of the old name, its only one before
        warnings.filterwarnings("ignore", message=".*torch_dtype", category=FutureWarning)
        pipe = DiffusionPipeline.from_pretrained(source, torch_dtype=dtype, **options)
        _check_tokenizers(pipe.components)
    backbone_of(pipe)
    return pipe


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """What diffusers and transformers stumble on in a damaged folder, of many kinds, as one error that names it.

    Raises:
        ModelNotFoundError: instead of any other error.
    """
    try:
        yield
    except OvamError:
        raise
    except _DAMAGE as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if not isinstance(error, OSError | ValueError):  # of a key or an attribute alone
            reason = f"{type(error).__name__}: {reason}"
        raise ModelNotFoundError(
            f"model {name!r} could not be loaded ({reason}): expected 'mini', the folder of a diffusers pipeline, "
            "or the id of one; if it is a folder it is damaged or not whole, copy it again"
        ) from error


def _check_tokenizers(parts: Mapping[str, Any]) -> None:
    """Whether each tokenizer knows the words of its text encoder: of a folder without files transformers makes one.

    Raises:
        ValueError: it has not half of its tokens, or reads more tokens of a text.
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
                f"{name} tells no length of texts, its text encoder reads {limit} tokens: its tokenizer_config.json is "
                "missing or another one"
            )


def _moved(pipe: Any, device: str | torch.device) -> Any:
    try:
        return pipe.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's own, of several kinds and lengths
        reason = str(error).strip().splitlines()[0]
        raise OptionError(
            f"device {str(device)!r} can't be used here ({reason}): expected 'cpu', or the name of a device that "
            "torch finds on this machine, as 'cuda' or 'cuda:1'"
        ) from error


def outline(name: str | Path) -> Any:
    """A pipeline whose denoiser and autoencoder have shapes and no weights, without text encoders.

    Args:
        name: As in `load`; only configurations are read.

    Raises:
        ModelNotFoundError, UnsupportedPipelineError: as in `load`.
    """
    import diffusers

    source = mini_folder() if str(name) == MINI else name
    with _damage_told(str(name)):
        index = diffusers.DiffusionPipeline.load_config(source, local_files_only=Path(source).is_dir())
        options = {option: value for option, value in index.items() if not option.startswith("_")}
        for part, value in options.items():
            if isinstance(value, list | tuple):
                library, kind = value
                options[part] = _outlined(getattr(diffusers, kind), source, part) if library == "diffusers" else None
        pipe = getattr(diffusers, index["_class_name"])(**options)
    backbone_of(pipe)
    return pipe


def _outlined(kind: Any, source: str | Path, part: str) -> Any:
    """A part as its configuration describes it; a module's weights have no memory."""
    config = kind.load_config(source, subfolder=part, local_files_only=Path(source).is_dir())
    with torch.device("meta" if issubclass(kind, torch.nn.Module) else "cpu"):
        return kind.from_config(config)


def short_name(name: str) -> str:
    """A model's name as traces have it: "mini", an id, or of a folder the last part of its name."""
    if Path(name) == mini_folder():
        return MINI
    return Path(name).name if Path(name).exists() else name


def model_hash(pipe: Any) -> str:
    """Hash of all weights of a pipeline, the same for its float32 and float16 copies: 16 hexadecimal digits."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return fingerprint({f"{name}.{key}": t for name, part in parts.items() for key, t in real_weights(part).items()})


def text_of(source: object, layer: str | None = None) -> TextReader:
    """Tokenizers and text encoders of a pipeline object, a pipeline's folder, or a model name.

    Args:
        source: Of a folder they alone are read; one without a model_index.json is taken for Stable Diffusion 1 or 2.
        layer: Output of the text encoders, as a `Space` names it; by default that of the pipeline's last run.

    Raises:
        ModelNotFoundError: a folder without a tokenizer and a text encoder.
        UnsupportedPipelineError: a pipeline that no backbone reads.
    """
    if not isinstance(source, str | Path):
        return backbone_of(source).reader(layer)
    folder = _folder_of(source)
    if not folder.is_dir():
        return backbone_of(load(source)).reader(layer)
    index = folder / "model_index.json"
    if not index.is_file():
        return _clip_in(folder, layer or "last")
    return backbone_of(_text_parts(folder, index)).reader(layer)


def _text_parts(folder: Path, file: Path) -> Any:
    """The folder's pipeline with its text encoders and tokenizers alone, which its file names."""
    with _damage_told(str(folder)):
        index = read_json(file)
        if not isinstance(index, dict):
            raise ValueError(f"{file} is no index of parts")
    parts = [name for name, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    left_out = {name: None for name in parts if not name.startswith(("tokenizer", "text_encoder"))}
    return _pretrained(str(folder), folder, dtype=torch.float32, local_files_only=True, **left_out)


def _clip_in(folder: Path, layer: str) -> ClipText:
    from transformers import CLIPTextModel, CLIPTokenizer

    if not all((folder / part).is_dir() for part in ("tokenizer", "text_encoder")):
        raise ModelNotFoundError(
            f"folder {folder} has no CLIP text encoder: expected a model_index.json, as pipe.save_pretrained writes, "
            "or the folders tokenizer and text_encoder of Stable Diffusion"
        )
    with _damage_told(str(folder)):
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, dtype=torch.float32)
        _check_tokenizers({"tokenizer": tokenizer, "text_encoder": encoder})
    return ClipText(tokenizer, encoder.eval(), layer)
