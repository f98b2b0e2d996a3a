"""Columns, tables, and the columns that tables of several verbs share."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

__all__ = ["FACT", "LAYER", "NEURON", "SITE", "TOKEN", "Column", "Table", "all__", "log_p"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Args:
        name: Its name.
        type: Its type, in Arrow's words.
        doc: What it holds, in one sentence.
        unit: What a number counts or measures.
        nullable: Whether a value may be missing. Floating-point columns may always miss one: NaN in pandas is
            NULL in SQL, so that ``avg`` and ``ORDER BY`` do what one expects of an undefined statistic.
        choices: The words that a text column may hold, in the order in which rows are sorted.
    """

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    nullable: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the schema.

    Args:
        name: Its name; the file is ``<name>.parquet``.
        columns: Its columns, in order.
        keys: The columns that together name a row. Rows are sorted by them; no two rows have the same ones.
        doc: What one row is.
        open: Whether columns that are not listed are allowed; each must be numeric and is stored as float64.
        rows_per_group: Rows of one Parquet row group, the smallest piece that is read from disk.
    """

    name: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    doc: str
    open: bool = False
    rows_per_group: int = 1 << 14

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the listed columns, in order."""
        return tuple(column.name for column in self.columns)


all__ = ["MANIFEST_TABLES", "SCHEMA_VERSION", "TABLES", "Column", "Table", "markdown", "table_schema"]

SITE = Column(
    "site", pa.string(), "Name of the site: path of the module, tensor, and call where there are several."
)

NEURON = Column("neuron", pa.int32(), "Index of the neuron on the site's axis, from 0.")

LAYER = Column(
    "layer",
    pa.int32(),
    "Number of the layer within its stack, from 0; missing where there is none.",
    nullable=True,
)

TOKEN = Column("token", pa.string(), "The token as text.")

FACT = Column("fact", pa.string(), "Id of the fact; empty where it is about all facts.")


def log_p(name: str, doc: str) -> Column:
    return Column(name, pa.float64(), doc, unit="nats")
