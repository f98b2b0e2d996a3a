"""Parquet files of the schema's tables: small, and quick to give back one neuron."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neuronwise.errors import TamperedResultError
from neuronwise.store.frames import from_arrow, to_arrow
from neuronwise.store.schema import SCHEMA_VERSION, Table, table_schema

__all__ = ["read_rows", "read_table", "write_table"]

# A footer describes every row group, so a long table has larger groups rather than more of them.
_MOST_GROUPS = 1024


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
        row_group_size=max(table.rows_per_group, arrow.num_rows // _MOST_GROUPS),
        use_dictionary=texts,
        column_encoding=encodings,
        compression="zstd",
        write_statistics=list(table.keys),
    )


def read_table(path: Path, name: str) -> pd.DataFrame:
    """Return the whole table in ``path``.

    Raises:
        TamperedResultError: If it is not a table of the schema.
    """
    return read_rows(path, name, {})


def read_rows(path: Path, name: str, where: Mapping[str, Sequence[object]]) -> pd.DataFrame:
    """Return the rows whose columns have one of the values given for them, reading only where they can be.

    Args:
        path: The file.
        name: Name of the table.
        where: Wanted values by column; empty for all rows.

    Raises:
        TamperedResultError: If it is not a table of the schema.
    """
    table = table_schema(name)
    texts = [column.name for column in table.columns if pa.types.is_string(column.type)]
    try:
        # Text stays dictionary encoded until the few rows that are wanted are found.
        with pq.ParquetFile(path, read_dictionary=texts if where else None) as file:
            arrow = pa.concat_tables(_pieces(file, where)) if where else file.read()
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise TamperedResultError(f"{path} cannot be read as the table {name!r}: {error}") from error
    return from_arrow(table, _checked(table, arrow, path))


def _pieces(file: pq.ParquetFile, where: Mapping[str, Sequence[object]]) -> Iterator[pa.Table]:
    """Yield the wanted rows, one row group after the other; an empty table first, for the columns.

    This is what a filter of ``pyarrow.dataset`` does, several times as fast: the columns that rows are looked up
    by are decoded first, and the others only where that found something.
    """
    schema = file.schema_arrow
    yield schema.empty_table()
    places = {name: schema.get_field_index(name) for name in where}
    for group in range(file.metadata.num_row_groups):
        if not _may_hold(file.metadata.row_group(group), places, where):
            continue
        keys = file.read_row_group(group, columns=list(where), use_threads=False).combine_chunks()
        mask = np.logical_and.reduce(
            [_is_one_of(keys.column(name), values) for name, values in where.items()]
        )
        if mask.any():
            yield file.read_row_group(group, use_threads=False).filter(pa.array(mask))


def _may_hold(
    group: pq.RowGroupMetaData, places: Mapping[str, int], where: Mapping[str, Sequence[object]]
) -> bool:
    """Return whether any wanted value lies between the least and greatest of a row group, as far as noted."""
    for name, values in where.items():
        noted = group.column(places[name]).statistics
        if noted is not None and noted.has_min_max:
            least, greatest = noted.min, noted.max
            if not any(least <= value <= greatest for value in values):
                return False
    return True


def _is_one_of(column: pa.ChunkedArray, values: Sequence[object]) -> npt.NDArray[np.bool_]:
    """Return which rows have one of the values; of text, only the dictionary is compared."""
    array = column.chunk(0)
    if not pa.types.is_dictionary(array.type):
        return np.isin(array.to_numpy(zero_copy_only=False), np.asarray(values))
    wanted = np.array([text in values for text in array.dictionary.to_pylist()], dtype=bool)
    found: npt.NDArray[np.bool_] = wanted[array.indices.to_numpy()]
    return found


def _checked(table: Table, arrow: pa.Table, path: Path) -> pa.Table:
    """Return a table that was read with its text decoded, or raise if it is not what the schema says."""
    arrow = arrow.cast(pa.schema([field.with_type(_plain(field.type)) for field in arrow.schema]))
    for column in table.columns:
        found = arrow.schema.field(column.name).type if column.name in arrow.column_names else "missing"
        if found != column.type:
            raise TamperedResultError(
                f"{path} is not the table {table.name!r}: "
                f"column {column.name!r} is {found}, not {column.type}."
            )
    return arrow


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _encoding(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_):
        return "DELTA_BINARY_PACKED"
    return "BYTE_STREAM_SPLIT" if pa.types.is_floating(type_) else "PLAIN"
