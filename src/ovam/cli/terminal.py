"""Terminal output of commands: progress bars, one-line errors, and silence from other libraries."""

import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ovam.cli.wording import in_one_line, options_of
from ovam.commands import Progress, no_progress
from ovam.errors import OvamError

_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
_debug: ContextVar[bool] = ContextVar("debug", default=False)
_begun: ContextVar[float] = ContextVar("begun")
_options: ContextVar[Mapping[str, str] | None] = ContextVar("options", default=None)


class PlainLists(TyperCommand):
    """A command whose help shows a repeatable argument as `<Path>`, not as a Python list."""

    def get_help(self, ctx: Any) -> str:
        """Return the help text."""
        return re.sub(r"<list\[(\w+)\]>", r"<\1>", super().get_help(ctx))


class Summaries(TyperGroup):
    """A group whose help shows the whole first sentence of each command, on several lines if needed."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(1000)) for name, command in named if command and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(Summaries):
    """A group whose commands print an error as one line on stderr and exit with code 1.

    With `--debug` the error is raised, with its traceback.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept `--debug` before or after a command."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(arg for arg in args[:end] if arg != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        debug = bool(ctx.params.get("debug"))
        before, begun = _debug.set(debug), _begun.set(time.monotonic())
        options = _options.set(options_of(self))
        try:
            return super().invoke(ctx)
        except Exception as error:
            of_the_parser = isinstance(error, typer.Abort) or hasattr(error, "exit_code")
            if of_the_parser or isinstance(error, BrokenPipeError) or debug:
                raise
            typer.echo(f"error: {in_one_line(error, options_of(self))}", err=True)
            raise typer.Exit(1) from error
        finally:
            _debug.reset(before)
            _begun.reset(begun)
            _options.reset(options)


@contextmanager
def running() -> Iterator[Progress]:
    """Run a command's work: give it a progress function, silence other libraries, and restore all settings after it.

    On a terminal, a bar is drawn on stderr, with the library's log above it; otherwise nothing is written.
    """
    with quiet():
        if not sys.stderr.isatty():
            yield no_progress
            return
        with _bar() as progress:
            yield progress


def show(result: Mapping[str, Any], as_json: bool, *, details: bool = False) -> None:
    """Print a command's result: tables with the seconds of the whole command, or the whole result as JSON.

    Raises:
        OvamError: standard output is closed or full.
    """
    from ovam.cli.summary import show  # loads rich's tables only if there is a result

    show(result, as_json=as_json, details=details, seconds=time.monotonic() - _begun.get(time.monotonic()))


def end(result: Mapping[str, Any]) -> None:
    """Raise OvamError if items of a batch failed; the command exits with code 1."""
    if result.get("failed"):
        raise OvamError(
            f"{result['failed']} of {result['items']} items failed, see {result['output_dir']}/{result['results']}; "
            "the same command tries these again and skips the others"
        )


def message_of(error: Exception) -> str:
    """Return an error's message in the command line's words."""
    return in_one_line(error, _options.get() or {})


@contextmanager
def quiet() -> Iterator[None]:
    """Hide notes, warnings and bars of other libraries, except with `--debug`; restore their settings afterwards."""
    if _debug.get():
        _interruptible()
        yield
        return
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update({name: level for name, level in _QUIET.items() if before[name] is None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.utils import logging as diffusers_logging
        from huggingface_hub.utils.tqdm import enable_progress_bars
        from transformers.utils import logging as transformers_logging

        _interruptible()
        libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
        levels = [library.get_verbosity() for library in libraries]
        for library in libraries:
            library.disable_progress_bar()
            library.set_verbosity_error()
        if sys.stderr.isatty():  # show a bar for downloads, which can be gigabytes
            enable_progress_bars()
        try:
            yield
        finally:
            for library, level in zip(libraries, levels, strict=True):
                library.enable_progress_bar()
                library.set_verbosity(level)
            for name in (name for name, value in before.items() if value is None):
                os.environ.pop(name, None)


def _interruptible() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from here on; while libraries load, it ends the process (`__main__`)."""
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console, log = Console(stderr=True), logging.getLogger("ovam")
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    level = log.level
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def update(what: str, done: int, total: int) -> None:
            count = f" {done}/{total}" if total else ""
            bars.update(task, description=f"{what}{count}", completed=done, total=total or None)

        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield update
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
