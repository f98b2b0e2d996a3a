"""EditEvaluation: what an edit did to its fact, to other facts, and to plain text."""

from __future__ import annotations

from typing import ClassVar

import pandas as pd

from neuronwise.store import Result

__all__ = ["EditEvaluation"]


class EditEvaluation(Result):
    """What editing methods did, beside no edit and random ones, from :func:`neuronwise.edit.evaluate_edit`.

    Tables: ``edit_summary`` (one row a method, metric and measure), ``edit_prompts`` (one row a prompt), ``edit_text``
    (one row a patch) and ``edit_problems`` (what could not be edited or asked).
    """

    kind: ClassVar[str] = "edit"
    main_table: ClassVar[str] = "edit_summary"

    def value(self, method: str, metric: str, *, measure: str = "", control: str = "edit") -> float:
        """Return one figure of the summary; NaN where there is none.

        Args:
            method: Name of the method; ``"none"``, with ``control="none"``, for the unedited model.
            metric: Such as ``"reliability"``, ``"generality"``, ``"unrelated"`` or ``"kl"``.
            measure: ``"argmax"``, ``"probability"`` or ``"text"``; by default the first that the metric has.
            control: ``"edit"``, ``"random"`` or ``"none"``.
        """
        frame = self.tables["edit_summary"]
        rows = frame[
            (frame["method"] == method) & (frame["metric"] == metric) & (frame["control"] == control)
        ]
        if measure:
            rows = rows[rows["measure"] == measure]
        return float(rows["value"].iloc[0]) if len(rows) else float("nan")

    def side_by_side(self, *, measure: str = "argmax") -> pd.DataFrame:
        """Return one row a method and control and one column a metric, figures of text included.

        Args:
            measure: ``"argmax"`` or ``"probability"``.
        """
        frame = self.tables["edit_summary"]
        rows = frame[frame["measure"].isin([measure, "text"])]
        wide = rows.pivot_table(index=["method", "control"], columns="metric", values="value", sort=False)
        return wide.rename_axis(columns=None)

    @property
    def problems(self) -> pd.DataFrame:
        """What could not be edited or asked: fact, method, problem."""
        return self.tables["edit_problems"]

    def __str__(self) -> str:
        text = self.side_by_side().to_string(float_format="{:.3f}".format, na_rep="-")
        count = len(self.problems)
        return f"{text}\n{count} problem{'s' if count != 1 else ''}" if count else text
