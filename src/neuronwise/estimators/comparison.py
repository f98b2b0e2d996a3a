"""The result of comparing learners on the same splits."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from neuronwise.discover import Discovery
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.estimators._comparison_job import METRICS
from neuronwise.store import Manifest, Result

__all__ = ["Comparison"]

_OF_THE_SEARCH = (
    "formulas",
    "formula_outputs",
    "formula_terms",
    "term_weights",
    "bases",
    "discovery_figures",
)


class Comparison(Result):
    """Learners on the same splits, tuned alike, each compared with the network of linear neurons.

    Tables: ``comparison`` (one row a learner and metric: mean over the test parts with a 95 % interval),
    ``comparison_pairs`` (the paired difference to the reference, with interval and p), ``comparison_folds`` (one row
    a learner, test part and metric), ``comparison_fits`` (one row a learner and test part: settings chosen,
    parameters, seconds), ``learning_curves``, ``out_of_fold`` (what each learner predicted for rows it had not seen),
    and those of :class:`~neuronwise.discover.Discovery` for the search on all rows.
    """

    kind: ClassVar[str] = "comparison"
    main_table: ClassVar[str] = "comparison"

    @property
    def learners(self) -> tuple[str, ...]:
        """The learners, in the order of the tables."""
        return tuple(self.manifest.action["parameters"]["learners"])

    @property
    def metric(self) -> str:
        """The metric that learners are ranked and tuned by."""
        return str(self.manifest.action["parameters"]["metric"])

    @staticmethod
    def more_is_better(metric: str) -> bool:
        """Return whether more of a metric is better.

        Args:
            metric: ``"nrmse"``, ``"r2"``, ``"mae"``, ``"accuracy"``, ``"log_loss"`` or ``"auc"``.

        Raises:
            InvalidArgumentError: If there is no such metric.
        """
        if metric not in METRICS:
            raise InvalidArgumentError(f"There is no metric {metric!r}. {closest(metric, METRICS)}")
        return METRICS[metric]

    @property
    def discovery(self) -> Discovery:
        """What the search finds on all rows: the formula, and how sure we are of each term."""
        tables = {name: self.tables[name] for name in _OF_THE_SEARCH}
        about = self.manifest.action["parameters"]["discovery"]
        manifest = Manifest("discovery", action=about["action"], seed=self.manifest.seed, data=about["data"])
        return Discovery(tables, manifest, self.arrays)

    def difference(self, learner: str, metric: str | None = None) -> pd.Series:
        """Return the paired difference of a learner to the reference, a row of ``comparison_pairs``.

        Args:
            learner: Name of the learner.
            metric: Which metric; default: the one that learners are ranked by.

        Raises:
            InvalidArgumentError: If it was not compared.
        """
        frame = self.tables["comparison_pairs"]
        if learner not in set(frame["learner"]):
            raise InvalidArgumentError(f"{learner!r} was not compared. {closest(learner, self.learners)}")
        wanted = self.metric if metric is None else metric
        rows = frame[(frame["learner"] == learner) & (frame["metric"] == wanted)]
        if not len(rows):
            raise InvalidArgumentError(
                f"There is no metric {wanted!r}. {closest(wanted, set(frame['metric']))}"
            )
        return rows.iloc[0]

    def verdict(self) -> str:
        """Return in words, computed from the figures, whether a task neuron is worth it on these data."""
        frame = self.tables["comparison_pairs"]
        rows = {row["learner"]: row for row in frame[frame["metric"] == self.metric].to_dict("records")}
        lines = [
            f"Task neurons {name}: {_words(rows[learner])}."
            for learner, name in (
                ("task", "at the same structure"),
                ("task_matched", "with no more parameters"),
                ("guarded", "behind the guard"),
            )
            if learner in rows
        ]
        means = self.to_frame()
        best = means[means["metric"] == self.metric].sort_values("rank").to_dict("records")[0]
        lines.append(f"Best of all on average: {best['learner']} ({self.metric} {best['mean']:.4g}).")
        return " ".join(lines)


def _words(row: Mapping[Hashable, Any]) -> str:
    interval = f"{row['difference']:+.4g} [{row['low']:+.4g}, {row['high']:+.4g}] {row['metric']}"
    if not np.isfinite(row["low"]):
        return f"{interval}, one test part only, which says nothing of the spread"
    if row["verdict"] == "no difference":
        return f"no difference beyond chance from linear neurons ({interval})"
    return f"significantly {row['verdict']} than linear neurons ({interval})"
