"""Tables of numbers with a target column: read from CSV or Parquet, checked, and made into inputs and target."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuronwise.errors import DataError, closest, counted
from neuronwise.files import BUNDLED_TABLES, PARQUET, table_file

__all__ = ["BUNDLED_TABLES", "TableData", "inputs_like", "read_table", "split_target"]

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class TableData:
    """Inputs and target of a table.

    Args:
        X: The inputs, ``(row, input)``, one float64 column an input, named.
        y: The target, ``(row,)``: numbers, or labels of any kind.
        target: Name of the target column.
        encoded: Column that held categories -> the columns it was made into.
        dropped_rows: Rows left out because a value was missing in them.
        name: A short name for reports.
    """

    X: pd.DataFrame
    y: pd.Series[Any]
    target: str
    encoded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped_rows: int = 0
    name: str = "table"

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of names and values."""
        digest = hashlib.sha256(repr([*map(str, self.X.columns), self.target]).encode())
        digest.update(np.ascontiguousarray(self.X.to_numpy(np.float64)).tobytes())
        digest.update(repr(self.y.tolist()).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what the manifest of a result says about the data."""
        return {
            "name": self.name,
            "kind": "table",
            "examples": len(self.X),
            "inputs": [str(column) for column in self.X.columns],
            "target": self.target,
            "encoded": {name: list(columns) for name, columns in self.encoded.items()},
            "dropped_rows": self.dropped_rows,
            "fingerprint": self.fingerprint,
        }


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table from a CSV file (any usual separator, ``.csv``, ``.tsv``, also gzipped) or a Parquet file.

    Numbers may have a decimal comma where the comma does not separate columns.

    Args:
        path: The file; the first line of a CSV file holds the names of the columns. Or one of
            :data:`BUNDLED_TABLES`, where there is no file of that name.

    Raises:
        DataError: If the file is missing, empty, of another kind or broken.
    """
    file = table_file(path)
    if file is None:
        return _bundled(str(path))
    try:
        frame = pd.read_parquet(file) if file.name.lower().endswith(PARQUET) else _separated(file)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} cannot be read: its text is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    except Exception as error:  # pandas and Arrow raise many kinds for a broken file
        raise DataError(f"{file} cannot be read as a table: {str(error).strip()}") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    if not len(frame) or not len(frame.columns):
        raise DataError(
            f"{file} has {counted(len(frame), 'row')} and {counted(len(frame.columns), 'column')}; there is nothing in "
            "it."
        )
    return frame


def split_target(
    frame: pd.DataFrame,
    target: str,
    *,
    inputs: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    encode: bool = False,
    drop_missing: bool = False,
    name: str = "table",
) -> TableData:
    """Take a table apart into inputs and target.

    Args:
        frame: The table.
        target: Name of the column that is to be predicted.
        inputs: Columns to predict it from; default: all others.
        drop: Columns to leave out.
        encode: Make each column of categories into one column of 0 and 1 for each category, named ``column=category``.
        drop_missing: Leave out rows in which a value is missing.
        name: A short name for reports.

    Raises:
        DataError: If a column is not there, a column is not numeric and ``encode`` is false, a value is missing or
            infinite (which column, which row), or nothing is left.
    """
    wanted = [str(column) for column in (frame.columns if inputs is None else inputs)]
    for column in (target, *wanted, *drop):
        if column not in frame.columns:
            raise DataError(f"The table has no column {column!r}. {closest(column, map(str, frame.columns))}")
    if inputs is not None and target in wanted:
        raise DataError(f"{target!r} is the target and cannot be an input as well.")
    columns = [column for column in wanted if column != target and column not in set(drop)]
    if not columns:
        raise DataError(f"No input is left beside the target {target!r}.")
    part = frame[[*columns, target]]
    part, dropped = _whole_rows(part, drop_missing)
    X, encoded = _numbers(part[columns], encode)
    y = part[target]
    if pd.api.types.is_numeric_dtype(y) and not pd.api.types.is_bool_dtype(y):
        _refuse_infinite(y.to_frame())
    return TableData(
        X=X.reset_index(drop=True),
        y=y.reset_index(drop=True),
        target=target,
        encoded=encoded,
        dropped_rows=dropped,
        name=name,
    )


