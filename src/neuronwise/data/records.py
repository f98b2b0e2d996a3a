"""Texts with their labels, read by number from files, lists and datasets, before they are made into tokens."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import weakref
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from neuronwise.data.parsers import ConlluParser, JsonParser, LineParser, RowParser, TextRecord
from neuronwise.errors import DataError, EmptyCorpusError
from neuronwise.files import sha256_file

__all__ = [
    "ConlluParser",
    "FileRecords",
    "JsonParser",
    "LineParser",
    "Records",
    "RowParser",
    "RowRecords",
    "TextRecord",
]

_CHUNK = 1 << 20


class Records(ABC):
    """Numbered text records; blank ones are left out.

    Attributes:
        labels: Label field -> names of its classes, in order.
        skipped: Number of bad records left out.
    """

    labels: Mapping[str, tuple[str, ...]]
    skipped: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, start: int, stop: int) -> list[TextRecord]:
        """Return the records ``start`` to ``stop - 1``."""

    @abstractmethod
    def content_hash(self) -> str:
        """Return a SHA-256 of the content."""

    def _finish(
        self,
        seen: Mapping[str, set[str]],
        where: str,
        known: Mapping[str, tuple[str, ...]],
        *,
        optional: bool = False,
    ) -> None:
        """Fix the class names once every record has been seen; optional fields may have none and are left out."""
        if not len(self):
            dropped = f" ({self.skipped} bad ones were skipped)" if self.skipped else ""
            raise EmptyCorpusError(
                f"{where} has no text in it{dropped}. Give a source with at least one example."
            )
        for name, values in seen.items():
            if not values and not optional:
                raise DataError(
                    f"No text in {where} has a label in the field {name!r}. In CoNLL-U the columns are upos, xpos, "
                    "deprel and lemma, and features are named as in the file, such as Number or Tense."
                )
        self.labels = {name: known.get(name) or _in_order(values) for name, values in seen.items() if values}


class RowRecords(Records):
    """Records of rows in memory, or of a Hugging Face dataset.

    Args:
        rows: Strings or mappings, by number.
        parser: Makes a record of a row.
        where: What the rows come from, for messages.
        skip_bad: Leave bad rows out instead of raising.
        content_hash: SHA-256 of the content; None computes it from the records.
        known: Class names that are known from elsewhere, by field.

    Raises:
        DataError: If a row is bad.
        EmptyCorpusError: If there is no text.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        *,
        parser: RowParser,
        where: str,
        skip_bad: bool = False,
        content_hash: str | None = None,
        known: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._rows = rows
        self._parser = parser
        self._kept = array("q")
        self._hash = content_hash
        self.skipped = 0
        seen: dict[str, set[str]] = {name: set() for name in parser.label_fields}
        for number, row in enumerate(rows):
            try:
                record = parser(row)
            except DataError as error:
                if not skip_bad:
                    raise DataError(f"{where}, example {number}: {error}") from error
                self.skipped += 1
                continue
            if not record.blank:
                self._kept.append(number)
                _collect(record, seen)
        self._finish(seen, where, known or {})

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, start: int, stop: int) -> list[TextRecord]:
        """Return the records ``start`` to ``stop - 1``."""
        return [self._parser(self._rows[number]) for number in self._kept[start:stop]]

    def content_hash(self) -> str:
        """Return a SHA-256 of the content."""
        if self._hash is None:
            digest = hashlib.sha256()
            for number in range(len(self)):
                (record,) = self.read(number, number + 1)
                digest.update(json.dumps([record.text, dict(record.labels)]).encode())
            self._hash = digest.hexdigest()
        return self._hash


