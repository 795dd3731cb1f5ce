"""Outcomes as files, one a fit, written as they are made, so that a run that broke off goes on."""

import json
from pathlib import Path
from typing import Any

from lab.digest import digest
from lab.fits.outcome import Outcome


class Store:
    """Outcomes in a folder, found again by all that they depend on.

    Args:
        folder: Work folder.
        basis: What all outcomes of a run share: model, code, split, scenes.
        kind: Class of the outcomes, with `as_json` and `from_json`.
    """

    def __init__(self, folder: Path, basis: dict[str, Any], kind: Any = Outcome) -> None:
        self.folder, self.basis, self.kind = folder / "outcomes", basis, kind

    def get(self, key: dict[str, Any]) -> Any:
        """The outcome of a key on this basis, or None where it is not made yet."""
        file = self._file(key)
        if not file.exists():
            return None
        return self.kind.from_json(json.loads(file.read_text())["outcome"])

    def put(self, key: dict[str, Any], outcome: Any) -> None:
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".partial")
        temporary.write_text(json.dumps({"basis": self.basis, "key": key, "outcome": outcome.as_json()}))
        temporary.replace(file)

    def _file(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{digest([self.basis, key])}.json"
