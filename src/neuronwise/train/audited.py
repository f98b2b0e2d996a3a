"""The result of an audit."""

from __future__ import annotations

from typing import ClassVar

import pandas as pd

from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.store import Result
from neuronwise.train._audit_words import condition_of

__all__ = ["Audit"]


class Audit(Result):
    """What inhibitors did to neurons and task, from :func:`neuronwise.train.audit`.

    Tables: ``audit_runs`` (every figure of every model, at the start and the end of its training), ``audit_curves`` (on
    the way), ``audit_figures`` (means over seeds, and paired differences to no inhibitor and to the random control),
    ``verdicts`` (one sentence for each inhibitor), ``sites``.

    Kinds of figures: ``measure`` (of neurons, in three bases), ``units`` (shares of units live, nearly dead, dead),
    ``task``, ``one_step_start`` and ``one_step_end`` (what one step did, from the weights before and after training),
    ``cost`` (time of a step, as a multiple of one without an inhibitor).
    """

    kind: ClassVar[str] = "audit"
    main_table: ClassVar[str] = "audit_figures"

    @property
    def inhibitors(self) -> tuple[str, ...]:
        """Names of the inhibitors, without that of none."""
        return tuple(self.tables["verdicts"]["inhibitor"])

    @property
    def by(self) -> str:
        """The measure that decides the verdicts."""
        return str(self.manifest.action["parameters"]["by"])

    @property
    def metric(self) -> str:
        """The task's figure that the verdicts tell."""
        return str(self.manifest.action["parameters"]["metric"])

    @property
    def condition(self) -> str:
        """How often the condition holds on which the argument for reversal rests, in words; empty if not looked at."""
        return condition_of(self.tables["audit_figures"])

    def figure(
        self,
        inhibitor: str,
        name: str | None = None,
        *,
        kind: str = "measure",
        basis: str = "neuron",
        control: bool = False,
        versus: str = "none",
    ) -> pd.Series:
        """Return one row of ``audit_figures``: value, reference, paired difference with interval, relative change.

        Args:
            inhibitor: Name of the inhibitor.
            name: Name of the figure; default: the measure that decides the verdicts.
            kind: Kind of the figure.
            basis: ``"neuron"``, ``"rotated"`` or ``"pca"``; of measures only.
            control: The inhibitor's random control instead.
            versus: Compared with ``"none"`` or with its ``"random"`` control.

        Raises:
            InvalidArgumentError: If there is no such figure.
        """
        frame = self.tables["audit_figures"]
        wanted = {
            "inhibitor": inhibitor,
            "kind": kind,
            "name": self.by if name is None else name,
            "basis": basis if kind == "measure" else "",
            "control": control,
            "versus": versus if inhibitor != "none" else "",
        }
        for column, value in wanted.items():
            known = list(frame[column].unique())
            frame = frame[frame[column] == value]
            if not len(frame):
                raise InvalidArgumentError(
                    f"There is no figure with {column} {value!r} here. {closest(str(value), map(str, known))}"
                )
        return frame.iloc[0]

    def verdict(self, inhibitor: str | None = None) -> str:
        """Return in words, computed from the figures, what an inhibitor did; default: all of them, one a line.

        Raises:
            InvalidArgumentError: If it was not audited.
        """
        frame = self.tables["verdicts"]
        if inhibitor is None:
            return "\n".join(
                [*frame["sentence"], *filter(None, [condition_of(self.tables["audit_figures"])])]
            )
        if inhibitor not in set(frame["inhibitor"]):
            raise InvalidArgumentError(
                f"{inhibitor!r} was not audited. {closest(inhibitor, self.inhibitors)}"
            )
        return str(frame.loc[frame["inhibitor"] == inhibitor, "sentence"].iloc[0])