class FileRecords(Records):
    """Records of a text file, plain or compressed with gzip, that stays on disk.

    The file is walked through once, to check every piece and to note where it lies (16 bytes a piece); from then
    on pieces are read where they are asked for.

    Args:
        path: The file, UTF-8.
        parser: Makes a record of a piece.
        separator: What stands between pieces; a line end by default.
        skip_bad: Leave bad pieces out instead of raising.

    Raises:
        DataError: If the file cannot be read or a piece is bad; the message says which line.
        EmptyCorpusError: If there is no text.
    """

    def __init__(
        self,
        path: Path,
        *,
        parser: LineParser | JsonParser | ConlluParser,
        separator: str = "\n",
        skip_bad: bool = False,
    ) -> None:
        self._path = path
        self._parser: Callable[[str], TextRecord] = parser
        self._starts, self._stops = array("q"), array("q")
        self._handle: BinaryIO | None = None
        self._owner = 0
        self._size = _size(path)
        self.skipped = 0
        fields = getattr(getattr(parser, "row", parser), "label_fields", ())
        seen: dict[str, set[str]] = {name: set() for name in fields}
        line = 1
        for start, raw in _pieces(path, separator.encode()):
            try:
                record = self._record(raw)
            except DataError as error:
                if not skip_bad:
                    raise DataError(
                        f"{path}, line {line}: {error} Mend the file, or pass on_error='skip' to leave it out."
                    ) from error
                self.skipped += 1
            else:
                if not record.blank:
                    self._starts.append(start)
                    self._stops.append(start + len(raw))
                    _collect(record, seen)
            line += raw.count(b"\n") + separator.count("\n")
        self._finish(seen, str(path), {}, optional=getattr(parser, "optional", False))

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, start: int, stop: int) -> list[TextRecord]:
        """Return the records ``start`` to ``stop - 1``.

        Raises:
            DataError: If the file is gone or was changed since it was first read.
        """
        starts, stops = self._starts[start:stop], self._stops[start:stop]
        if not starts:
            return []
        file = self._open()
        file.seek(starts[0])
        block = file.read(stops[-1] - starts[0])
        return [
            self._record(block[first - starts[0] : last - starts[0]])
            for first, last in zip(starts, stops, strict=True)
        ]

    def content_hash(self) -> str:
        """Return a SHA-256 of the content."""
        return sha256_file(self._path)

    def _record(self, raw: bytes) -> TextRecord:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 text ({error.reason} at byte {error.start}).") from error
        return self._parser(text.removeprefix("\ufeff").strip("\r\n"))

    def _open(self) -> BinaryIO:
        """Return the file, kept open because a compressed one can only be read forwards cheaply."""
        # A forked child shares the file's position with its parent, so it opens its own.
        if self._handle is None or self._owner != os.getpid():
            if _size(self._path) != self._size:
                raise DataError(
                    f"{self._path} was changed after it had been opened as a corpus. Open it again."
                )
            self._handle, self._owner = _open(self._path), os.getpid()
            weakref.finalize(self, self._handle.close)
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


def blank_line(path: Path) -> str:
    """Return what an empty line looks like in a text file: line ends are one character, or two (Windows)."""
    try:
        with _open(path) as file:
            return "\r\n\r\n" if file.readline(_CHUNK).endswith(b"\r\n") else "\n\n"
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _pieces(path: Path, separator: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a file between separators, each with the byte at which it starts."""
    start, rest = 0, b""
    try:
        with _open(path) as file:
            while chunk := file.read(_CHUNK):
                *whole, rest = (rest + chunk).split(separator)
                for piece in whole:
                    yield start, piece
                    start += len(piece) + len(separator)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    yield start, rest


def _collect(record: TextRecord, seen: Mapping[str, set[str]]) -> None:
    for name, value in record.labels.items():
        seen[name].update(v for v in (value if isinstance(value, tuple) else (value,)) if v is not None)


def _in_order(values: set[str]) -> tuple[str, ...]:
    """Sort class names: numbers by value, everything else by letters."""
    return tuple(sorted(values, key=lambda v: (0, int(v), v) if v.lstrip("-").isdecimal() else (1, 0, v)))
