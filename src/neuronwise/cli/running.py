"""How a command runs: quietly, with errors as one plain line and an exit code that means something."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from neuronwise import errors
from neuronwise.cli.screen import Screen

__all__ = ["EXIT_CODES", "running", "show_tracebacks", "torch_threads"]

#: Exit code -> what it means.
EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "all went well",
        1: "a check ran and failed",
        2: "wrong usage: an option, a formula, a neuron, site or column not there",
        3: "the model or the corpus cannot be used",
        4: "a result folder is missing or broken, or cannot be written",
        5: "an optional package is not installed",
        70: "an error inside neuronwise or one of its packages",
        130: "interrupted by Ctrl-C",
    }
)

# The first class that an error belongs to decides.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.MissingExtraError, 5),
    (errors.ResultError, 4),
    (errors.DataError, 3),
    (errors.HookError, 3),
    (errors.PatchError, 3),
    (errors.AddressError, 2),
    (errors.InvalidArgumentError, 2),
    (errors.FormulaError, 2),
    (OSError, 3),
)

# Read by transformers and by the hub's client when they are imported.
_QUIET = MappingProxyType(
    {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_VERBOSITY": "error",
    }
)
_NO_BARS = "HF_HUB_DISABLE_PROGRESS_BARS"

_TRACEBACKS: ContextVar[bool] = ContextVar("neuronwise_tracebacks", default=False)


def show_tracebacks(wanted: bool) -> None:
    """Say whether an error shows its traceback too."""
    _TRACEBACKS.set(wanted)


@contextmanager
def running(as_json: bool, *, checkpoint: Path | None = None) -> Iterator[Screen]:
    """Yield the screen of a command, and turn what goes wrong into one line and an exit code.

    Warnings of neuronwise become a line each on standard error; those of other packages are left out.

    Args:
        as_json: Whether the answer is one JSON document.
        checkpoint: Where an interrupted pass is resumed from, for the words after Ctrl-C.

    Raises:
        typer.Exit: If the command fails, with its exit code.
    """
    screen = Screen(as_json=as_json)
    try:
        with _quiet(screen), screen.alone():
            yield screen
    except KeyboardInterrupt:
        screen.error(_interrupted(checkpoint))
        raise typer.Exit(130) from None
    except (BrokenPipeError, typer.Exit, typer.Abort, typer.BadParameter):
        raise  # typer knows what to do with these
    except Exception as error:
        if _TRACEBACKS.get():
            traceback.print_exception(error)
        code = next((code for kind, code in _CODES if isinstance(error, kind)), 70)
        screen.error(_words(error, code))
        raise typer.Exit(code) from error


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let torch use a number of threads inside the block; None leaves it alone, and torch to be imported later."""
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _words(error: Exception, code: int) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if code != 70:
        return text
    return (
        f"{type(error).__name__}: {text or 'no further words'}\nThis was not foreseen. "
        "To see where it happened: neuronwise --debug ..."
    )


def _interrupted(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "Interrupted. Nothing half-written was left behind."
    if checkpoint.exists():
        return f"Interrupted. The same command goes on from {checkpoint}."
    return f"Interrupted before {checkpoint} was first written; the same command starts anew."


@contextmanager
def _quiet(screen: Screen) -> Iterator[None]:
    """Keep what other packages have to say off the screen."""
    wanted = dict(_QUIET) if screen.err.is_terminal else {**_QUIET, _NO_BARS: "1"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        screen.warning(str(message))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A warning counts as that of the module that it points at: for ours, this room or a lower one.
            warnings.filterwarnings("always", module=r"neuronwise(\.|$)")
            warnings.showwarning = show
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
