"""Tables as users have them - frames, arrays, tensors - as checked arrays of float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.errors import DataError, InvalidArgumentError, closest, counted

__all__ = ["LARGEST", "Table", "Task", "read_inputs", "read_table", "read_target", "read_weight", "separate"]

Task = Literal["regression", "classification", "count"]

#: Beyond this a square is not a finite number any more.
LARGEST = 1e150
_MOST_CODES = 20  # whole numbers 0 .. C-1 with more values than this are not taken for class labels
_FEWEST_ROWS = 10


@dataclass(frozen=True, eq=False)
class Table:
    """A checked table with its target.

    Args:
        inputs: ``(n, d)``, finite.
        names: Names of the inputs.
        target: See :class:`~neuronwise.discover.problem.SearchProblem`.
        task: What the target is.
        classes: Labels of the classes.
        weight: How much each row counts, or None.
        notes: What was assumed.
        label: Name of the target; empty where it has none.
    """

    inputs: NDArray[np.float64]
    names: tuple[str, ...]
    target: NDArray[np.float64] | NDArray[np.int64]
    task: Task
    classes: tuple[Any, ...]
    weight: NDArray[np.float64] | None
    notes: tuple[str, ...]
    label: str = ""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.inputs)


def read_table(X: Any, y: Any, *, task: str, inputs: Sequence[str] | None, sample_weight: Any) -> Table:
    """Return inputs, target and weights, checked; see the functions below for what is refused."""
    X, y = separate(X, y)
    raw, names = read_inputs(X, inputs)
    target, kind, classes, notes = read_target(y, task, len(raw))
    weight = read_weight(sample_weight, len(raw))
    return Table(raw, names, target, kind, classes, weight, notes, _label(y))


def _label(y: Any) -> str:
    """Return the name of the target: of its column, or of its columns."""
    if isinstance(y, pd.DataFrame):
        return ", ".join(map(str, y.columns))
    return str(y.name) if isinstance(y, pd.Series) and y.name is not None else ""


def separate(X: Any, y: Any) -> tuple[Any, Any]:
    """Return inputs and target; a ``y`` that is a text names a column of the frame ``X``.

    Raises:
        DataError: If there is no such column.
        InvalidArgumentError: If a name was given and ``X`` is no frame.
    """
    if not isinstance(y, str):
        return X, y
    if not isinstance(X, pd.DataFrame):
        raise InvalidArgumentError(f"y={y!r} names a column, and X is {type(X).__name__}, not a DataFrame.")
    if y not in X.columns:
        raise DataError(f"The table has no target column {y!r}. {closest(y, map(str, X.columns))}")
    return X.drop(columns=[y]), X[y]


def read_inputs(X: Any, inputs: Sequence[str] | None = None) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return a table as ``(n, d)`` float64 with the names of its columns.

    Args:
        X: A DataFrame, an array, a tensor or nested sequences, one row a sample.
        inputs: Names of the columns; by default the frame's own, else ``x0, x1, ...``.

    Raises:
        DataError: If it is not a table of finite numbers; says which column and row.
        InvalidArgumentError: If the names do not fit.
    """
    if hasattr(X, "toarray") and not isinstance(X, np.ndarray):
        raise DataError("X is a sparse matrix, and base functions need not keep zeros: pass X.toarray().")
    frame = X if isinstance(X, pd.DataFrame) else None
    if frame is not None:
        array = _from_frame(frame)
    else:
        array = _from_array(X.detach().cpu().numpy() if hasattr(X, "detach") else X)
    # Sums over rows in memory order: the same table gives the same numbers in whatever layout it came.
    array = np.ascontiguousarray(array)
    names = _names(inputs, frame, array.shape[1])
    _check_finite(array, names, None if frame is None else frame.index)
    return array, names


def _from_frame(frame: pd.DataFrame) -> NDArray[np.float64]:
    kinds = frame.dtypes.tolist()
    bad = [
        str(name)
        for name, kind in zip(frame.columns, kinds, strict=True)
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind))
        or pd.api.types.is_complex_dtype(kind)
    ]
    if bad:
        _refuse_text(bad)
    if not len(frame.columns):
        raise DataError("X has no columns.")
    return np.column_stack(
        [frame.iloc[:, j].to_numpy(np.float64, na_value=np.nan) for j in range(len(kinds))]
    )


def _from_array(X: Any) -> NDArray[np.float64]:
    try:
        array = np.asarray(X)
    except ValueError as error:
        raise DataError(f"X is not a table: {error}.") from error
    if array.ndim != 2:
        hint = " For one input, pass X.reshape(-1, 1)." if array.ndim == 1 else ""
        raise DataError(f"X must have two axes (rows, inputs), not the shape {array.shape}.{hint}")
    if array.shape[1] == 0:
        raise DataError("X has no columns.")
    if np.iscomplexobj(array):
        raise DataError("X has complex numbers; pass real and imaginary parts as columns of their own.")
    try:
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError):
        _refuse_text([f"x{j}" for j in range(array.shape[1]) if not _numeric(array[:, j])])
        raise


