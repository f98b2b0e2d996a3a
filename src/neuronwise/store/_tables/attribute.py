"""Tables of attributions."""

from __future__ import annotations

import pyarrow as pa

from neuronwise.store._tables.columns import Column, Table

__all__ = ["TABLES"]


TABLES = (
    Table(
        "targets",
        (
            Column("example", pa.int64(), "Number of the example in the batch, from 0."),
            Column("value", pa.float64(), "The number of the model's output that neurons get credit for."),
        ),
        keys=("example",),
        doc="The target of an attribution, for each example.",
    ),
    Table(
        "completeness",
        (
            Column(
                "path", pa.string(), "The site whose scores have one sum, or `all sites` for the joint path."
            ),
            Column("example", pa.int64(), "Number of the example in the batch, from 0."),
            Column("reference", pa.float64(), "The target with these neurons at their reference."),
            Column("gap", pa.float64(), "Sum of the scores less what the target loses at the reference."),
            Column("nodes", pa.int32(), "Nodes of the integral; 0 where there is none."),
            Column("converged", pa.bool_(), "Whether the gap is within the tolerance."),
        ),
        keys=("path", "example"),
        doc="How well the scores of an attribution add up.",
    ),
)
