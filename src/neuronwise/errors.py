"""Every exception that neuronwise raises on purpose.

::

    NeuronwiseError
    ├── AddressError          an address (site, neuron, axis, table, example) that matches nothing
    │   ├── SiteNotFoundError     no module or site of that name
    │   ├── NeuronIndexError      a neuron index outside the site's width
    │   └── SiteAxisError         a tensor that does not have the neurons where the site says
    ├── HookError             a model that cannot be hooked, or a hook that did not do its work
    │   ├── CompiledModelError    hooks would be skipped silently by a compiled or scripted model
    │   ├── SiteNotReachedError   the forward pass never came by a site
    │   ├── AmbiguousCallError    a module ran several times and the call was not named
    │   └── OverwrittenError      a later in-place operation changed a captured reference
    ├── DataError             a corpus or model folder that cannot be used
    │   ├── EmptyCorpusError      nothing to observe
    │   ├── FactError             a fact or prompt that cannot be used
    │   ├── TableError            a table or target that an estimator cannot learn from (also a ValueError)
    │   ├── UnsafeFileError       loading it would execute code (pickle)
    │   └── BatchMismatchError    batch and model differ in device or dtype
    ├── ResultError           a folder that is not a (complete, untouched) result
    │   ├── NotAResultError       no manifest there
    │   ├── IncompleteResultError half-written: a file of the manifest is missing
    │   ├── TamperedResultError   a file does not have the hash in the manifest
    │   └── WriteError            the result could not be written (disk full, no permission)
    ├── PatchError            an edit that cannot be made, or a patch that is not for this model
    ├── FormulaError          a formula that cannot be read or evaluated (also a ValueError)
    ├── MissingExtraError     an optional package is not installed (also an ImportError)
    └── InvalidArgumentError  an argument outside what a function takes (also a ValueError)
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "AddressError",
    "AmbiguousCallError",
    "BatchMismatchError",
    "CompiledModelError",
    "DataError",
    "EmptyCorpusError",
    "FactError",
    "FormulaError",
    "HookError",
    "IncompleteResultError",
    "InvalidArgumentError",
    "MissingExtraError",
    "NeuronIndexError",
    "NeuronwiseError",
    "NotAResultError",
    "OverwrittenError",
    "PatchError",
    "ResultError",
    "SiteAxisError",
    "SiteNotFoundError",
    "SiteNotReachedError",
    "TableError",
    "TamperedResultError",
    "UnsafeFileError",
    "WriteError",
    "closest",
    "counted",
    "require",
]


class NeuronwiseError(Exception):
    """Base of every error that neuronwise raises on purpose."""


class AddressError(NeuronwiseError, LookupError):
    """An address (site, neuron, axis, table) that matches nothing."""


class SiteNotFoundError(AddressError):
    """No module or site of that name; the message lists the closest names."""


class NeuronIndexError(AddressError, IndexError):
    """A neuron index outside the site's width."""


class SiteAxisError(AddressError):
    """A tensor that does not have the site's neurons on the site's axis."""


class HookError(NeuronwiseError, RuntimeError):
    """A model that cannot be hooked, or a hook that did not do its work."""


class CompiledModelError(HookError):
    """Hooks would be skipped silently by a compiled or scripted model."""


class SiteNotReachedError(HookError):
    """The forward pass never came by a site."""


class AmbiguousCallError(HookError):
    """A module ran several times in one forward pass and the call was not named."""


class OverwrittenError(HookError):
    """A later in-place operation changed a captured reference."""


class DataError(NeuronwiseError):
    """A corpus or a model folder that cannot be used."""


class EmptyCorpusError(DataError):
    """A corpus without a single example."""


class FactError(DataError):
    """A fact or prompt that cannot be used."""


class TableError(DataError, ValueError):
    """A table or target that an estimator cannot learn from; scikit-learn expects a ValueError there."""


class UnsafeFileError(DataError):
    """A file whose loading would execute code, such as a pickle."""


class BatchMismatchError(DataError):
    """A batch on another device or of another dtype than the model."""


class ResultError(NeuronwiseError):
    """A folder that is not a complete and untouched result."""


class NotAResultError(ResultError):
    """A folder without a readable neuronwise manifest."""


class IncompleteResultError(ResultError):
    """A half-written result: files that the manifest names are missing."""


class TamperedResultError(ResultError):
    """A file that does not have the hash that the manifest states."""


class WriteError(ResultError, OSError):
    """A result that could not be written; nothing half-written is left behind."""


class PatchError(NeuronwiseError):
    """An edit that cannot be made, or a patch that is not for this model; the model was not touched."""


class FormulaError(NeuronwiseError, ValueError):
    """A formula that cannot be read, or that cannot be evaluated as it stands.

    Args:
        message: What is wrong, and what to try.
        text: The formula's text; the message shows the part around the position, with a caret below it.
        position: Where in the text, counted in characters from 0; None where no single place is at fault.
    """

    def __init__(self, message: str, text: str = "", position: int | None = None) -> None:
        super().__init__(message, text, position)
        self.message = message
        self.text = text
        self.position = position

    def __str__(self) -> str:
        if self.position is None or not self.text:
            return self.message
        start = max(self.position - 50, 0)
        shown = "".join(c if c.isprintable() else " " for c in self.text[start : self.position + 30])
        before, after = "..." if start else "", "..." if self.position + 30 < len(self.text) else ""
        caret = " " * (len(before) + self.position - start) + "^"
        return f"{self.message}\n  {before}{shown}{after}\n  {caret}"


class MissingExtraError(NeuronwiseError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class InvalidArgumentError(NeuronwiseError, ValueError):
    """An argument outside what a function takes."""


def closest(name: str, known: Iterable[str], *, limit: int = 5) -> str:
    """Return a sentence that lists the known names nearest to ``name``, for an error message."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=limit, cutoff=0.0)
    if not near:
        return "There are none to choose from."
    more = f" (of {len(names)})" if len(names) > len(near) else ""
    return f"Closest names{more}: {', '.join(near)}."


def counted(number: int, thing: str) -> str:
    """Return a number with what it counts: ``1 row``, ``2 rows``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def require(package: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        package: The module to import.
        extra: The neuronwise extra that installs it.
        purpose: What it is needed for, to complete "... needs the package".

    Raises:
        MissingExtraError: If the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'neuronwise[{extra}]'"
        ) from error
