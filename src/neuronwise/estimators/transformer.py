"""Searchers as transformers: the inputs become the base functions that a search selects for them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from neuronwise.discover.outlying import usual_rows
from neuronwise.discover.scaling import scaling_for
from neuronwise.errors import InvalidArgumentError, TableError
from neuronwise.estimators._columns import Column, base_columns, columns_of, named
from neuronwise.estimators._inputs import (
    input_names,
    read_classes,
    read_inputs,
    read_numbers,
    read_weight,
    scaled_inputs,
    used_classes,
)
from neuronwise.estimators._neuron import search
from neuronwise.estimators._searched import check_clip
from neuronwise.estimators._seeds import seed_of
from neuronwise.formula import Formula, bases, usable

__all__ = ["BaseFunctionTransformer"]


# Whole numbers with more different values than this are not taken for class labels.
MOST_CODES = 20


class BaseFunctionTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Features that a search selects: each base function found, of each input.

    Put it before any learner: ``make_pipeline(BaseFunctionTransformer(), Ridge())``.

    Args:
        method: Search method, a name or one with settings, see :func:`neuronwise.discover.discover`; None takes all
            base functions that are finite on the data and needs no target.
        bases: Base functions: a preset of :data:`neuronwise.formula.PRESETS`, a text ``"x, x**2, sin(x)"``, or several.
        task: ``"regression"``, ``"classification"``; ``"auto"``: numbers are regression, but whole numbers with at most
            20 different values are labels, as are texts and truth values.
        scale: ``"auto"`` leaves inputs as they are where every column lies in [-10, 10] with a standard deviation
            between 0.1 and 10, and else standardises them; or ``"standard"``, ``"none"``.
        clip: Standard deviations at which standardised inputs are clipped; :meth:`transform` warns of values
            farther out than any seen.
        random_state: Whole number, RandomState, Generator, or None for another seed every time.

    Attributes:
        formula_: What the search found, in scaled inputs; None without a search.
        discovery_: The search's own result, or None.
        input_scaler_: How inputs are scaled.
        n_features_in_: Number of inputs.
        feature_names_in_: Their names, where the fit saw a DataFrame.

    Example:
        >>> X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
        >>> features = BaseFunctionTransformer(bases="x, x**2, sin(3*x)").fit(X, X[:, 0] ** 2 - X[:, 1] ** 2)
        >>> features.get_feature_names_out()
        array(['x0**2', 'x1**2'], dtype=object)
    """

    def __init__(
        self,
        *,
        method: Any = "group",
        bases: Any = "default",
        task: str = "auto",
        scale: str = "auto",
        clip: float = 5.0,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.bases = bases
        self.task = task
        self.scale = scale
        self.clip = clip
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Say to scikit-learn that a search needs a target."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.method is not None
        return tags

    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Scale the inputs and select base functions.

        Args:
            X: Inputs, (n, d).
            y: Target: labels, numbers (n,), or (n, outputs).
            sample_weight: How much each row counts, (n,).

        Raises:
            TableError: If a value is missing or infinite.
            InvalidArgumentError: If a parameter is unknown, or no base function can be used.
            FormulaError: If a base function cannot be read.
        """
        if self.task not in ("auto", "regression", "classification"):
            raise InvalidArgumentError(
                f"task must be 'auto', 'regression' or 'classification', not {self.task!r}."
            )
        clip = check_clip(self.clip)
        inputs = read_inputs(self, X, y, reset=True)
        if len(inputs) < 2:
            raise TableError("There is only 1 sample (n_samples = 1): nothing varies.")
        weight = read_weight(sample_weight, inputs)
        kept = weight > 0
        inputs, weight = inputs[kept], weight[kept]
        self.discovery_ = None
        self.formula_: Formula | None = None
        if self.method is None:
            self.input_scaler_ = scaling_for(inputs, self.scale, clip, weight=weight)
            self._columns = self._all(self.input_scaler_.apply(inputs))
            return self
        target = self._target(y, kept)
        usual = usual_rows(inputs, target, "classification" if target.ndim == 1 else "regression")
        self.input_scaler_ = scaling_for(inputs[usual], self.scale, clip, weight=weight[usual])
        found = search(
            self.input_scaler_.apply(inputs[usual]),
            target[usual],
            weight[usual] if np.ptp(weight) > 0 else None,
            method=self.method,
            bases=self.bases,
            names=input_names(self),
            seed=seed_of(self.random_state),
        )
        self.formula_, self.discovery_ = found.formula, found.discovery
        columns = columns_of(found.formula)
        # Nothing beyond chance: the inputs themselves, for a table without columns is of no use to anybody.
        self._columns = self._per_input(columns) or base_columns(bases("x"))
        return self

    def _all(self, Z: NDArray[np.float64]) -> tuple[Column, ...]:
        kept, dropped = usable(bases(self.bases), Z)
        if not kept:
            raise InvalidArgumentError(
                f"No base function can be used on these inputs: {next(iter(dropped.values()))}."
            )
        return base_columns(kept)

    def _target(self, y: Any, kept: NDArray[np.bool_]) -> NDArray[Any]:
        values = np.asarray(y)
        task = self.task
        if task == "auto":
            numbers = values.dtype.kind == "f" or (
                values.dtype.kind in "iu" and len(np.unique(values)) > MOST_CODES
            )
            task = "regression" if numbers or values.ndim == 2 else "classification"
        if task == "classification":
            return used_classes(*read_classes(y), kept)[1]
        target = read_numbers(y)
        return target.reshape(len(target), -1)[kept]

    def _per_input(self, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        """Return a column for each input also of base functions that the search gave one number for all inputs."""
        found: dict[str, Column] = {}
        for column in columns:
            term = None if column.formula is None else column.formula.terms[0]
            if term is not None and term.kind == "elementwise" and term.base is not None:
                (column,) = base_columns([term.base])
            found.setdefault(column.name, column)
        return tuple(found.values())

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Return the features, (n, features): the base functions of input 0, 1, ..., one base function after the other.

        Args:
            X: Inputs, (n, d).
        """
        check_is_fitted(self, "input_scaler_")
        Z = scaled_inputs(self, X)
        return np.hstack([column.values(Z) for column in self._columns])

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the features, such as ``sin(2*age)``.

        Args:
            input_features: Names of the inputs; None takes those of the fit.
        """
        check_is_fitted(self, "input_scaler_")
        names = _check_feature_names_in(self, input_features)
        found: list[str] = []
        for column in self._columns:
            found += (
                [named(column.base, str(name)) for name in names]
                if column.base is not None
                else [column.name]
            )
        return np.array(found, dtype=object)
