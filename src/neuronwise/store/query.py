"""SQL over result folders, by DuckDB in this process.

DuckDB itself may touch no file here, not even the tables: what lies outside the database is switched off and the switch
is locked, and the Parquet files come to it as Arrow datasets that Python has opened. Allowing it just those files would
not do, since ``WITH x AS (COPY ...) SELECT`` overwrites an allowed file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from neuronwise.errors import InvalidArgumentError, TamperedResultError
from neuronwise.store.folder import read_manifest
from neuronwise.store.manifest import Manifest
from neuronwise.store.schema import MANIFEST_TABLES, TABLES

if TYPE_CHECKING:
    import duckdb

__all__ = ["query"]


def query(folders: str | Path | Sequence[str | Path], sql: str, *, verify: bool = False) -> pd.DataFrame:
    """Run SQL over one or several result folders.

    Each table is there under its name. Beside them are ``model`` and ``provenance``, made from the manifests, one row
    for each folder. Several folders are put together table by table, with a further column ``result``: the name of the
    folder (its path, where two have the same name).

    Args:
        folders: A result folder, or several.
        sql: What to run. It can read the tables and nothing else: no other file, no network.
        verify: Check the hash of every file first; otherwise its size.

    Returns:
        The rows of the last statement.

    Raises:
        InvalidArgumentError: If DuckDB refuses the SQL; the message lists the tables and their columns.
        ResultError: If a folder is not a whole and untouched result.

    Example:
        ``query("runs/a", "SELECT layer, avg(kurtosis) FROM neurons GROUP BY layer ORDER BY layer")``
    """
    given = [folders] if isinstance(folders, str | Path) else folders
    paths = [Path(folder).resolve() for folder in given]
    if not paths:
        raise InvalidArgumentError("There is no folder to query: pass one result folder or several.")
    manifests = {name: read_manifest(path, verify=verify) for name, path in _named(paths).items()}
    with _database() as database:
        _add_tables(database, dict(zip(manifests, paths, strict=True)), manifests)
        _add_manifests(database, manifests)
        return _run(database, sql)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the folders by a name of their own: the last part, or the whole path where that is not enough."""
    names = [path.resolve().name for path in paths]
    named = {
        str(path) if names.count(name) > 1 else name: path for name, path in zip(names, paths, strict=True)
    }
    if len(named) < len(paths):
        raise InvalidArgumentError(f"The same folder is named twice: {', '.join(map(str, paths))}.")
    return named


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an empty database in memory that cannot reach anything outside itself."""
    import duckdb

    with TemporaryDirectory(prefix="neuronwise-query-", ignore_cleanup_errors=True) as spill:
        settings: dict[str, Any] = {
            # Where a query larger than memory may spill; removed with the database.
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            # Tables are given by name; SQL must not find the variables of this program.
            "python_enable_replacements": False,
        }
        with duckdb.connect(":memory:", config=settings) as database:
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            yield database


def _add_tables(
    database: duckdb.DuckDBPyConnection, folders: dict[str, Path], manifests: dict[str, Manifest]
) -> None:
    """Add every table: the file itself for one folder, a view over the folders that have it for several."""
    for table in TABLES:
        file = f"{table}.parquet"
        having = [name for name, manifest in manifests.items() if file in manifest.files]
        if len(manifests) == 1 and having:
            database.register(table, _dataset(folders[having[0]] / file))
            continue
        selects: list[str] = []
        for name in having:
            source = f"{table}_of_{len(selects)}"
            database.register(source, _dataset(folders[name] / file))
            selects.append(f'SELECT {_quoted(name)} AS result, * FROM "{source}"')
        if selects:
            database.execute(f'CREATE VIEW "{table}" AS {" UNION ALL BY NAME ".join(selects)}')


def _add_manifests(database: duckdb.DuckDBPyConnection, manifests: dict[str, Manifest]) -> None:
    """Add the tables that are made from the manifests."""
    rows = [_facts(name, manifest) for name, manifest in manifests.items()]
    numbers = {"n_parameters": pa.int64(), "seed": pa.int64(), "schema_version": pa.int32()}
    for table, columns in MANIFEST_TABLES.items():
        schema = pa.schema([(column, numbers.get(column, pa.string())) for column in columns])
        kept = [{column: row[column] for column in columns} for row in rows]
        database.register(table, pa.Table.from_pylist(kept, schema=schema))


def _facts(name: str, manifest: Manifest) -> dict[str, Any]:
    """Return what the manifest's tables say about one result; a card that lacks an entry has None there."""
    model, data, action = manifest.model, manifest.data, manifest.action
    parameters = model.get("parameters")
    return {
        "result": name,
        "kind": manifest.kind,
        "action": _text(action.get("name")),
        "parameters": json.dumps(action.get("parameters", {}), sort_keys=True),
        "seed": manifest.seed,
        "model_name": _text(model.get("name")),
        "model_class": _text(model.get("class")),
        "model_sha256": _text(model.get("sha256")),
        "n_parameters": parameters if type(parameters) is int else None,
        "data_name": _text(data.get("name")),
        "data": json.dumps(dict(data), sort_keys=True),
        "created": manifest.created,
        "neuronwise": manifest.neuronwise,
        "torch": manifest.torch,
        "python": manifest.python,
        "schema_version": manifest.schema_version,
    }


def _run(database: duckdb.DuckDBPyConnection, sql: str) -> pd.DataFrame:
    import duckdb

    try:
        if database.extract_statements(sql):
            return database.execute(sql).df()
    except duckdb.Error as error:
        raise InvalidArgumentError(_refusal(database, f"DuckDB refuses this SQL. {error}")) from error
    raise InvalidArgumentError(_refusal(database, "There is no SQL to run."))


def _refusal(database: duckdb.DuckDBPyConnection, problem: str) -> str:
    return f"{problem}\nThere are:\n{_columns(database)}"


def _columns(database: duckdb.DuckDBPyConnection) -> str:
    """Return the tables and their columns, a line each."""
    names = [*TABLES, *MANIFEST_TABLES]
    found = database.execute(
        "SELECT table_name, string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() "
        "WHERE list_contains(?, table_name) GROUP BY table_name ORDER BY table_name",
        [names],
    )
    return "\n".join(f"  {name}({columns})" for name, columns in found.fetchall())


def _dataset(path: Path) -> ds.Dataset:
    try:
        return ds.dataset(str(path.resolve()), format="parquet", filesystem=LocalFileSystem())
    except (pa.ArrowInvalid, OSError) as error:
        raise TamperedResultError(f"{path} is not a Parquet file: {error}") from error


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
