"""A part of a corpus: some consecutive examples of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from neuronwise.data.corpus import Corpus, Example
from neuronwise.errors import InvalidArgumentError

__all__ = ["Part"]


class Part(Corpus):
    """The examples ``start`` to ``stop - 1`` of a corpus; they keep their numbers there.

    Args:
        corpus: The whole corpus.
        start: Number of the first example.
        stop: One past the number of the last example; it may lie beyond the end. None means the end.

    Raises:
        InvalidArgumentError: If ``start`` is negative or ``stop`` is not after it.
    """

    def __init__(self, corpus: Corpus, start: int, stop: int | None = None) -> None:
        if start < 0 or (stop is not None and stop <= start):
            raise InvalidArgumentError(
                f"A part needs 0 <= start < stop, not start={start} and stop={stop}. Numbers count from 0."
            )
        self.name = corpus.name
        self.kind = corpus.kind
        self.labels = corpus.labels
        self.pad = corpus.pad
        self._corpus, self._start, self._stop = corpus, start, sys.maxsize if stop is None else stop

    def length(self) -> int | None:
        """Return the number of examples, or None when it is not known before the end."""
        whole = self._corpus.length()
        return None if whole is None else max(0, min(whole, self._stop) - self._start)

    def examples(self, start: int, stop: int) -> list[Example]:
        """Return the examples ``start`` to ``stop - 1`` of the part."""
        first = self._start + max(start, 0)
        return self._corpus.examples(first, min(self._start + stop, self._stop))

    def identity(self) -> dict[str, Any]:
        """Return what determines the examples: the corpus, and which of its examples."""
        return {**self._corpus.identity(), "part": [self._start, self._end]}

    @property
    def _end(self) -> int | None:
        """One past the last example there is, as far as that is known, so that equal parts have equal fingerprints."""
        length = self.length()
        if length is not None:
            return self._start + length
        return None if self._stop == sys.maxsize else self._stop

    def image(self, index: int) -> bytes | None:
        """Return a small PNG picture of an example, by its number in the whole corpus."""
        return self._corpus.image(index)

    def token_strings(self, ids: Sequence[int]) -> tuple[str, ...] | None:
        """Return one string a token id, for display, or None where the corpus does not know them."""
        return self._corpus.token_strings(ids)
