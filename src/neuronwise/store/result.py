"""Results: what every verb returns, in memory or in a folder."""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from neuronwise.errors import AddressError, InvalidArgumentError, NotAResultError, closest
from neuronwise.store import views
from neuronwise.store.folder import (
    ARRAYS_FILE,
    check_file,
    read_array,
    read_array_names,
    read_manifest,
    write_folder,
)
from neuronwise.store.frames import validate
from neuronwise.store.manifest import Manifest
from neuronwise.store.parquet import read_rows, read_table
from neuronwise.store.schema import TABLES, table_schema

__all__ = ["KINDS", "Result", "load_result"]

# The class of each kind of result. Rooms above this one define them: named here, imported when needed.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "ablation": "neuronwise.observe.ablation:Ablation",
        "activity": "neuronwise.observe.activity:Activity",
        "edit": "neuronwise.edit.evaluation:EditEvaluation",
        "attribution": "neuronwise.attribute.attribution:Attribution",
        "audit": "neuronwise.train.audited:Audit",
        "knowledge": "neuronwise.knowledge.located:KnowledgeNeurons",
        "effect": "neuronwise.knowledge.effect:Effect",
        "knowledge_map": "neuronwise.knowledge.map:KnowledgeMap",
        "redundancy": "neuronwise.knowledge.redundancy:Redundancy",
        "comparison": "neuronwise.estimators.comparison:Comparison",
        "monosemanticity": "neuronwise.observe.monosemanticity:Monosemanticity",
        "discovery": "neuronwise.discover.discovery:Discovery",
    }
)

Value = TypeVar("Value")


class _Lazy(Mapping[str, Value], Generic[Value]):
    """A read-only mapping whose values are made when first asked for, and then kept."""

    def __init__(self, makers: Mapping[str, Callable[[], Value]], show: Callable[[Value], Value]) -> None:
        self._makers = dict(makers)
        self._values: dict[str, Value] = {}
        self._show = show

    def __getitem__(self, name: str) -> Value:
        if name not in self._makers:
            raise AddressError(f"The result has no {name!r}. {closest(name, self._makers)}")
        if name not in self._values:
            self._values[name] = self._makers[name]()
        return self._show(self._values[name])

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"<{', '.join(self._makers) or 'nothing'}>"


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a verb returns: tables, arrays, and a manifest that says where they come from.

    A result does not change. Its tables are cast to the schema and sorted by their keys when it is made; what
    ``tables[name]`` gives is a copy that shares memory until it is written to, and arrays are read-only. One
    that was loaded from a folder reads a table when it is first asked for.

    Args:
        tables: Tables of the schema, by name.
        manifest: What was run, on what, with what seed.
        arrays: Further arrays, by name.

    Raises:
        InvalidArgumentError: If a table does not fit the schema, or the manifest is of another kind.
    """

    tables: Mapping[str, pd.DataFrame]
    manifest: Manifest
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    folder: Path | None = field(default=None, init=False)

    kind: ClassVar[str] = "result"
    main_table: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.kind not in ("result", self.manifest.kind):
            raise InvalidArgumentError(
                f"The manifest is of a result of kind {self.manifest.kind!r}, not {self.kind!r}."
            )
        frames = {name: partial(_same, validate(name, frame)) for name, frame in self.tables.items()}
        arrays = {name: partial(_same, _read_only(array)) for name, array in self.arrays.items()}
        object.__setattr__(self, "tables", _Lazy(frames, _shared_copy))
        object.__setattr__(self, "arrays", _Lazy(arrays, _same))

    def to_frame(self) -> pd.DataFrame:
        """Return the main table, a copy that is the caller's own."""
        return self.tables[self._main()].copy()

    def rows(
        self,
        table: str,
        *,
        site: object = None,
        neuron: int | Sequence[int] | None = None,
        example: int | Sequence[int] | None = None,
    ) -> pd.DataFrame:
        """Return the rows of a table that belong to some neurons or examples; from disk, only these are read.

        Args:
            table: Name of the table.
            site: A site, or its name.
            neuron: Index of a neuron, or several.
            example: Number of an example, or several.

        Raises:
            AddressError: If the result has no such table.
            InvalidArgumentError: If the table does not have the column asked for.

        Example:
            ``activity.rows("examples", site=activity_site, neuron=17)``
        """
        if table not in self.tables:
            raise AddressError(f"The result has no table {table!r}. {closest(table, self.tables)}")
        where: dict[str, list[object]] = {}
        if site is not None:
            where["site"] = [str(site)]
        for name, wanted in (("neuron", neuron), ("example", example)):
            if wanted is not None:
                where[name] = [int(value) for value in np.atleast_1d(np.asarray(wanted))]
        columns = table_schema(table).column_names
        for name in where:
            if name not in columns:
                raise InvalidArgumentError(
                    f"Table {table!r} has no column {name!r}. {closest(name, columns)}"
                )
        if self.folder is not None:
            path = self.folder / f"{table}.parquet"
            check_file(path, self.manifest.files[path.name], verify=False)
            return read_rows(path, table, where)
        frame = self.tables[table]
        for name, values in where.items():
            frame = frame[frame[name].isin(values)]
        return frame.reset_index(drop=True)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the result to a folder, all of it or nothing, and return the folder.

        Args:
            folder: The folder to make.
            overwrite: Replace an earlier result in that place.

        Raises:
            WriteError: If it cannot be written, or is there already.
        """
        return write_folder(
            folder, self.tables, arrays=self.arrays, manifest=self.manifest, overwrite=overwrite
        )

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = True) -> Self:
        """Return the result in a folder. Tables are read when first asked for.

        Args:
            folder: The folder that :meth:`save` wrote.
            verify: Check the hash of every file, which reads each once. Without it only that it is there and
                has its size.

        Raises:
            NotAResultError: If the folder is not a result, or one of another kind.
            IncompleteResultError: If a file is missing.
            TamperedResultError: If a file is not what was written.
        """
        path = Path(folder)
        manifest = read_manifest(path, verify=verify)
        if cls.kind not in ("result", manifest.kind):
            raise NotAResultError(
                f"{path} is a result of kind {manifest.kind!r}, not {cls.kind!r}. load_result reads any kind."
            )
        result = cls(tables={}, manifest=manifest)
        frames = {
            name: partial(_load_frame, path, name, manifest)
            for name in TABLES
            if _file(name) in manifest.files
        }
        object.__setattr__(result, "tables", _Lazy(frames, _shared_copy))
        if ARRAYS_FILE in manifest.files:
            file = path / ARRAYS_FILE
            arrays = {name: partial(_load_array, path, name, manifest) for name in read_array_names(file)}
            object.__setattr__(result, "arrays", _Lazy(arrays, _same))
        object.__setattr__(result, "folder", path)
        return result

    def plot(self, ax: Any = None) -> Any:
        """Draw the result on Matplotlib axes, new ones by default, and return the axes."""
        return views.plot(self, ax)

    def report(self, path: str | Path, *, neurons: Any = None, title: str | None = None) -> Path:
        """Write one self-contained HTML file that opens offline, and return its path.

        Args:
            path: The file to write.
            neurons: The neurons to show in full, a NeuronSet; by default the report chooses.
            title: Title of the page.
        """
        return views.page(self, path, neurons=neurons, title=title)

    def __eq__(self, other: object) -> bool:
        """Return whether the same was run on the same and gave the same; when and where does not count."""
        if not isinstance(other, Result):
            return NotImplemented
        return (
            type(self) is type(other)
            and self.manifest.same_run(other.manifest)
            and self.tables.keys() == other.tables.keys()
            and self.arrays.keys() == other.arrays.keys()
            and all(self.tables[name].equals(other.tables[name]) for name in self.tables)
            and all(_same_array(self.arrays[name], other.arrays[name]) for name in self.arrays)
        )

    # Equal results may have different hashes of their parts, and a table cannot be hashed cheaply.
    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy it whole, also what lies in a folder: an estimator that holds a result is moved by joblib."""
        return _unpickled, (type(self), dict(self.tables), self.manifest, dict(self.arrays))

    def __repr__(self) -> str:
        tables = ", ".join(f"{name}[{self._rows_of(name)}]" for name in self.tables)
        arrays = f"; arrays {', '.join(self.arrays)}" if self.arrays else ""
        return f"{type(self).__name__}({self.manifest.kind}: {tables or 'no tables'}{arrays})"

    def _repr_html_(self) -> str:
        """Return the head of the main table with a line on what was run, for notebooks."""
        about = [repr(self)]
        for card in (self.manifest.model, self.manifest.data):
            about += [str(card["name"])] if "name" in card else []
        about += [f"made {self.manifest.created}"] + ([f"in {self.folder}"] if self.folder else [])
        head = self.tables[self._main()].head().to_html(border=0, index=False) if self.tables else ""
        return f"<div><p>{html.escape(' · '.join(about))}</p>{head}</div>"

    def _main(self) -> str:
        return self.main_table or next(iter(self.tables), "")

    def _rows_of(self, name: str) -> int:
        entry = self.manifest.files.get(_file(name)) if self.folder is not None else None
        return len(self.tables[name]) if entry is None else entry.rows


