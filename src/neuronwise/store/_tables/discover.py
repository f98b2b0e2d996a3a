"""Tables of formulas that were found."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import Column, Table

__all__ = ["TABLES"]

_FORMULA_RANK = Column("rank", pa.int32(), "Place of the formula, the best is 0.")

_OUTPUT = Column("output", pa.int32(), "Number of the output, from 0.")

_TERM = Column("term", pa.int32(), "Number of the term in the formula, from 0.")


TABLES = (
    Table(
        "formulas",
        (
            _FORMULA_RANK,
            Column(
                "formula",
                pa.string(),
                "The formula; with its numbers where there is one output, else its form.",
            ),
            Column("terms", pa.string(), "Its terms without weights, simplest first, with `; ` between."),
            Column("criterion", pa.float64(), "What the search went by; lower is better."),
            Column("delta", pa.float64(), "Its criterion less the lowest one."),
            Column("within_margin", pa.bool_(), "Whether the search cannot tell it from the best."),
            Column("complexity", pa.int32(), "Parts of the formula, functions counting more than x."),
            Column(
                "explained", pa.float64(), "Share of the variance or deviance explained, rows of the search."
            ),
            Column(
                "held_out", pa.float64(), "The same on the held-out rows, as fitted on those of the search."
            ),
        ),
        keys=("rank",),
        doc="The formulas that a search has found, best first.",
    ),
    Table(
        "formula_outputs",
        (
            _FORMULA_RANK,
            _OUTPUT,
            Column("label", pa.string(), "Class or name of the output; empty where there is one."),
            Column("predictor", pa.string(), "Its predictor with the weights as names."),
            Column("data", pa.string(), "The predictor as JSON, without loss, for `Formula.from_dict`."),
        ),
        keys=("rank", "output"),
        doc="The predictor of each output, in scaled inputs: a value, a logit, or a log count.",
    ),
    Table(
        "formula_terms",
        (
            _FORMULA_RANK,
            _OUTPUT,
            _TERM,
            Column("kind", pa.string(), "`constant`, `elementwise`, `product` or `scalar`."),
            Column("expression", pa.string(), "The term."),
            Column("base", pa.string(), "Its base function; empty where it is more than one."),
            Column("coefficient", pa.float64(), "The number in front; missing where each input has its own."),
            Column(
                "share", pa.float64(), "Its covariance with the predictor, over the predictor's variance."
            ),
            Column("frequency", pa.float64(), "How often it is found on halves of the rows; see `bases`."),
        ),
        keys=("rank", "output", "term"),
        doc="The terms of a formula.",
    ),
    Table(
        "term_weights",
        (
            _FORMULA_RANK,
            _OUTPUT,
            _TERM,
            Column("input", pa.string(), "Name of the input."),
            Column("weight", pa.float64(), "Weight of the input in the term."),
        ),
        keys=("rank", "output", "term", "input"),
        doc="The weights of terms that have one for each input.",
    ),
    Table(
        "bases",
        (
            Column("base", pa.string(), "The base function, or another term that was found."),
            Column("selected", pa.bool_(), "Whether it is in the best formula."),
            Column(
                "frequency", pa.float64(), "Share of halves of the rows on which it is in the best formula."
            ),
            Column("low", pa.float64(), "Lower end of the 95 % interval of the frequency."),
            Column("high", pa.float64(), "Upper end."),
            Column("statistic", pa.float64(), "By how much it beats its decoys, in units of the noise."),
            Column(
                "q", pa.float64(), "Smallest false discovery rate at which it is selected against decoys."
            ),
            Column(
                "discovered",
                pa.bool_(),
                "Whether it is selected against decoys at the rate set.",
                nullable=True,
            ),
            Column(
                "represented_by",
                pa.string(),
                "The base function that stands for it there; empty: not tested.",
            ),
            Column("dropped", pa.string(), "Why it was left out; empty where it was not."),
        ),
        keys=("base",),
        doc="How sure one can be of each base function.",
    ),
    Table(
        "discovery_figures",
        (
            Column("name", pa.string(), "Name of the figure."),
            Column("value", pa.float64(), "The figure."),
            Column("low", pa.float64(), "Lower end of its 95 % interval; missing where it has none."),
            Column("high", pa.float64(), "Upper end."),
        ),
        keys=("name",),
        doc="Figures of a search: rows, time, how well the formula predicts held-out rows.",
    ),
)
