"""What a search method is."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

from neuronwise.discover.candidate import Candidate
from neuronwise.discover.problem import SearchProblem

__all__ = ["Method", "Refits", "settings_of"]


@runtime_checkable
class Method(Protocol):
    """A way to search for a formula: a frozen data class of settings, and a line in ``METHODS``."""

    name: ClassVar[str]

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return what was found, best first: never empty, at most 20.

        Those within the method's margin of the best criterion come first. The same problem, seed and settings give the
        same candidates on every engine. The constant formula is a candidate like any other: where nothing is beyond
        chance it is the first.

        Args:
            problem: What to search.
            engine: ``"local"``, ``"processes"`` or ``"ray"``, for methods with work to share.
            workers: Number of workers.
        """


@runtime_checkable
class Refits(Protocol):
    """A method that can fit the numbers of a formula that it has found to other rows."""

    def refit(self, problem: SearchProblem, candidate: Candidate) -> Candidate:
        """Return a candidate with its numbers fitted to all rows of a problem; its terms stay.

        Args:
            problem: The rows, with the base functions of the search.
            candidate: What was found.
        """


def settings_of(method: Method) -> dict[str, Any]:
    """Return a method's name and settings as plain JSON, for the manifest of a result."""
    values = {}
    for entry in dataclasses.fields(method):  # type: ignore[arg-type] # every method is a data class
        value = getattr(method, entry.name)
        plain = value is None or isinstance(value, bool | int | float | str)
        values[entry.name] = (
            value if plain else list(map(str, value)) if isinstance(value, tuple) else str(value)
        )
    return {"name": method.name, **values}
