"""The tables of a stored result: their columns, types, units and keys, under one version number.

Results of different people can be joined with SQL because every result folder keeps to these tables. A later
verb adds a file of tables, and its name to :data:`TABLES`; a change of what is there raises :data:`SCHEMA_VERSION`. The
page ``docs/reference/schema.md`` is made from this module by ``docs/_schema.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.store._tables import attribute, discover, edit, estimators, knowledge, observe, train
from neuronwise.store._tables.columns import Column, Table

__all__ = ["MANIFEST_TABLES", "SCHEMA_VERSION", "TABLES", "Column", "Table", "markdown", "table_schema"]

SCHEMA_VERSION = 1

TABLES: Mapping[str, Table] = MappingProxyType(
    {
        table.name: table
        for verb in (observe, attribute, knowledge, edit, discover, train, estimators)
        for table in verb.TABLES
    }
)

# What a query sees of the manifests: one row for each result.
MANIFEST_TABLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model": ("result", "model_name", "model_class", "model_sha256", "n_parameters"),
        "provenance": (
            "result",
            "kind",
            "action",
            "parameters",
            "seed",
            "model_name",
            "model_sha256",
            "data_name",
            "data",
            "created",
            "neuronwise",
            "torch",
            "python",
            "schema_version",
        ),
    }
)


def table_schema(name: str) -> Table:
    """Return the table of that name.

    Raises:
        InvalidArgumentError: If the schema has no such table.
    """
    if name not in TABLES:
        raise InvalidArgumentError(
            f"The schema (version {SCHEMA_VERSION}) has no table {name!r}. {closest(name, TABLES)}"
        )
    return TABLES[name]


def markdown() -> str:
    """Return the reference page of the schema."""
    lines = [
        "# The tables of a result",
        "",
        f"Schema version {SCHEMA_VERSION}. This page is made from `neuronwise.store.schema` by "
        "`python docs/_schema.py`.",
        "",
        "A result folder holds one Parquet file for each table it has, `arrays.safetensors` where it has "
        "arrays, and `manifest.json`: what was run, on what, with what seed, and the size and SHA-256 of every "
        "file. Rows are sorted by the keys, and no two rows have the same keys. A floating-point value that is "
        "not defined is NULL.",
        "",
        '`neuronwise query FOLDER "SELECT ..."` shows each table under its name. Beside them are two tables that '
        "come from the manifests, one row for each folder: `model` "
        f"({', '.join(f'`{name}`' for name in MANIFEST_TABLES['model'])}) and `provenance` "
        f"({', '.join(f'`{name}`' for name in MANIFEST_TABLES['provenance'])}; `parameters` and `data` are JSON). "
        "With several folders, every table has the further column `result`, the name of the folder.",
    ]
    for table in TABLES.values():
        lines += [
            "",
            f"## {table.name}",
            "",
            table.doc,
            "",
            f"Keys: {', '.join(f'`{key}`' for key in table.keys)}.",
        ]
        if table.open:
            lines += ["", "Further columns are allowed; each is `double`."]
        lines += ["", "| column | type | unit | what it holds |", "|---|---|---|---|"]
        for column in table.columns:
            words = f" One of: {', '.join(column.choices)}." if column.choices else ""
            kind = f"{column.type}{', may be missing' if column.nullable else ''}"
            lines.append(f"| `{column.name}` | {kind} | {column.unit} | {column.doc}{words} |")
    return "\n".join(lines) + "\n"
