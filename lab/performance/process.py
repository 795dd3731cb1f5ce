"""A process told what to do by lines of JSON: so that times alternate and memory is nobody else's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Self


class Process:
    """The parent's end.

    Args:
        module: Module that is run; it calls `serve`.
        *arguments: Of its command line.
        environment: Added to the parent's.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._answer()  # ready

    def ask(self, **task: Any) -> Any:
        """Have one task done and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the measured process ended with status {self.process.wait()}: see its message above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(tasks: Mapping[str, Callable[..., Any]]) -> None:
    """The other end: do tasks, by name and keyword arguments, until the parent closes its end."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(tasks[task.pop("do")](**task)), flush=True)
