"""Results of commands as text."""

import json
from collections.abc import Mapping
from typing import Any


def json_text(content: Mapping[str, Any]) -> str:
    """Readable JSON; bytes of a file's name that are no UTF-8 stand as escapes, from which Python has them again."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
