"""Corpora that are read from an iterable, forwards and once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NoReturn

from neuronwise.data.corpus import Corpus, Example
from neuronwise.data.tensors import hash_inputs
from neuronwise.errors import DataError

__all__ = ["StreamCorpus"]

# Items taken from the iterable at a time.
_BLOCK = 256


class StreamCorpus(Corpus):
    """Examples from an iterable of unknown length, which can only be read forwards, once.

    Args:
        items: Where the items come from.
        encode: Makes examples of a block of items, any number of each; they need no numbers yet.
        name: A short name for reports.
        kind: ``"text"`` or ``"array"``.
        pad: The token id that padding positions get.
        settings: What determines the examples besides the items, ready for JSON.
    """

    def __init__(
        self,
        items: Iterator[Any],
        encode: Callable[[list[Any]], list[Example]],
        *,
        name: str,
        kind: str,
        pad: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.labels = {}
        self.pad = pad
        self._items = items
        self._encode = encode
        self._settings = dict(settings or {})
        self._ready: list[Example] = []
        self._position = 0
        self._digest = hashlib.sha256()

    def length(self) -> None:
        """Return None: the length is not known before the end."""

    def examples(self, start: int, stop: int) -> list[Example]:
        """Return the examples ``start`` to ``stop - 1``; fewer, or none, at the end.

        Raises:
            DataError: If they have been read already.
        """
        if start < self._position:
            raise DataError(
                f"Example {start} of the stream {self.name!r} has been read already; the next is {self._position}. "
                "A stream can only be read forwards, once. Pass a list to read it again, or from several workers."
            )
        while self._position < start and (self._ready or self._refill()):
            self._take(start - self._position)
        taken: list[Example] = []
        while len(taken) < stop - start and (self._ready or self._refill()):
            taken.extend(self._take(stop - start - len(taken)))
        return taken

    def _refill(self) -> bool:
        while not self._ready:
            items = list(islice(self._items, _BLOCK))
            if not items:
                return False
            self._ready = self._encode(items)
        return True

    def _take(self, count: int) -> list[Example]:
        taken, self._ready = self._ready[:count], self._ready[count:]
        numbered = [replace(example, index=n) for n, example in enumerate(taken, self._position)]
        for example in numbered:
            hash_inputs(self._digest, example.inputs)
        self._position += len(numbered)
        return numbered

    def identity(self) -> dict[str, Any]:
        """Return the settings and the hash of the examples read so far."""
        return {"read": self._position, "content_sha256": self._digest.hexdigest(), **self._settings}

    def __reduce__(self) -> NoReturn:
        raise DataError(
            f"The stream {self.name!r} cannot be sent to other processes. Pass a list or a file, or use engine='local'."
        )
