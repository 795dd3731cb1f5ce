"""Check a model's name before anything is loaded: `mini`, a folder, or an id of the Hub.

This module loads neither torch nor diffusers.
"""

import os
import re
from pathlib import Path

from ovam.errors import ModelNotFoundError
from ovam.input_file import is_text

MINI = "mini"
_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)


def not_found(name: object, reason: str) -> ModelNotFoundError:
    """Return the error for a model that can't be loaded."""
    return ModelNotFoundError(
        f"model {str(name)!r} could not be loaded ({reason}): expected 'mini', the folder of a diffusers pipeline, "
        "or the id of one; a folder may be damaged or incomplete: copy it again"
    )


def check_name(name: str | Path) -> None:
    """Check that a name can be the name of a model; the Hub is not asked whether an id exists.

    Raises:
        ModelNotFoundError: the name is a file, a folder that is not there, or can't be an id.
    """
    if not isinstance(name, str | Path):
        raise not_found(name, f"its name is a {type(name).__name__}")
    text = str(name)
    if not is_text(text):
        raise not_found(name, "its name is no UTF-8, and weights can't be read under such a name: rename the folder")
    if os.path.isdir(name):  # noqa: PTH112, Path.is_dir raises where a name is too long
        return
    if os.path.isfile(name):  # noqa: PTH113
        raise ModelNotFoundError(
            f"model {text!r} is a single file: expected 'mini', the folder of a diffusers pipeline, or the id of one; "
            f"make a folder of it in Python by pipe = diffusers.StableDiffusionPipeline.from_single_file({text!r}), "
            "or its family's pipeline, and pipe.save_pretrained(folder); or pass pipe itself"
        )
    if not _ID.fullmatch(text):
        raise not_found(name, "there is no such folder")


def offline_reason(name: str) -> str | None:
    """Return why the Hub can't be reached for a model's id, or None if it can be reached.

    This is checked once before a download. Without it, the libraries that download try five times, and their error
    then says that a file is missing.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, "model_index.json"))
    except HfHubHTTPError:  # the Hub answered: no such model, or one that needs a login
        return None
    except Exception as error:  # the network's errors have no class in common in the versions that are allowed
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