def inputs_like(frame: pd.DataFrame, names: Sequence[str], *, drop_missing: bool = False) -> pd.DataFrame:
    """Return the inputs of another table under the names that :func:`split_target` gave those of a first one.

    Args:
        frame: The table; columns that are not wanted are left out.
        names: The names, such as ``age`` or, of a category, ``city=Ulm``.
        drop_missing: Leave out rows in which a value is missing.

    Raises:
        DataError: If a column is not there, not numeric, holds a category that is not among the names, or a value is
            missing or infinite.
    """
    categories: dict[str, list[str]] = {}
    for name in names:
        column, sign, category = name.rpartition("=")
        if name not in frame.columns and sign and column in frame.columns:
            categories.setdefault(column, []).append(category)
    plain = [name for name in names if name in frame.columns]
    known = {*plain, *(f"{column}={one}" for column, values in categories.items() for one in values)}
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(
            f"The table has no column {missing[0]!r} (missing in all: {len(missing)}). "
            f"{closest(missing[0], map(str, frame.columns))}"
        )
    part, _ = _whole_rows(frame[[*plain, *categories]], drop_missing)
    numbers, _ = _numbers(part[plain], encode=False) if plain else (pd.DataFrame(index=part.index), {})
    made = {name: numbers[name] for name in plain}
    for column, values in categories.items():
        given = part[column].astype(str)
        unknown = sorted(set(given) - set(values))
        if unknown:
            raise DataError(
                f"Column {column!r} holds {unknown[0]!r}, which is not among the categories known: {', '.join(values)}."
            )
        made |= {f"{column}={one}": (given == one).astype(np.float64) for one in values}
    return pd.DataFrame({name: made[name] for name in names}, index=part.index)


def _bundled(name: str) -> pd.DataFrame:
    from sklearn import datasets

    frame: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    return frame


def _separated(file: Path) -> pd.DataFrame:
    """Read a file with separators: the one of these that the heading has most of."""
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rt", encoding="utf-8-sig", newline="") as stream:
        heading = stream.readline()
    separator = max((",", "\t", ";", "|"), key=lambda one: heading.count(one))
    names = [name.strip() for row in csv.reader([heading], delimiter=separator) for name in row]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file}: columns named twice: {', '.join(twice)}.")
    frame = pd.read_csv(file, sep=separator, skipinitialspace=True)
    # Where the comma does not separate columns it may separate decimals: in columns that are all numbers then.
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if separator == "," or not texts:
        return frame
    other = pd.read_csv(file, sep=separator, skipinitialspace=True, decimal=",")
    return frame.assign(**{n: other[n] for n in texts if pd.api.types.is_numeric_dtype(other[n])})


def _whole_rows(frame: pd.DataFrame, drop_missing: bool) -> tuple[pd.DataFrame, int]:
    """Return the rows without missing values, and how many were left out."""
    missing = frame.isna()
    if not missing.to_numpy().any():
        return frame, 0
    if not drop_missing:
        raise DataError(f"{_where(missing, 'missing')} Fill them in, or leave such rows out (drop_missing).")
    kept = frame[~missing.any(axis=1)]
    if not len(kept):
        raise DataError("Every row has a missing value; nothing is left.")
    return kept, len(frame) - len(kept)


def _numbers(frame: pd.DataFrame, encode: bool) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]]:
    """Return the columns as float64, categories encoded where asked for."""
    words = [column for column in frame.columns if not pd.api.types.is_numeric_dtype(frame[column])]
    if words and not encode:
        examples = ", ".join(
            f"{column!r} (such as {str(frame[column].iloc[0])!r})" for column in words[:_SHOWN]
        )
        raise DataError(
            f"{'Column is' if len(words) == 1 else 'Columns are'} not numeric: {examples}. Leave them out (drop), or "
            "have each category made into a column of 0 and 1 (encode)."
        )
    encoded: dict[str, tuple[str, ...]] = {}
    parts = []
    for column in frame.columns:
        if column in words:
            # None is left out as a reference: a category that is met later for the first time can then be told.
            made = pd.get_dummies(frame[column].astype(str), prefix=column, prefix_sep="=")
            if len(made.columns) > max(50, len(frame) // 10):
                raise DataError(
                    f"Column {column!r} has {len(made.columns)} different values in {len(frame)} rows: an "
                    "identifier or a free text, not a category. Leave it out (drop)."
                )
            encoded[column] = tuple(map(str, made.columns))
            parts.append(made)
        else:
            parts.append(frame[[column]])
    numbers = pd.concat(parts, axis=1).astype(np.float64)
    _refuse_infinite(numbers)
    return numbers, encoded


def _refuse_infinite(frame: pd.DataFrame) -> None:
    infinite = pd.DataFrame(
        ~np.isfinite(frame.to_numpy(np.float64)), columns=frame.columns, index=frame.index
    )
    if infinite.to_numpy().any():
        raise DataError(f"{_where(infinite, 'infinite')} A neuron needs finite numbers.")


def _where(bad: pd.DataFrame, word: str) -> str:
    """Say how many values are bad, and in which columns and rows (counted from 0, without the heading)."""
    columns = bad.columns[bad.any(axis=0)]
    shown = "; ".join(
        f"{column!r}: {int(bad[column].sum())}, first in row {int(np.flatnonzero(bad[column])[0])}"
        for column in columns[:_SHOWN]
    )
    more = f"; and {counted(len(columns) - _SHOWN, 'more column')}" if len(columns) > _SHOWN else ""
    count = int(bad.to_numpy().sum())
    verb = "is" if count == 1 else "are"
    return f"{counted(count, 'value')} {verb} {word}: column {shown}{more} (rows counted from 0)."
