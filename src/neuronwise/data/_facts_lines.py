"""JSON, line by line: what cannot be read becomes a note, and the rest goes on."""

from __future__ import annotations

import gzip
import json
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from neuronwise.data._facts_list import Facts
from neuronwise.data._facts_types import Fact
from neuronwise.data.samples import bundled, is_bundled
from neuronwise.errors import DataError, FactError

__all__ = ["beside", "collect", "field_of", "locate", "parse_file", "read_bytes", "short_name", "texts_of"]

_GZIP = b"\x1f\x8b"


def parse_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``("line 17", value)`` for every line that is not blank; the value is an error where it is not JSON.

    A file that is one JSON list gives ``("record 17", value)`` for each of its entries instead.
    """
    lines = _lines(path)
    for number, raw in lines:
        if not raw.strip():
            continue
        if number == 1 and raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
            yield from _entries(path, raw + b"".join(line for _, line in lines))
            return
        yield f"line {number}", _parse(raw)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, unpacked.

    Raises:
        DataError: If the file cannot be read.
    """
    return b"".join(raw for _, raw in _lines(path))


def collect(
    values: Iterable[tuple[str, Any]], make: Callable[[Any], Fact | None], path: Path, name: str
) -> Facts:
    """Make a fact of each value, note those that are bad, and leave out those of which ``make`` gives None.

    Raises:
        FactError: If not a single value was any good.
    """
    facts: list[Fact] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    empty = True
    for where, value in values:
        empty = False
        try:
            if isinstance(value, FactError):
                raise value
            fact = make(value)
            if fact is None:
                continue
            if fact.id in places:
                raise FactError(f"the id {fact.id!r} is that of {places[fact.id]} already.")
        except FactError as error:
            problems.append(f"{where}: {error}")
            continue
        places[fact.id] = where
        facts.append(fact)
    if not facts and (problems or empty):
        reasons = f" {len(problems)} could not be used: {' '.join(problems[:3])}" if problems else ""
        raise FactError(f"There is no fact in {path}.{reasons}")
    return Facts(facts, name=name, problems=problems)


def locate(source: str | Path) -> Path:
    """Return the place of a file, a folder, or of something that comes with the package.

    Raises:
        DataError: If nothing is there.
    """
    place = Path(source)
    if place.exists():
        return place
    if is_bundled(source):
        return bundled(str(source))
    raise DataError(
        f"There is no file or folder {str(source)!r}. Facts come from JSON lines, a PARAREL folder, a CounterFact "
        "file, or a fact model's folder; 'fact-gpt', 'fact-bert', 'facts-pararel' and 'facts-edits' come with the "
        "package."
    )


def beside(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    have = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise DataError(f"The folder {folder} has no {stem}.jsonl or {stem}.jsonl.gz. It has: {have}.")


def field_of(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        have = (
            f"it has {', '.join(map(str, row)) or 'none'}" if isinstance(row, Mapping) else "it is no object"
        )
        raise FactError(f"no field {name!r}: {have}.")
    return row[name]


def texts_of(row: Any, *names: str) -> list[str]:
    values = [field_of(row, name) for name in names]
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise FactError(f"{name!r} must be text, not {reprlib.repr(value)}.")
    return values


def short_name(path: Path) -> str:
    """Return a file's or folder's name without endings."""
    name = path.resolve().name.removesuffix(".gz")
    return name.removesuffix(".jsonl").removesuffix(".json")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as start:
            packed = start.read(2) == _GZIP
        with cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb") as file:
            yield from enumerate(file, 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"Cannot read {path}: {reason}.") from error


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return FactError(f"not UTF-8 text ({error.reason} at byte {error.start}).")
    except (ValueError, RecursionError) as error:
        return FactError(f"not valid JSON ({error}).")


def _entries(path: Path, raw: bytes) -> Iterator[tuple[str, Any]]:
    value = _parse(raw)
    if isinstance(value, FactError):
        raise DataError(f"{path}: {value} For one object a line, begin each line with an object.")
    for number, entry in enumerate(value, 1):
        yield f"record {number}", entry