def _numeric(column: NDArray[Any]) -> bool:
    try:
        column.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _refuse_text(columns: list[str]) -> None:
    shown = ", ".join(repr(name) for name in columns[:5]) + (" ..." if len(columns) > 5 else "")
    raise DataError(
        f"Columns that are not numbers: {shown} ({len(columns)} in all). Encode them first: "
        f"pandas.get_dummies(X, columns=[...]) for names without an order, "
        f"sklearn.preprocessing.OrdinalEncoder for levels with one; or leave them out with X.drop(columns=[...])."
    )


def _names(inputs: Sequence[str] | None, frame: pd.DataFrame | None, d: int) -> tuple[str, ...]:
    if inputs is None:
        return (
            tuple(f"x{j}" for j in range(d)) if frame is None else tuple(str(name) for name in frame.columns)
        )
    names = tuple(str(name) for name in inputs)
    if len(names) != d or len(set(names)) != d:
        raise InvalidArgumentError(
            f"inputs must be {d} different names, one a column of X, not {list(names)}."
        )
    return names


def _check_finite(array: NDArray[np.float64], names: tuple[str, ...], index: Any) -> None:
    good = np.isfinite(array)
    if not good.all():
        row, column = (int(v) for v in np.argwhere(~good)[0])
        bad = [names[j] for j in np.flatnonzero(~good.all(0))]
        label = "" if index is None else f" (index {index[row]!r})"
        others = ", ".join(bad[:5]) + (" ..." if len(bad) > 5 else "")
        count = int(np.count_nonzero(~good))
        raise DataError(
            f"X has {counted(count, 'value')} NaN or infinite, the first ({array[row, column]}) in "
            f"column {names[column]!r}, row {row}{label}; columns with any: {others}. "
            "Drop these rows (X.dropna()) or fill them in (sklearn.impute.SimpleImputer)."
        )
    if array.size and np.abs(array).max() > LARGEST:
        row, column = (int(v) for v in np.argwhere(np.abs(array) > LARGEST)[0])
        raise DataError(
            f"X has the value {array[row, column]:g} in column {names[column]!r}, row {row}: its square is not "
            "a finite number. Rescale the column."
        )


def read_target(
    y: Any, task: str, rows: int
) -> tuple[NDArray[np.float64] | NDArray[np.int64], Task, tuple[Any, ...], tuple[str, ...]]:
    """Return the target, checked.

    Args:
        y: One value a row, or for regression a table with one column an output.
        task: ``"regression"``, ``"classification"``, ``"count"``, or ``"auto"``.
        rows: How many rows the inputs have.

    Returns:
        The values: float64 ``(n,)`` or ``(n, m)``, or codes int64 ``(n,)``; the task; the class labels, sorted; notes
        on what was assumed.

    Raises:
        DataError: If the target is of another length, not finite, constant, of one class, or of negative counts.
        InvalidArgumentError: If there is no such task.
    """
    if task not in ("auto", "regression", "classification", "count"):
        raise InvalidArgumentError(
            f"There is no task {task!r}. {closest(task, ('auto', 'regression', 'classification', 'count'))}"
        )
    values = _target_values(y, rows)
    notes: tuple[str, ...] = ()
    if task == "auto":
        task, notes = _guess(values)
    if task == "classification":
        return *_codes(values), notes
    numbers = _target_numbers(values)
    if task == "count":
        _check_counts(numbers)
        return numbers, "count", (), notes
    table = numbers.reshape(rows, -1)
    for number, column in enumerate(table.T):
        if np.ptp(column) <= 1e-12 * np.abs(column).max():
            which = "The target" if table.shape[1] == 1 else f"Output {number} of the target"
            raise DataError(f"{which} is constant ({column[0]:g} in every row): there is nothing to explain.")
        far = np.abs(column - np.median(column)).max() / column.std()
        if far > 20:
            notes += (
                f"The target has a value {far:.0f} standard deviations from its median; least squares follows it where "
                "its row is searched.",
            )
    return numbers, "regression", (), notes


