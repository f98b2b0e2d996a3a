"""The figures of an audit: paired differences over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from neuronwise.intervals import resampled_interval
from neuronwise.train._audit_job import Records
from neuronwise.train._audit_plan import NONE

__all__ = ["audit_tables", "figures_of"]

_COLUMNS = [
    "inhibitor", "control", "versus", "kind", "name", "basis", "value", "reference", "difference", "low", "high", "p",
    "relative", "relative_low", "relative_high", "n",
]  # fmt: skip
_RUN_COLUMNS = ["inhibitor", "control", "seed", "kind", "name", "basis", "site", "start", "end"]


def audit_tables(records: Records) -> dict[str, pd.DataFrame]:
    """Return the tables of an audit but that of the verdicts."""
    runs = pd.DataFrame(records.runs, columns=_RUN_COLUMNS)
    runs[["start", "end"]] = runs[["start", "end"]].astype(np.float64)
    return {
        "audit_runs": runs,
        "audit_curves": pd.DataFrame(records.curves),
        "audit_figures": figures_of(runs),
    }


def figures_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return every figure of every inhibitor, beside no inhibitor and beside its random control, paired by seed.

    Args:
        runs: The table ``audit_runs``.
    """
    own = runs[runs["site"] == ""]
    rows: list[dict[str, Any]] = []
    for (kind, name, basis), part in own.groupby(["kind", "name", "basis"], sort=False):
        table = part.set_index(["seed", "inhibitor", "control"])["end"].unstack(["inhibitor", "control"])  # noqa: PD010
        place = {"kind": kind, "name": name, "basis": basis}
        pairs = list(dict.fromkeys(zip(part["inhibitor"], part["control"], strict=True)))
        known = {pair for pair in pairs if table[pair].notna().any()}
        for inhibitor, control in pairs:
            values = table[inhibitor, control]
            label = {"inhibitor": inhibitor, "control": control, **place}
            if inhibitor == NONE or (NONE, False) not in known:
                rows.append({**label, "versus": "", **_alone(values)})
            else:
                rows.append({**label, "versus": "none", **_paired(values, table[NONE, False])})
            if not control and (inhibitor, True) in known:
                rows.append({**label, "versus": "random", **_paired(values, table[inhibitor, True])})
    return pd.DataFrame(rows, columns=_COLUMNS)


def _alone(values: pd.Series) -> Mapping[str, float]:
    kept = values.dropna()
    missing = ("reference", "difference", "low", "high", "p", "relative", "relative_low", "relative_high")
    return {"value": _mean(kept), **dict.fromkeys(missing, np.nan), "n": len(kept)}


def _paired(values: pd.Series, reference: pd.Series) -> Mapping[str, float]:
    both = pd.DataFrame({"own": values, "other": reference}).dropna()
    base = _mean(both["other"])
    difference, low, high, p = resampled_interval((both["own"] - both["other"]).to_numpy(np.float64))
    # Of the mean reference, so that one seed with a small one does not rule.
    scale = abs(base) if base else np.nan
    return {
        "value": _mean(both["own"]),
        "reference": base,
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "relative": difference / scale,
        "relative_low": low / scale,
        "relative_high": high / scale,
        "n": len(both),
    }


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else np.nan
