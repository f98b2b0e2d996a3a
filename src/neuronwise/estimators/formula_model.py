"""The formula itself as a model: its terms with weights by least squares or logistic regression."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.validation import check_is_fitted

from neuronwise.discover.outlying import usual_rows
from neuronwise.discover.scaling import scaling_for, scaling_of_targets
from neuronwise.errors import InvalidArgumentError
from neuronwise.estimators._classes import Classifies
from neuronwise.estimators._columns import formula_from
from neuronwise.estimators._inputs import (
    check_varies,
    input_names,
    read_classes,
    read_inputs,
    read_numbers,
    read_weight,
    scaled_inputs,
    used_classes,
)
from neuronwise.estimators._saving import Arrays, Saving
from neuronwise.estimators._searched import check_clip, columns_for, scaled_design
from neuronwise.estimators._seeds import seed_of
from neuronwise.formula import Formula

__all__ = ["FormulaClassifier", "FormulaRegressor"]


class _FormulaModel(Saving):
    """What both models share."""

    formula: Any
    method: Any
    bases: Any
    scale: str
    clip: float
    random_state: Any
    n_features_in_: int

    def _fit(
        self, X: NDArray[np.float64], target: NDArray[Any], weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Find the columns and return them standardised, with means and deviations."""
        clip = check_clip(self.clip)
        usual = usual_rows(X, target, "classification" if target.ndim == 1 else "regression")
        self.input_scaler_ = scaling_for(X[usual], self.scale, clip, weight=weight[usual])
        Z = self.input_scaler_.apply(X)
        weighted = np.ptp(weight) > 0
        self._columns, found = columns_for(
            self.formula,
            Z[usual],
            target[usual],
            weight[usual] if weighted else None,
            method=self.method,
            bases=self.bases,
            names=input_names(self),
            seed=seed_of(self.random_state),
        )
        self.discovery_ = None if found is None else found.discovery
        return scaled_design(self._columns, Z, weight)

    def _keep(
        self,
        weights: NDArray[np.float64],
        intercepts: NDArray[np.float64],
        mean: NDArray[np.float64],
        spread: NDArray[np.float64],
    ) -> None:
        """Keep the formulas of weights (outputs, columns) on standardised columns."""
        raw = weights / spread
        shifted = intercepts - (raw * mean).sum(1)
        names = input_names(self)
        self.formulas_ = tuple(
            formula_from(self._columns, row, float(intercept), names)
            for row, intercept in zip(raw, shifted, strict=True)
        )
        self.formula_ = self.formulas_[0]
        del self._columns

    def _values(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self, "formulas_")
        Z = scaled_inputs(self, X)
        with np.errstate(all="ignore"):
            return np.column_stack([formula.evaluate(Z) for formula in self.formulas_])

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        state, arrays = super()._state()
        return state | {"formulas": [formula.to_dict() for formula in self.formulas_]}, arrays

    @classmethod
    def _restored(cls, parameters: dict[str, Any], state: dict[str, Any], arrays: Arrays) -> Self:
        model = super()._restored(parameters, state, arrays)
        model.formulas_ = tuple(Formula.from_dict(each) for each in state["formulas"])
        model.formula_ = model.formulas_[0]
        return model


class FormulaRegressor(MultiOutputMixin, RegressorMixin, _FormulaModel):  # type: ignore[misc]
    """Regression by a formula: its terms, with weights by least squares.

    The model can be read: :attr:`formula_` is all of it. A term with a weight vector, ``<w1, sin(x)>``, has a
    weight for each input; a term without, ``sin(x)``, has one for the sum over the inputs.

    Args:
        formula: ``"auto"`` searches it; or ``"linear"``, a text such as ``"<w1, x> + <w2, x**2>"`` or
            ``"age*height"``, a :class:`neuronwise.formula.Formula`, or several base functions, each with a weight
            for every input.
        method: Search method, a name or one with settings; see :func:`neuronwise.discover.discover`.
        bases: Base functions of the search: a preset, a text, or several.
        alpha: Penalty on the weights of the standardised columns, as in ``sklearn.linear_model.Ridge``; small, so
            that it does no more than choose among equals.
        scale: ``"auto"`` leaves inputs as they are where every column lies in [-10, 10] with a standard deviation
            between 0.1 and 10, and else standardises them; or ``"standard"``, ``"none"``.
        clip: Standard deviations at which standardised inputs are clipped. Predictions warn of values farther out than
            any seen.
        random_state: Whole number, RandomState, Generator, or None for another seed every time.

    Attributes:
        formula_: The model with its numbers, in inputs scaled by ``input_scaler_``; of several outputs the first.
        formulas_: The model of every output.
        discovery_: What the search found, or None.
        input_scaler_: How inputs are scaled.
        n_features_in_: Number of inputs.
        feature_names_in_: Their names, where the fit saw a DataFrame.

    Example:
        >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
        >>> model = FormulaRegressor("<w1, x> + <w2, x**2>").fit(X, X[:, 0] - 3 * X[:, 1] ** 2)
        >>> round(model.score(X, X[:, 0] - 3 * X[:, 1] ** 2), 4)
        1.0
        >>> str(model.formula_).startswith("<w1, x> + <w2, x**2>")
        True
    """

    def __init__(
        self,
        formula: Any = "auto",
        *,
        method: Any = "group",
        bases: Any = "default",
        alpha: float = 1e-6,
        scale: str = "auto",
        clip: float = 5.0,
        random_state: Any = 0,
    ) -> None:
        self.formula = formula
        self.method = method
        self.bases = bases
        self.alpha = alpha
        self.scale = scale
        self.clip = clip
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Search the formula (unless it is given) and fit its weights.

        Args:
            X: Inputs, (n, d).
            y: Target, (n,) or (n, outputs).
            sample_weight: How much each row counts, (n,).

        Raises:
            TableError: If a value is missing or infinite, or the target constant.
            InvalidArgumentError: If a parameter is out of its range, or a term is not finite on the inputs.
            FormulaError: If the formula cannot be read.
        """
        if not isinstance(self.alpha, int | float) or not self.alpha >= 0:
            raise InvalidArgumentError(f"alpha must be a number from 0, not {self.alpha!r}.")
        inputs = read_inputs(self, X, y, reset=True)
        weight = read_weight(sample_weight, inputs)
        target = read_numbers(y)
        self._flat = target.ndim == 1
        kept = weight > 0
        inputs, target, weight = inputs[kept], target[kept].reshape(int(kept.sum()), -1), weight[kept]
        check_varies(target)
        units = scaling_of_targets(target, weight)
        design, mean, spread = self._fit(inputs, units.apply(target), weight)
        scaled = units.apply(target)
        if design.shape[1]:
            ridge = Ridge(alpha=self.alpha, solver="svd").fit(design, scaled, sample_weight=weight)
            weights, intercepts = ridge.coef_.reshape(scaled.shape[1], -1), ridge.intercept_
        else:
            weights, intercepts = np.zeros((scaled.shape[1], 0)), np.zeros(scaled.shape[1])
        in_units = np.atleast_1d(intercepts) * units.scale + units.centre
        self._keep(weights * units.scale[:, None], in_units, mean, spread)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return predictions, (n,), or (n, outputs) where the target had two axes."""
        values = self._values(X)
        return values[:, 0] if self._flat else values


