"""Which of several processes that train together this one is."""

import os


def is_main() -> bool:
    """Whether this is the process that writes and prints; a single one is."""
    return int(os.environ.get("RANK", "0")) == 0
