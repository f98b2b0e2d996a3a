"""The seam through which a result shows itself: pictures and pages are made a floor higher, in ``report``.

A result of kind ``activity`` is shown by the module ``neuronwise.report.activity``, which has two functions::

    plot(result, ax=None) -> matplotlib.axes.Axes
    page(result, path, *, neurons=None, title=None) -> pathlib.Path

They are looked up by name when they are called for, so that this room imports nothing from above, and a new
kind of result gets its picture by one new file.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from neuronwise.errors import InvalidArgumentError

if TYPE_CHECKING:
    from neuronwise.store.result import Result

__all__ = ["page", "plot"]


def plot(result: Result, ax: Any = None) -> Any:
    """Draw a result on Matplotlib axes, new ones by default, and return the axes."""
    return _view(result.kind).plot(result, ax)


def page(result: Result, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
    """Write a result as one self-contained HTML file and return its path."""
    written: Path = _view(result.kind).page(result, path, neurons=neurons, title=title)
    return written


def _view(kind: str) -> ModuleType:
    name = f"neuronwise.report.{kind}"
    if importlib.util.find_spec("neuronwise.report") is None or importlib.util.find_spec(name) is None:
        raise InvalidArgumentError(f"A result of kind {kind!r} has no picture. Its tables are in .tables.")
    return importlib.import_module(name)
