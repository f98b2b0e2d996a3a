"""Tables of an audit of inhibitors."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import Column, Table

__all__ = ["TABLES"]

_INHIBITOR = Column("inhibitor", pa.string(), "Name of the inhibitor; `none` for training without.")

_CONTROL = Column("control", pa.bool_(), "Whether it is the inhibitor's random control.")

_SEED = Column("seed", pa.int64(), "Seed of weights, batches and split.")

_KIND = Column(
    "kind",
    pa.string(),
    "What it is a figure of: neurons, live units, the task, one step before and after training, or time.",
    choices=("measure", "units", "task", "one_step_start", "one_step_end", "cost"),
)

_NAME = Column("name", pa.string(), "Name of the measure, metric or figure.")

_BASIS = Column(
    "basis",
    pa.string(),
    "Of a measure: the neurons, a random rotation of them, or their principal components; else empty.",
    choices=("neuron", "rotated", "pca", ""),
)


def _interval(name: str, doc: str) -> Column:
    return Column(name, pa.float64(), doc)


TABLES = (
    Table(
        "audit_runs",
        (
            _INHIBITOR,
            _CONTROL,
            _SEED,
            _KIND,
            _NAME,
            _BASIS,
            Column(
                "site",
                pa.string(),
                "Name of the site; empty for the mean over sites, or where there is none.",
            ),
            _interval("start", "Value before training; missing where it is not taken."),
            _interval("end", "Value after training, or the only one."),
        ),
        keys=("inhibitor", "control", "seed", "kind", "name", "basis", "site"),
        doc="One figure of one trained model.",
    ),
    Table(
        "audit_curves",
        (
            _INHIBITOR,
            _CONTROL,
            _SEED,
            _KIND,
            _NAME,
            Column("step", pa.int64(), "Training steps done."),
            _interval("value", "The value then, in the basis of the neurons, mean over sites."),
        ),
        keys=("inhibitor", "control", "seed", "kind", "name", "step"),
        doc="One figure of one model at one time of its training.",
    ),
    Table(
        "audit_figures",
        (
            _INHIBITOR,
            _CONTROL,
            Column(
                "versus",
                pa.string(),
                "What it is compared with: training without an inhibitor, its random control, or nothing.",
                choices=("none", "random", ""),
            ),
            _KIND,
            _NAME,
            _BASIS,
            _interval("value", "Mean over seeds."),
            _interval("reference", "Mean over the same seeds of what it is compared with."),
            _interval("difference", "Mean of the differences, paired by seed."),
            _interval("low", "Lower end of the 95 % interval of the difference (paired t)."),
            _interval("high", "Upper end."),
            _interval("p", "Two-sided p of no difference, not corrected for the number of tests."),
            _interval("relative", "The difference as a share of the reference."),
            _interval("relative_low", "Lower end of its interval, with the reference taken as known."),
            _interval("relative_high", "Upper end."),
            Column("n", pa.int64(), "Seeds behind it.", unit="seeds"),
        ),
        keys=("inhibitor", "control", "versus", "kind", "name", "basis"),
        doc="One figure of an inhibitor over all seeds.",
    ),
    Table(
        "verdicts",
        (
            _INHIBITOR,
            Column(
                "aim",
                pa.string(),
                "What it is meant to do to monosemanticity; empty where that is not said.",
                choices=("lower", "raise", ""),
            ),
            Column("measure", pa.string(), "The measure that decides."),
            Column(
                "verdict",
                pa.string(),
                "What the figures say.",
                choices=(
                    "as meant",
                    "as at random",
                    "no effect shown",
                    "the opposite",
                    "lowers",
                    "raises",
                    "too few seeds",
                    "diverged",
                ),
            ),
            Column("sentence", pa.string(), "The same in words, with the figures."),
        ),
        keys=("inhibitor",),
        doc="The verdict on an inhibitor.",
    ),
)
