"""What an engine runs: a fold over numbered blocks of work, whose partial results can be merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from torch import Tensor

__all__ = ["Block", "Job"]

#: The work is cut into blocks ``(number, start, stop)``: examples, facts, searches ``start`` to ``stop - 1``.
Block = tuple[int, int, int]

S = TypeVar("S")


class Job(Protocol[S]):
    """A fold over blocks. It travels to other processes by pickling, its states come back the same way."""

    def start(self) -> S:
        """Return an empty state."""

    def run(self, state: S, block: Block) -> bool:
        """Fold one block into the state, in place. Return False if the block was empty: there is nothing further."""

    def merge(self, state: S, other: S) -> None:
        """Fold what another state holds, of later blocks, into the state, in place."""

    def dump(self, state: S) -> dict[str, Tensor]:
        """Return the state as tensors, for a checkpoint."""

    def restore(self, tensors: Mapping[str, Tensor]) -> S:
        """Return the state that :meth:`dump` has written."""

    def fingerprint(self) -> str:
        """Return a text that differs whenever a checkpoint must not be gone on from: other model, data, settings."""
