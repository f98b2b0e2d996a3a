"""Discovery: the formula that a search has found, how sure one can be of it, and what it predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.discover._table import read_inputs
from neuronwise.discover.candidate import predicted
from neuronwise.discover.scaling import Scaling, warn_of_clipped
from neuronwise.errors import DataError, InvalidArgumentError, counted
from neuronwise.formula import Formula
from neuronwise.store import Result

__all__ = ["Discovery"]


class Discovery(Result):
    """What :func:`neuronwise.discover` returns: the best formula, those that the data cannot tell from it, and figures.

    Formulas are in the inputs that the search saw: raw, or standardised and clipped (``scaling`` says which).
    :meth:`predict` takes raw inputs. Tables: ``formulas`` (best first), ``formula_outputs``, ``formula_terms``,
    ``term_weights``, ``bases`` (confidence, and what was left out), ``discovery_figures``. Arrays: ``centre`` and
    ``scale`` of the inputs.
    """

    kind: ClassVar[str] = "discovery"
    main_table: ClassVar[str] = "formulas"

    @property
    def formula(self) -> Formula:
        """The best formula: with its numbers where there is one output, else its form with free weights."""
        return self._form(0)

    @property
    def outputs(self) -> tuple[Formula, ...]:
        """The predictor of each output, with its numbers: a value, a logit or a log count."""
        return self._predictors(0)

    @property
    def neuron(self) -> Formula:
        """The form of the neuron to build from it, with free weights; where nothing was found ``x``, the linear one."""
        terms = self.terms
        if not terms:
            return Formula("x")
        return self.formula.parameterised()

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the best formula without weights, simplest first; empty for a constant."""
        text = str(self.tables["formulas"]["terms"].iloc[0])
        return tuple(text.split("; ")) if text else ()

    @property
    def alternatives(self) -> list[Formula]:
        """The other formulas that the search cannot tell from the best: those within its margin."""
        table = self.tables["formulas"]
        ranks = table["rank"][table["within_margin"]].tolist()
        return [self._form(int(rank)) for rank in ranks if rank > 0]

    @property
    def confidence(self) -> pd.DataFrame:
        """How sure one can be of each base function: the table ``bases`` without those left out, best first."""
        table = self.tables["bases"]
        table = table[table["dropped"] == ""].drop(columns="dropped").dropna(axis=1, how="all")
        order = [name for name in ("selected", "frequency", "statistic") if name in table.columns]
        return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)

    @property
    def dropped(self) -> dict[str, str]:
        """Base functions that could not be used on these inputs, and why."""
        table = self.tables["bases"]
        table = table[table["dropped"] != ""]
        return dict(zip(table["base"], table["dropped"], strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed and what one should know, in sentences."""
        return tuple(self._about["notes"])

    @property
    def task(self) -> str:
        """``"regression"``, ``"classification"`` or ``"count"``."""
        return str(self._about["task"])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.manifest.data["inputs"])

    @property
    def ranges(self) -> NDArray[np.float64]:
        """Smallest and largest value of each raw input over the rows of the search, ``(input, 2)``."""
        return np.array(self.manifest.data["ranges"], dtype=np.float64)

    @property
    def target(self) -> str:
        """Name of the target; empty where it had none."""
        return str(self.manifest.data["target"])

    @property
    def classes(self) -> tuple[Any, ...]:
        """Labels of the classes, in the order of the columns of :meth:`predict_proba`; empty where there are none."""
        return tuple(self.manifest.data["classes"])

    @property
    def scaling(self) -> Scaling:
        """How raw inputs become those of the formulas."""
        centre, scale = self.arrays["centre"], self.arrays["scale"]
        seen = np.abs((self.ranges.T - centre) / scale).max(0)
        return Scaling(centre, scale, self._about["clip"], seen)

    @property
    def figures(self) -> Mapping[str, float]:
        """Figures by name: rows, time, and how well held-out rows are predicted; intervals are in the table."""
        table = self.tables["discovery_figures"]
        return MappingProxyType(dict(zip(table["name"], table["value"], strict=True)))

    def interval(self, figure: str) -> tuple[float, float]:
        """Return the 95 % interval of a figure, NaN where it has none.

        Raises:
            InvalidArgumentError: If there is no such figure.
        """
        table = self.tables["discovery_figures"]
        names = table["name"].tolist()
        if figure not in names:
            raise InvalidArgumentError(f"There is no figure {figure!r}. There are: {', '.join(names)}.")
        low, high = table[["low", "high"]].to_numpy(np.float64)[names.index(figure)]
        return float(low), float(high)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return predictions of raw inputs: values, class labels, or expected counts.

        Inputs far outside of what the search has seen are clipped as :attr:`scaling` says, and a warning names their
        columns.

        Args:
            X: Table as in the search; a DataFrame may have its columns in any order.

        Returns:
            ``(n,)``, with several outputs ``(n, m)``.

        Raises:
            DataError: If the table does not fit, or the formula is not defined on a row.
        """
        answers = self._answers(X)
        if self.task != "classification":
            return answers
        labels: NDArray[Any] = np.array(self.classes)[answers.argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities of the classes, ``(n, C)``.

        Raises:
            InvalidArgumentError: If the task is no classification.
            DataError: If the table does not fit.
        """
        if self.task != "classification":
            raise InvalidArgumentError(f"There are no probabilities: the task is {self.task}.")
        return self._answers(X)

    def score(self, X: Any, y: Any) -> float:
        """Return R2 of values (mean over outputs), accuracy of classes, or the deviance explained of counts.

        Args:
            X: Raw inputs.
            y: Their targets.
        """
        from sklearn import metrics

        measure = {
            "regression": metrics.r2_score,
            "classification": metrics.accuracy_score,
            "count": metrics.d2_tweedie_score,
        }[self.task]
        options = {"power": 1} if self.task == "count" else {}
        return float(measure(np.asarray(y), self.predict(X), **options))

    def summary(self) -> str:
        """Return what was found in a few lines of text."""
        alternatives = len(self.alternatives)
        lines = [f"{self._about['method']['name']}: {self.formula}"]
        for name, value in self.figures.items():
            low, high = self.interval(name)
            lines.append(f"{name}: {value:.4g}" + ("" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]"))
        if alternatives:
            what = "formula fits" if alternatives == 1 else "formulas fit"
            lines.append(f"{alternatives} other {what} about as well")
        return "\n".join([*lines, *self.notes])

    def __eq__(self, other: object) -> bool:
        """Return whether the same was searched and found; how long it took does not count."""
        if not isinstance(other, Discovery):
            return NotImplemented
        return self._timeless() == other._timeless()

    __hash__ = None

    def _timeless(self) -> Result:
        tables = {name: self.tables[name] for name in self.tables}
        figures = tables["discovery_figures"]
        tables["discovery_figures"] = figures[figures["name"] != "seconds"].reset_index(drop=True)
        return Result(tables=tables, manifest=self.manifest, arrays=dict(self.arrays))

    @property
    def _about(self) -> Mapping[str, Any]:
        about: Mapping[str, Any] = self.manifest.action["parameters"]
        return about

    def _predictors(self, rank: int) -> tuple[Formula, ...]:
        table = self.tables["formula_outputs"]
        return tuple(Formula.from_dict(json.loads(data)) for data in table["data"][table["rank"] == rank])

    def _form(self, rank: int) -> Formula:
        predictors = self._predictors(rank)
        if len(predictors) == 1:
            return predictors[0]
        table = self.tables["formulas"]
        text = str(table["formula"][table["rank"] == rank].iloc[0])
        return Formula(text, inputs=self.inputs, functions=predictors[0].functions)

    def _answers(self, X: Any) -> NDArray[np.float64]:
        names = self.inputs
        if isinstance(X, pd.DataFrame):
            missing = [name for name in names if name not in map(str, X.columns)]
            if missing:
                raise DataError(f"The table lacks the columns {', '.join(missing)}, which the search had.")
            X = X.rename(columns=str)[list(names)]
        raw, _ = read_inputs(X)
        if raw.shape[1] != len(names):
            raise DataError(f"The search had {counted(len(names), 'input')}; this table has {raw.shape[1]}.")
        scaling = self.scaling
        warn_of_clipped(scaling, raw, names)
        scaled = scaling.apply(raw)
        predictors = np.column_stack([formula.evaluate(scaled) for formula in self.outputs])
        bad = np.flatnonzero(~np.isfinite(predictors).all(1))
        if len(bad):
            raise DataError(
                f"The formula is not defined on {counted(len(bad), 'row')}, the first of them row {bad[0]}: their "
                "inputs lie outside the domain of a base function, and outside what the search has seen."
            )
        return predicted(predictors, str(self._about["link"]))
