"""Tables in memory: a pandas frame cast to the schema, sorted by its keys, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.store.schema import Column, Table, table_schema

__all__ = ["from_arrow", "to_arrow", "validate"]


def validate(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table cast to the schema's types and sorted by its keys.

    Text columns without a fixed list of words, such as ``site``, are sorted by first appearance, so that
    layer 10 stays behind layer 2.

    Args:
        name: Name of the table in the schema.
        frame: Its rows; the index is dropped.

    Returns:
        A new frame: the schema's columns first, in its order, then the others of an open table.

    Raises:
        InvalidArgumentError: If the schema has no such table, or a column is missing, unknown, or holds what
            the schema does not allow, or two rows have the same keys.

    Example:
        >>> rows = {"site": ["a:input"] * 2, "layer": 0, "neuron": [1, 0], "n": 9, "nonfinite": 0}
        >>> validate("neurons", pd.DataFrame(rows))["neuron"].tolist()
        [0, 1]
    """
    return from_arrow(table_schema(name), to_arrow(name, frame))


def to_arrow(name: str, frame: pd.DataFrame) -> pa.Table:
    """Return a frame as an Arrow table of the schema's types, sorted by its keys; see :func:`validate`."""
    table = table_schema(name)
    columns = (*table.columns, *_further_columns(table, frame))
    arrays = [_cast(table, column, frame[column.name]) for column in columns]
    arrow = pa.table(arrays, names=[column.name for column in columns])
    order = _sort_order(table, arrow)
    return arrow if order is None else arrow.take(order)


def from_arrow(table: Table, arrow: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame: whole numbers stay whole also where some are missing."""
    frame: pd.DataFrame = arrow.to_pandas()
    for column in table.columns:
        if column.nullable and column.type in _NULLABLE:
            frame[column.name] = arrow.column(column.name).to_pandas(types_mapper=_NULLABLE.get)
    return frame


_NULLABLE = {pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}


def _further_columns(table: Table, frame: pd.DataFrame) -> list[Column]:
    """Return columns for what the frame has beyond the schema, if the table is open."""
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InvalidArgumentError(
            f"Table {table.name!r}: column names must be different texts, not {names}."
        )
    missing = [name for name in table.column_names if name not in names]
    if missing:
        raise InvalidArgumentError(
            f"Table {table.name!r} lacks the column {missing[0]!r}; it has {', '.join(names)}. "
            f"The schema asks for {', '.join(table.column_names)}."
        )
    further = [name for name in names if name not in table.column_names]
    if further and not table.open:
        raise InvalidArgumentError(
            f"Table {table.name!r} has no column {further[0]!r}. {closest(further[0], table.column_names)}"
        )
    return [Column(name, pa.float64(), "A statistic.") for name in further]


def _cast(table: Table, column: Column, series: pd.Series) -> pa.Array:
    """Return one column in the schema's type, or say what is wrong with it."""
    where = f"Table {table.name!r}, column {column.name!r}"
    try:
        array = pa.array(series, from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if _family(array.type) not in (_family(column.type), "null"):
            raise InvalidArgumentError(
                f"{where} must be {column.type}, not {array.type} ({series.dtype} in pandas)."
            )
        array = array.cast(column.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InvalidArgumentError(f"{where} must be {column.type}: {error}") from error
    if array.null_count and not column.nullable and not pa.types.is_floating(column.type):
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise InvalidArgumentError(f"{where} has {array.null_count} missing values, the first in row {row}.")
    if column.choices:
        strange = pc.is_in(array, pa.array(column.choices, pa.string())).index(False).as_py()
        if strange >= 0:
            raise InvalidArgumentError(
                f"{where} must be one of {', '.join(column.choices)}, "
                f"not {array[strange].as_py()!r} (row {strange})."
            )
    return array


def _family(type_: pa.DataType) -> str:
    """Return which types may become one another without anybody being surprised."""
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_):
        return "number"
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "bytes"
    return str(type_)


def _sort_order(table: Table, arrow: pa.Table) -> npt.NDArray[np.intp] | None:
    """Return the order of the rows by their keys, or None if they are in order already."""
    if arrow.num_rows < 2:
        return None
    ranks = [
        _ranks(column, arrow.column(column.name)) for column in table.columns if column.name in table.keys
    ]
    ranks.sort(key=lambda named: table.keys.index(named[0]))
    keys = [rank for _, rank in ranks]
    order = None
    if not _is_sorted(keys):
        order = np.lexsort(keys[::-1])
        keys = [key[order] for key in keys]
    same = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    if same.any():
        row = int(np.argmax(same))
        row = row if order is None else int(order[row])
        values = {key: arrow.column(key)[row].as_py() for key in table.keys}
        raise InvalidArgumentError(f"Table {table.name!r} has two rows with the same keys: {values}.")
    return order


def _ranks(column: Column, values: pa.ChunkedArray) -> tuple[str, npt.NDArray[Any]]:
    """Return numbers that sort as the column should: words by their list, other text by first appearance."""
    if pa.types.is_string(column.type):
        if column.choices:
            return column.name, pc.index_in(values, pa.array(column.choices, pa.string())).to_numpy()
        return column.name, pc.dictionary_encode(values).combine_chunks().indices.to_numpy()
    if column.nullable:
        # A missing number comes before all others.
        return column.name, pc.fill_null(values.cast(pa.float64()), -np.inf).to_numpy()
    return column.name, values.to_numpy()


def _is_sorted(keys: list[npt.NDArray[Any]]) -> bool:
    """Return whether rows are in order, the first key counting most."""
    undecided = np.ones(len(keys[0]) - 1, dtype=bool)
    for key in keys:
        if (undecided & (key[1:] < key[:-1])).any():
            return False
        undecided &= key[1:] == key[:-1]
    return True
