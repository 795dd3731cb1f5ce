"""Results of commands as JSON text."""

import json
from collections.abc import Mapping
from typing import Any


def json_text(content: Mapping[str, Any]) -> str:
    """Return readable JSON; bytes of a file name that are not UTF-8 become escapes, which Python can read back."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