def _target_values(y: Any, rows: int) -> NDArray[Any]:
    if hasattr(y, "detach"):
        y = y.detach().cpu().numpy()
    if isinstance(y, pd.DataFrame | pd.Series):
        if isinstance(y, pd.Series) and isinstance(y.dtype, pd.CategoricalDtype):
            y = y.astype(object)
        values = y.to_numpy()
    else:
        values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2):
        raise DataError(f"y must have one value a row, not the shape {values.shape}.")
    if len(values) != rows:
        raise DataError(f"X has {counted(rows, 'row')} and y has {len(values)}.")
    if rows < _FEWEST_ROWS:
        raise DataError(f"The table has {counted(rows, 'row')}; a search needs at least {_FEWEST_ROWS}.")
    if values.dtype == object:
        missing = pd.isna(values)
        if missing.any():
            raise DataError(
                f"y has {missing.sum()} missing values, the first in row {np.argwhere(missing)[0][0]}."
            )
    return np.asarray(values)


def _guess(values: NDArray[Any]) -> tuple[Task, tuple[str, ...]]:
    """Say what kind of target it is: texts and booleans are labels, and so are whole numbers 0 .. C-1."""
    texts = values.dtype.kind in "USO" and any(isinstance(value, str) for value in values.ravel()[:100])
    if values.dtype == bool or texts or not _numeric(values.ravel()):
        return "classification", ()
    if values.ndim == 2:
        return "regression", ()
    distinct = np.unique(values)
    small = len(distinct) <= (_MOST_CODES if np.issubdtype(values.dtype, np.integer) else 2)
    first = distinct[0] if len(distinct) else 0
    codes = small and first in (0, 1) and np.array_equal(distinct, np.arange(first, first + len(distinct)))
    if codes or (small and np.array_equal(distinct, [-1, 1])):
        return "classification", (
            f"The target's whole numbers ({len(distinct)} different) were taken for class labels; "
            "task='regression' or task='count' takes them as numbers.",
        )
    if np.issubdtype(values.dtype, np.integer) and len(distinct) <= min(_MOST_CODES, len(values) // 10):
        return "regression", (
            f"The target's whole numbers ({len(distinct)} different) were taken as numbers; "
            "task='classification' takes them for class labels.",
        )
    return "regression", ()


def _codes(values: NDArray[Any]) -> tuple[NDArray[np.int64], Task, tuple[Any, ...]]:
    if values.ndim != 1:
        raise DataError(f"Class labels must be one a row, not the shape {values.shape}.")
    if np.issubdtype(values.dtype, np.floating):
        _target_numbers(values)
    try:
        labels, codes = np.unique(values, return_inverse=True)
    except TypeError:  # labels of several types have no order
        labels, codes = np.unique(values.astype(str), return_inverse=True)
    if len(labels) < 2:
        raise DataError(f"The target has one class only, {labels.tolist()[0] if labels.size else None!r}.")
    if len(labels) > len(values) // 2:
        raise DataError(
            f"The target has {len(labels)} classes in {len(values)} rows. Where they are numbers, pass "
            "task='regression'."
        )
    return codes.astype(np.int64), "classification", tuple(labels.tolist())


def _target_numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"y is not made of numbers ({error}). For labels, pass task='classification'."
        ) from error
    good = np.isfinite(numbers)
    if not good.all():
        row, count = int(np.argwhere(~good)[0][0]), int(np.count_nonzero(~good))
        raise DataError(
            f"y has {counted(count, 'value')} NaN or infinite, the first in row {row}. Drop such rows."
        )
    if np.abs(numbers).max() > LARGEST:
        raise DataError(f"y has values beyond {LARGEST:g}. Rescale it.")
    return numbers


def _check_counts(numbers: NDArray[np.float64]) -> None:
    if numbers.ndim != 1:
        raise DataError(f"Counts must be one a row, not the shape {numbers.shape}.")
    bad = (numbers < 0) | (numbers != np.round(numbers))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"Counts must be whole and not negative; row {row} has {numbers[row]:g}.")
    if np.ptp(numbers) == 0:
        raise DataError(f"The target is constant ({numbers[0]:g} in every row): there is nothing to explain.")


def read_weight(weight: Any, rows: int) -> NDArray[np.float64] | None:
    """Return sample weights with mean 1 over the rows that have any; None where all rows count alike.

    Raises:
        DataError: If they are not one finite number a row, not negative, and positive in enough rows.
    """
    if weight is None:
        return None
    values = np.asarray(weight, dtype=np.float64)
    if values.shape != (rows,):
        raise DataError(f"sample_weight must have the shape ({rows},), not {values.shape}.")
    if not np.isfinite(values).all() or (values < 0).any():
        row = int(np.flatnonzero(~np.isfinite(values) | (values < 0))[0])
        raise DataError(f"Sample weights must be finite and not negative; row {row} has {values[row]}.")
    if np.count_nonzero(values) < _FEWEST_ROWS:
        raise DataError(f"Fewer than {_FEWEST_ROWS} rows have a positive sample weight.")
    weights: NDArray[np.float64] = values * (np.count_nonzero(values) / values.sum())
    return weights