def load_result(folder: str | Path, *, verify: bool = True) -> Result:
    """Return the result in a folder as the class of its kind, a plain :class:`Result` if that is unknown.

    Args:
        folder: The folder that :meth:`Result.save` wrote.
        verify: Check the hash of every file; see :meth:`Result.load`.

    Raises:
        ResultError: If the folder is not a whole and untouched result.
    """
    kind = read_manifest(folder, verify=False).kind
    if kind not in KINDS:
        return Result.load(folder, verify=verify)
    module, name = KINDS[kind].split(":")
    loaded: Result = getattr(importlib.import_module(module), name).load(folder, verify=verify)
    return loaded


def _unpickled(
    cls: type[Result],
    tables: Mapping[str, pd.DataFrame],
    manifest: Manifest,
    arrays: Mapping[str, npt.NDArray[Any]],
) -> Result:
    return cls(tables=tables, manifest=manifest, arrays=arrays)


def _file(table: str) -> str:
    return f"{table}.parquet"


def _same(value: Value) -> Value:
    return value


def _shared_copy(frame: pd.DataFrame) -> pd.DataFrame:
    # pandas copies on write, so this costs nothing until somebody changes the copy.
    return frame.copy(deep=False)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    mine = np.array(array)
    mine.flags.writeable = False
    return mine


def _load_array(folder: Path, name: str, manifest: Manifest) -> npt.NDArray[Any]:
    path = folder / ARRAYS_FILE
    check_file(path, manifest.files[path.name], verify=False)
    return _read_only(read_array(path, name))


def _load_frame(folder: Path, name: str, manifest: Manifest) -> pd.DataFrame:
    path = folder / _file(name)
    check_file(path, manifest.files[path.name], verify=False)
    return read_table(path, name)


def _same_array(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
