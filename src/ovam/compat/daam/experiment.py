"""DAAM's experiments: a run's picture and maps in a folder with DAAM's layout, but without its pickle.

DAAM writes `generation.pt`, a pickle, which can run code when it is read. Here the maps are in `generation.safetensors`
and the picture in `output.png`. As in DAAM, there are `prompt.txt`, `seed.txt`, `annotations.json` and a picture for
each word.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovam.compat.daam.errors import ExperimentFileError
from ovam.compat.daam.heat_maps import GlobalHeatMap
from ovam.errors import OptionError
from ovam.prompt import Span
from ovam.tensor_file import Format, read_file, write_file

_NAME = "generation.safetensors"
_FORMAT = Format(
    name="ovam-daam-experiment",
    version=1,
    kind="an experiment",
    writers="GenerationExperiment.save",
    advice="write it again; DAAM's own generation.pt is a pickle and is not read",
    error=ExperimentFileError,
)


@dataclass(eq=False)
class GenerationExperiment:
    """A run's picture and maps.

    Attributes:
        image: The picture.
        maps: Maps of the prompt's tokens.
        seed: Seed of the run, if known.
        id: Name of the experiment's folder in its parent folder.
        path: The experiment's folder.
        annotations: Notes about it, as JSON values.
        subtype: Name of its subfolder with the picture and maps.
    """

    image: Image.Image
    maps: GlobalHeatMap
    seed: int | None = None
    id: str = "."
    path: Path | None = None
    annotations: dict[str, Any] | None = field(default=None)
    subtype: str = "."

    @property
    def prompt(self) -> str:
        """The prompt."""
        return self.maps.prompt

    @property
    def global_heat_map(self) -> Float[Tensor, "token height width"]:
        """The maps of the prompt's tokens."""
        return self.maps.heat_maps

    def heat_map(self, tokenizer: object = None) -> GlobalHeatMap:
        """Return the maps; DAAM's tokenizer argument is accepted but not needed."""
        return self.maps

    def annotate(self, key: str, value: Any) -> "GenerationExperiment":
        """Add a note, as a JSON value; `save` writes it."""
        self.annotations = {**(self.annotations or {}), key: value}
        return self

    def save(self, path: str | Path | None = None, heat_maps: bool = True) -> None:
        """Write everything to the experiment's folder.

        Args:
            path: Another parent folder; the experiment goes into a subfolder named by its id.
            heat_maps: Whether to write a picture of each word's map too.

        Raises:
            OptionError: no folder was given, or it can't be created.
            ExperimentFileError: the folder can't be written to.
        """
        home = self.path if path is None else Path(path) / self.id
        if home is None:
            raise OptionError("this experiment has no path: expected a folder; name one, save('experiment-dir')")
        folder = _made(home / self.subtype)
        spans = [{"text": span.text, "tokens": list(span.tokens)} for span in self.maps.words]
        header = {
            "format": _FORMAT.name,
            "format_version": _FORMAT.version,
            "prompt": self.prompt,
            "seed": self.seed,
            "id": self.id,
            "tokens": list(self.maps.tokens),
            "words": spans,
        }
        write_file(folder / _NAME, header, {"heat_maps": self.global_heat_map}, _FORMAT)
        self.image.save(folder / "output.png")
        (home / "prompt.txt").write_text(self.prompt, encoding="utf-8")
        (home / "seed.txt").write_text(str(self.seed), encoding="utf-8")
        if self.annotations is not None:
            (home / "annotations.json").write_text(json.dumps(self.annotations), encoding="utf-8")
        for word in dict.fromkeys(span.text for span in self.maps.words) if heat_maps else ():
            self._draw(word, folder)

    def save_heat_map(self, word: str, absolute: bool = False) -> Path:
        """Write a word's map over the picture to `<word>.heat_map.png`; return its path.

        Raises:
            OptionError: the experiment has no folder, or it can't be created.
            WordNotFoundError: the prompt does not have the word.
        """
        if self.path is None:
            raise OptionError("this experiment has no path: expected a folder; save it first, save('experiment-dir')")
        return self._draw(word, _made(self.path / self.subtype), absolute)

    def _draw(self, word: str, folder: Path, absolute: bool = False) -> Path:
        letters = "".join(letter if letter.isalnum() or letter in "'’" else "-" for letter in word.lower())
        file = folder / f"{letters}.heat_map.png"
        self.maps.compute_word_heat_map(word).overlay(self.image, color_normalize=not absolute).save(file)
        return file

    @classmethod
    def load(cls, path: str | Path, subtype: str = ".") -> "GenerationExperiment":
        """Read an experiment back.

        Args:
            path: The experiment's folder: the parent folder and the id, if one was given.
            subtype: The subtype that was given.

        Raises:
            ExperimentFileError: the experiment is missing, damaged, or DAAM's own pickle.
        """
        home = Path(path)
        file = home / subtype / _NAME
        if not file.is_file() and file.with_name("generation.pt").is_file():
            raise ExperimentFileError(
                f"{file.with_name('generation.pt')} is DAAM's pickle, which can run code when it is read: expected "
                f"{_NAME}; run the pipeline again under ovam.compat.daam.trace, and save that"
            )
        header, tensors = read_file(file, _FORMAT)
        try:
            maps = _maps_of(header, tensors)
            with Image.open(file.with_name("output.png"), formats=["PNG"]) as picture:
                image = picture.convert("RGB")
            notes = home / "annotations.json"
            annotations = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else None
        except (OSError, SyntaxError, KeyError, TypeError, ValueError, Image.DecompressionBombError) as error:
            raise ExperimentFileError(
                f"{home / subtype} is not a complete experiment ({error}): expected the files of "
                f"GenerationExperiment.save; {_FORMAT.advice}"
            ) from error
        return cls(image, maps, header.get("seed"), str(header.get("id", ".")), home, annotations, subtype)


def _maps_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GlobalHeatMap:
    """Return the maps of a file.

    Raises:
        KeyError, TypeError, ValueError: the file does not contain valid maps.
    """
    tokens = tuple(str(token) for token in header["tokens"])
    words = tuple(Span(str(span["text"]), tuple(int(i) for i in span["tokens"])) for span in header["words"])
    heat_maps = tensors["heat_maps"]
    places = {i for span in words for i in span.tokens}
    if heat_maps.ndim != 3 or len(heat_maps) != len(tokens) or not places <= set(range(len(tokens))):
        raise ValueError(f"maps of shape {tuple(heat_maps.shape)} for {len(tokens)} tokens")
    return GlobalHeatMap(heat_maps, str(header["prompt"]), tokens, words)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"{folder} can't be created ({error.strerror}): expected a new or an existing folder"
        ) from error
    return folder
