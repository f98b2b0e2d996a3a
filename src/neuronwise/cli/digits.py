"""The chapter of the demo on monosemanticity: three ways to inhibit it while a small network learns digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuronwise.cli.tour import AUDIT, Tour

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.train import Audit

__all__ = ["inhibitors_on_digits"]

_HIDDEN = (64, 64)
_MEASURES = ("phi_above_9", "phi_top", "class_selectivity")


def inhibitors_on_digits(tour: Tour) -> Mapping[str, Any]:
    """Train a perceptron on digits with three inhibitors and their random controls, and say what each did."""
    from functools import partial

    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from neuronwise.cli.monosemanticity.audit import show
    from neuronwise.cli.monosemanticity.material import Perceptron
    from neuronwise.train import ClassSelectivity, ReversedDeactivation, TailPenalty, audit

    screen = tour.screen
    images, classes = load_digits(return_X_y=True)
    seeds = 2 if tour.quick else 3
    screen.prose(
        f"A perceptron learns scikit-learn's digits, {seeds} times with other weights and rows: as it is, with the "
        "published way to make neurons less monosemantic (reversed), with our penalty on the tail (tail), with less "
        "class selectivity (selective), and with the random control of each. All start from the same weights, see "
        "the same batches. On held-out digits:"
    )
    found = audit(
        Perceptron(images.shape[1], _HIDDEN, 10),
        ((images / 16.0).astype(np.float32), classes),
        {
            "reversed": ReversedDeactivation(),
            "tail": TailPenalty(),
            "selective": ClassSelectivity(alpha=-1.0, classes=10),
        },
        seeds=seeds,
        epochs=3 if tour.quick else 16,
        batch_size=128 if tour.quick else 64,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        measures=_MEASURES,
        by="phi_above_9",
        rotation=False,
        probes=1 if tour.quick else 3,
        one_step=1 if tour.quick else 2,
        timed=2 if tour.quick else 4,
        examples=600,
        progress=False,
        model_name="perceptron on digits",
    )
    show(screen, found)
    screen.prose("Held-out share of phi above 9 in the course of training, mean over the networks:")
    curves = _curves(found)
    screen.table(curves, digits=3)
    found.save(tour.out / AUDIT, overwrite=True)
    page = found.report(tour.out / "audit.html", title="Inhibitors on digits")
    screen.line(f"The audit with its curves:  {page}")
    return {
        "verdicts": found.tables["verdicts"],
        "condition": found.condition,
        "curves": curves,
        "page": str(page),
    }


def _curves(found: Audit) -> pd.DataFrame:
    """Return one row a probe and one column an inhibitor."""
    frame = found.tables["audit_curves"]
    own = frame[(frame["name"] == found.by) & (frame["kind"] == "measure") & ~frame["control"].astype(bool)]
    table = own.pivot_table(index="step", columns="inhibitor", values="value", sort=False)
    return table[["none", *found.inhibitors]].rename_axis(columns=None).reset_index()
