"""Parquet files of the schema's tables: small, and quick to give back one neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neuronwise.store.frames import from_arrow, to_arrow
from neuronwise.store.schema import SCHEMA_VERSION, Table, table_schema

__all__ = ["read_rows", "read_table", "write_table"]


def write_table(path: Path, name: str, frame: pd.DataFrame) -> None:
    """Write a table of the schema as Parquet.

    Text is dictionary encoded, whole numbers as differences to the one before (the rows are sorted by their
    keys), and floating-point numbers byte plane by byte plane, all under zstd. Only the keys have minimum and
    maximum noted: they are what rows are looked up by.
    """
    table = table_schema(name)
    arrow = to_arrow(name, frame)
    note = {"neuronwise.table": name, "neuronwise.schema_version": str(SCHEMA_VERSION)}
    texts = [field.name for field in arrow.schema if pa.types.is_string(field.type)]
    encodings = {field.name: _encoding(field.type) for field in arrow.schema if field.name not in texts}
    pq.write_table(
        arrow.replace_schema_metadata(note),
        path,
        row_group_size=table.rows_per_group,
        use_dictionary=texts,
        column_encoding=encodings,
        compression="zstd",
        write_statistics=list(table.keys),
    )


def read_table(path: Path, name: str) -> pd.DataFrame:
    """Return the whole table in ``path``."""
    return read_rows(path, name, {})


def read_rows(path: Path, name: str, where: Mapping[str, Sequence[object]]) -> pd.DataFrame:
    """Return the rows whose columns have one of the values given for them, reading only where they can be."""
    table: Table = table_schema(name)
    filters = [(column, "in", list(values)) for column, values in where.items()]
    arrow = pq.read_table(path, filters=filters or None, use_threads=not filters)
    return from_arrow(table, arrow)


def _encoding(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_):
        return "DELTA_BINARY_PACKED"
    return "BYTE_STREAM_SPLIT" if pa.types.is_floating(type_) else "PLAIN"
