"""The manifest of a result: what was run, on what, with what seed, and the hash of every file."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from neuronwise.errors import InvalidArgumentError, NotAResultError
from neuronwise.store.schema import SCHEMA_VERSION

__all__ = ["FileEntry", "Manifest"]

_HEXADECIMAL = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What the manifest says about one file.

    Args:
        sha256: SHA-256 of its bytes, 64 hexadecimal digits.
        bytes: Its size.
        rows: Rows of a table, or number of arrays.
    """

    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What a result is and where it comes from. Its JSON is the file ``manifest.json``.

    Args:
        kind: Kind of the result, such as ``"activity"``.
        action: What was run: ``{"name": ..., "parameters": {...}}``. On which engine and with how many workers is left
            out, because the result does not depend on it and results must compare equal.
        seed: Seed of everything with chance in it, or None.
        model: Card of the model: ``name``, ``class``, ``parameters`` (how many), ``sha256`` (of the weights).
        data: Card of the corpus: ``name``, ``kind``, ``examples``, ``labels``, ``fingerprint`` (a SHA-256 of the
            content and of every setting that changes the examples), and those settings; ``content_sha256`` is of the
            content alone.
        files: What lies in the folder, by file name; empty for a result that has not been saved.
        created: When it was made, UTC, ISO 8601.
        neuronwise: Version of neuronwise.
        torch: Version of torch.
        python: Version of Python.
        schema_version: Version of the schema of the tables.

    Raises:
        InvalidArgumentError: If ``action``, ``model`` or ``data`` holds what JSON cannot.
    """

    kind: str
    action: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    neuronwise: str = field(default_factory=lambda: _version("neuronwise"))
    torch: str = field(default_factory=lambda: _version("torch"))
    python: str = field(default_factory=platform.python_version)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in ("action", "model", "data"):
            try:
                # What is written is what is kept: a tuple is a list from here on, and nobody else holds it.
                value = json.loads(json.dumps(dict(getattr(self, name)), allow_nan=False))
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(f"The manifest's {name} must be plain JSON: {error}.") from error
            object.__setattr__(self, name, MappingProxyType(value))
        object.__setattr__(self, "files", MappingProxyType(dict(self.files)))

    def with_files(self, files: Mapping[str, FileEntry]) -> Manifest:
        """Return the same manifest for the given files."""
        return replace(self, files=files)

    def same_run(self, other: Manifest) -> bool:
        """Return whether both say that the same was run on the same model and data, whenever and wherever."""
        mine = (self.kind, self.action, self.seed, self.model, self.data)
        return mine == (other.kind, other.action, other.seed, other.model, other.data)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as plain dictionaries, lists, texts and numbers."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        plain["files"] = {name: asdict(entry) for name, entry in sorted(self.files.items())}
        return plain

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings cannot be pickled; the JSON is all that there is of them.
        return Manifest.from_json, (self.to_json(),)

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "manifest.json") -> Manifest:
        """Read the text of a ``manifest.json``.

        Args:
            text: The JSON.
            where: What to call it in an error message.

        Raises:
            NotAResultError: If it is not a manifest, or is one of a newer neuronwise.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise NotAResultError(f"{where} is not JSON: {error}.") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise NotAResultError(f"{where} is not a manifest of neuronwise: it states no schema_version.")
        if version > SCHEMA_VERSION:
            raise NotAResultError(
                f"{where} has schema version {version} (written by neuronwise {values.get('neuronwise')}), "
                f"and this neuronwise reads up to version {SCHEMA_VERSION}. Install a newer one."
            )
        _check_types(values, where)
        files = {name: _file_entry(name, entry, where) for name, entry in values["files"].items()}
        return cls(**{**values, "files": files})


_TYPES: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {
        "kind": str,
        "action": dict,
        "seed": (int, type(None)),
        "model": dict,
        "data": dict,
        "files": dict,
        "created": str,
        "neuronwise": str,
        "torch": str,
        "python": str,
        "schema_version": int,
    }
)


def _check_types(values: dict[str, Any], where: str) -> None:
    """Raise if an entry of a manifest is missing, unknown, or of another type."""
    wrong = sorted(_TYPES.keys() ^ values.keys())
    if wrong:
        problem = "lacks" if wrong[0] in _TYPES else "has the unknown entry"
        raise NotAResultError(f"{where} is not a manifest of neuronwise: it {problem} {wrong[0]!r}.")
    for name, type_ in _TYPES.items():
        if not isinstance(values[name], type_):
            raise NotAResultError(f"{where} is not a manifest of neuronwise: {name!r} is {values[name]!r}.")


def _file_entry(name: str, entry: Any, where: str) -> FileEntry:
    """Return one entry of ``files``; its name must be plain, so that it cannot point out of the folder."""
    plain = name and not name.startswith(".") and not any(part in name for part in ("/", "\\", ":", "\0"))
    if not plain:
        raise NotAResultError(
            f"{where} names the file {name!r}, which is not the plain name of a file in the folder."
        )
    valid = (
        isinstance(entry, dict)
        and entry.keys() == {"sha256", "bytes", "rows"}
        and isinstance(entry["sha256"], str)
        and len(entry["sha256"]) == 64
        and _HEXADECIMAL.issuperset(entry["sha256"])
        and all(type(entry[key]) is int and entry[key] >= 0 for key in ("bytes", "rows"))
    )
    if not valid:
        raise NotAResultError(f"{where} says of the file {name!r} neither hash nor size: {entry!r}.")
    return FileEntry(**entry)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
