"""Tables and targets as scikit-learn users have them, checked, as float64 arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

from neuronwise.discover.scaling import warn_of_clipped
from neuronwise.errors import TableError

__all__ = [
    "LARGEST",
    "Table",
    "check_varies",
    "input_names",
    "read_classes",
    "read_inputs",
    "read_numbers",
    "read_weight",
    "scaled_inputs",
    "used_classes",
]

#: Beyond this a square is not a finite number any more.
LARGEST = 1e150


@dataclass(frozen=True, eq=False)
class Table:
    """Checked rows with a weight above 0.

    Args:
        X: Inputs, float64 (n, d).
        target: Numbers, float64 (n, outputs), or codes into the classes, int64 (n,).
        weight: Of each row, mean 1, float64 (n,).
        weighted: Whether the rows count differently.
        names: Names of the inputs.
    """

    X: NDArray[np.float64]
    target: NDArray[Any]
    weight: NDArray[np.float64]
    weighted: bool
    names: tuple[str, ...]

    @property
    def classes(self) -> bool:
        """Whether the target is made of classes."""
        return self.target.ndim == 1


def read_inputs(estimator: Any, X: Any, y: Any = None, *, reset: bool) -> NDArray[np.float64]:
    """Return the inputs as float64 (n, d), checked as scikit-learn does.

    Args:
        estimator: Whose inputs they are; it remembers number and names of the columns if ``reset`` is set.
        X: The table.
        y: The target of a fit, to check that there is one.
        reset: Whether it is a fit.

    Raises:
        TableError: If a column is not made of numbers, or a value is not finite: says which column and row.
        ValueError: If scikit-learn refuses the table otherwise (number of axes, no rows, other columns than at the
            fit).
        TypeError: If it is a sparse matrix.
    """
    if isinstance(X, pd.DataFrame):
        _refuse_text(X)
    options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": False, "reset": reset}
    if reset and y is not None:
        array, _ = validate_data(estimator, X, y, multi_output=True, skip_check_array=False, **options)
    elif reset:
        # Says in scikit-learn's words that a target is needed, where one is.
        array = validate_data(estimator, X, y, **options)
        array = array[0] if isinstance(array, tuple) else array
    else:
        array = validate_data(estimator, X, **options)
    names = getattr(estimator, "feature_names_in_", None)
    _check_finite(array, names, X.index if isinstance(X, pd.DataFrame) else None)
    checked: NDArray[np.float64] = array
    return checked


def scaled_inputs(estimator: Any, X: Any) -> NDArray[np.float64]:
    """Return the inputs of a prediction as the fitted estimator scales them; warn where values far outside are clipped.

    Args:
        estimator: A fitted estimator with an ``input_scaler_``.
        X: The table; see :func:`read_inputs` for what is refused.
    """
    inputs = read_inputs(estimator, X, reset=False)
    warn_of_clipped(estimator.input_scaler_, inputs, input_names(estimator))
    scaled: NDArray[np.float64] = estimator.input_scaler_.apply(inputs)
    return scaled


def _refuse_text(frame: pd.DataFrame) -> None:
    bad = []
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        if pd.api.types.is_numeric_dtype(column.dtype):
            continue
        try:
            column.to_numpy().astype(np.float64)
        except (TypeError, ValueError):
            bad.append(str(name))
    if bad:
        shown = ", ".join(map(repr, bad[:5])) + (" ..." if len(bad) > 5 else "")
        raise TableError(
            f"Columns that are not numbers: {shown} ({len(bad)} in all). Encode them, within a pipeline for instance: "
            "sklearn.compose.make_column_transformer((sklearn.preprocessing.OneHotEncoder(sparse_output=False), "
            "[columns]), remainder='passthrough'); or leave them out."
        )


def _check_finite(array: NDArray[np.float64], names: Any, index: Any) -> None:
    good = np.isfinite(array)
    if not good.all():
        row, column = (int(place) for place in np.argwhere(~good)[0])
        named = f"column {column}" if names is None else f"column {str(names[column])!r}"
        label = "" if index is None else f" (index {index[row]!r})"
        what = "NaN" if np.isnan(array[row, column]) else "infinity (inf)"
        raise TableError(
            f"Input X contains {what} in {named}, row {row}{label}; NaN or infinity in all: {int((~good).sum())}. "
            "Drop these rows, or put sklearn.impute.SimpleImputer before the estimator."
        )
    if np.abs(array).max() > LARGEST:
        row, column = (int(place) for place in np.argwhere(np.abs(array) > LARGEST)[0])
        raise TableError(
            f"Input X has the value {array[row, column]:g} in column {column}, row {row}: its square is not a finite "
            "number. Rescale the column."
        )


def read_numbers(y: Any) -> NDArray[np.float64]:
    """Return a numeric target as float64 (n,) or (n, outputs).

    Args:
        y: The target.

    Raises:
        TableError: If it is not made of real numbers, or a value is not finite.
    """
    values = np.asarray(y)
    if values.dtype.kind == "c":
        raise TableError("Complex data not supported: pass real and imaginary part as two outputs.")
    if values.dtype.kind not in "fiub":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TableError(
                f"The target is not made of numbers ({error}). For labels use the classifier."
            ) from error
    values = values.astype(np.float64)
    good = np.isfinite(values)
    if not good.all():
        row = int(np.argwhere(~good)[0][0])
        what = "NaN" if np.isnan(values[~good][0]) else "infinity (inf)"
        raise TableError(
            f"Input y contains {what} in row {row}; not finite in all: {int((~good).sum())}. Drop these rows."
        )
    if np.abs(values).max() > LARGEST:
        raise TableError(f"Input y has values beyond {LARGEST:g}. Rescale it.")
    return values


def check_varies(target: NDArray[np.float64]) -> None:
    """Refuse a target of which an output is the same in every row.

    Args:
        target: Shape (n, outputs).

    Raises:
        TableError: If there is one.
    """
    for number, column in enumerate(target.T):
        if len(column) < 2:
            raise TableError(
                f"There is only 1 sample (n_samples = {len(column)}): nothing can be learnt from it."
            )
        if np.ptp(column) <= 1e-12 * np.abs(column).max():
            which = "The target" if target.shape[1] == 1 else f"Output {number} of the target"
            raise TableError(f"{which} is constant ({column[0]:g} in every row): there is nothing to learn.")


def read_classes(y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the labels, sorted, and the code of each row.

    Args:
        y: One label a row.

    Raises:
        TableError: If a label is missing.
        ValueError: If scikit-learn does not take the values for labels.
    """
    flat = column_or_1d(y, warn=True)
    missing = pd.isna(flat)
    if missing.any():
        raise TableError(
            f"Input y contains NaN in row {int(np.flatnonzero(missing)[0])}: a label is missing. Drop the row."
        )
    check_classification_targets(flat)
    labels, codes = np.unique(flat, return_inverse=True)
    return labels, codes.astype(np.int64)


def used_classes(
    labels: NDArray[Any], codes: NDArray[np.int64], kept: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return labels and codes of the rows that are kept: classes without any of them are no classes.

    Raises:
        TableError: If fewer than two classes are left.
    """
    present = np.unique(codes[kept])
    if len(present) < 2:
        only = ", ".join(str(label) for label in labels[present]) or "none"
        raise TableError(
            f"The target has one class only ({only}) in the rows with a weight above 0; a classifier needs two classes."
        )
    return labels[present], np.searchsorted(present, codes[kept])


def input_names(estimator: Any) -> tuple[str, ...]:
    """Return the names of a fitted estimator's inputs: those of the DataFrame, else ``x0, x1, ...``."""
    names = getattr(estimator, "feature_names_in_", None)
    return (
        tuple(f"x{i}" for i in range(estimator.n_features_in_)) if names is None else tuple(map(str, names))
    )


def read_weight(sample_weight: Any, X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sample weights, not scaled yet.

    Args:
        sample_weight: One number a row; None counts all alike.
        X: The inputs.

    Raises:
        ValueError: If they are not one finite number a row, not negative, and not all 0.
    """
    weight: NDArray[np.float64] = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )
    return weight