class FormulaClassifier(Classifies, _FormulaModel):
    """Classification by a formula: logistic regression on its terms.

    Args:
        formula: As in :class:`FormulaRegressor`.
        method: As there.
        bases: As there.
        C: Inverse strength of the penalty on the weights of the standardised columns, as in
            ``sklearn.linear_model.LogisticRegression``.
        scale: ``"auto"`` leaves inputs as they are where every column lies in [-10, 10] with a standard deviation
            between 0.1 and 10, and else standardises them; or ``"standard"``, ``"none"``.
        clip: Standard deviations at which standardised inputs are clipped. Predictions warn of values farther out than
            any seen.
        random_state: Whole number, RandomState, Generator, or None for another seed every time.

    Attributes:
        formula_: With two classes the log odds of the second; else the logit of the first class.
        formulas_: The logits of all classes, or the log odds alone where there are two.
        classes_: The labels, sorted.
        discovery_: What the search found, or None.
        input_scaler_: How inputs are scaled.
        n_features_in_: Number of inputs.
        feature_names_in_: Their names, where the fit saw a DataFrame.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> inside = X[:, 0] ** 2 + X[:, 1] ** 2 < 1
        >>> FormulaClassifier("x**2").fit(X, inside).score(X, inside) > 0.95
        True
    """

    def __init__(
        self,
        formula: Any = "auto",
        *,
        method: Any = "group",
        bases: Any = "default",
        C: float = 1.0,
        scale: str = "auto",
        clip: float = 5.0,
        random_state: Any = 0,
    ) -> None:
        self.formula = formula
        self.method = method
        self.bases = bases
        self.C = C
        self.scale = scale
        self.clip = clip
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Search the formula (unless it is given) and fit its weights.

        Args:
            X: Inputs, (n, d).
            y: One label a row.
            sample_weight: How much each row counts, (n,).

        Raises:
            TableError: If a value is missing or infinite, or there is one class only.
            InvalidArgumentError: If a parameter is out of its range, or a term is not finite on the inputs.
            FormulaError: If the formula cannot be read.
        """
        if not isinstance(self.C, int | float) or not self.C > 0:
            raise InvalidArgumentError(f"C must be a number above 0, not {self.C!r}.")
        inputs = read_inputs(self, X, y, reset=True)
        weight = read_weight(sample_weight, inputs)
        labels, codes = read_classes(y)
        kept = weight > 0
        self.classes_, codes = used_classes(labels, codes, kept)
        inputs, weight = inputs[kept], weight[kept]
        design, mean, spread = self._fit(inputs, codes, weight)
        # One column of zeros stands in where the formula is a constant: the intercepts are the class shares then.
        filled = design if design.shape[1] else np.zeros((len(design), 1))
        logistic = LogisticRegression(C=self.C, max_iter=2000).fit(filled, codes, sample_weight=weight)
        weights = logistic.coef_[:, : design.shape[1]]
        self._keep(weights, logistic.intercept_, mean, spread)
        self.n_iter_ = int(logistic.n_iter_.max())
        return self

    def _logits(self, X: Any) -> NDArray[np.float64]:
        values = self._values(X)
        return np.column_stack([np.zeros(len(values)), values[:, 0]]) if len(self.classes_) == 2 else values

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        state, arrays = super()._state()
        return state | {"iterations": self.n_iter_}, arrays

    @classmethod
    def _restored(cls, parameters: dict[str, Any], state: dict[str, Any], arrays: Arrays) -> Self:
        model = super()._restored(parameters, state, arrays)
        model.n_iter_ = int(state["iterations"])
        return model
