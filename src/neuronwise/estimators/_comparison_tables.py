"""The tables of a comparison: means with intervals, paired differences, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from neuronwise.estimators._comparison_job import METRICS, FoldJob, Records
from neuronwise.estimators._learners import LEARNERS, REFERENCE
from neuronwise.intervals import resampled_interval

__all__ = ["comparison_tables"]

# Where an interval of a mean is cut: nobody is right more than always.
_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "nrmse": (0.0, np.inf),
        "r2": (-np.inf, 1.0),
        "mae": (0.0, np.inf),
        "accuracy": (0.0, 1.0),
        "log_loss": (0.0, np.inf),
        "auc": (0.0, 1.0),
    }
)


def comparison_tables(records: Records, job: FoldJob) -> dict[str, pd.DataFrame]:
    """Return all tables of a comparison but those of the search."""
    folds = pd.DataFrame(records.folds)
    fits = pd.DataFrame(records.fits)
    ratio = float(np.mean([len(split.test) / split.pool for split in job.splits]))
    order = {name: number for number, name in enumerate(job.names)}
    means, pairs = [], []
    for metric, part in folds.groupby("metric", sort=False):
        table = part.pivot_table(index="fold", columns="learner", values="value")
        table = table[[name for name in order if name in table.columns]]
        means += _means(str(metric), table, ratio, fits)
        pairs += _pairs(str(metric), table, ratio)
    curves = pd.DataFrame(
        records.curves, columns=["learner", "fold", "epoch", "train_loss", "validation_loss"]
    )
    return {
        "comparison": pd.DataFrame(means),
        "comparison_pairs": pd.DataFrame(pairs, columns=_PAIR_COLUMNS),
        "comparison_folds": folds,
        "comparison_fits": fits,
        "learning_curves": curves,
        "out_of_fold": pd.DataFrame(records.predictions),
    }


_PAIR_COLUMNS = ["learner", "reference", "metric", "difference", "low", "high", "p", "gain", "verdict"]


def _means(metric: str, table: pd.DataFrame, ratio: float, fits: pd.DataFrame) -> list[dict[str, Any]]:
    rank = table.mean().rank(ascending=not METRICS[metric], method="min")
    rows = []
    for name in table.columns:
        mean, low, high, _ = resampled_interval(table[name].to_numpy(), ratio)
        low, high = np.clip((low, high), *_RANGES[metric])
        own = fits[fits["learner"] == name]
        rows.append(
            {
                "learner": name,
                "family": LEARNERS[name].family,
                "metric": metric,
                "mean": mean,
                "sd": float(table[name].std(ddof=1)) if len(table) > 1 else np.nan,
                "low": low,
                "high": high,
                "rank": int(rank[name]),
                "parameters": float(own["parameters"].astype(np.float64).mean()),
                "seconds": float(own["seconds"].sum()),
            }
        )
    return rows


def _pairs(metric: str, table: pd.DataFrame, ratio: float) -> list[dict[str, Any]]:
    rows = []
    for name in table.columns:
        if name == REFERENCE or REFERENCE not in table.columns:
            continue
        difference, low, high, p = resampled_interval((table[name] - table[REFERENCE]).to_numpy(), ratio)
        gain = difference if METRICS[metric] else -difference
        if not np.isfinite(low) or low <= 0.0 <= high:
            verdict = "no difference"
        else:
            verdict = "better" if gain > 0 else "worse"
        rows.append(
            dict(
                zip(
                    _PAIR_COLUMNS,
                    (name, REFERENCE, metric, difference, low, high, p, gain, verdict),
                    strict=True,
                )
            )
        )
    return rows
