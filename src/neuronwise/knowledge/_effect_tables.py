"""The tables of an effect: what was measured, and its averages over facts with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.knowledge._effect_probes import EFFECT_PROBES, Sheet
from neuronwise.knowledge._rows import Measured

__all__ = ["FIGURES", "MEASURES", "effects", "figures", "summary"]

#: What is kept of every fact, set, factor and kind of probe: numbers in this order.
FIGURES = (
    "fact", "set", "factor", "probe", "n_neurons", "n_prompts", "p_before", "p_after", "log_p_before", "log_p_after",
    "right_before", "right_after", "ratio_mean", "ratio_median",
)  # fmt: skip

#: The averages over facts, in the order in which they are shown.
MEASURES = ("ratio_of_means", "mean_of_ratios", "median_ratio", "delta_log_p", "delta_right")

_RESAMPLES = 2000
_MEDIAN = MEASURES.index("median_ratio")


def figures(fact: int, sheet: Sheet, measured: Measured, sizes: Sequence[int]) -> Iterator[tuple[float, ...]]:
    """Yield the figures of one fact, in the order of :data:`FIGURES`; the fact, set, factor and probe as numbers."""
    kinds = np.array([EFFECT_PROBES.index(question.probe) for question in sheet.questions])
    before, right = measured.log_p, measured.right
    for probe in np.unique(kinds).tolist():
        own = kinds == probe
        for factor in range(measured.log_p_after.shape[0]):
            for number, size in enumerate(sizes):
                after = measured.log_p_after[factor, number, own]
                ratio = np.exp(after - before[own])
                yield (
                    fact, number, factor, probe, size, int(own.sum()),
                    float(np.exp(before[own]).mean()), float(np.exp(after).mean()),
                    float(before[own].mean()), float(after.mean()),
                    float(right[own].mean()), float(measured.right_after[factor, number, own].mean()),
                    float(ratio.mean()), float(np.median(ratio)),
                )  # fmt: skip


def effects(
    rows: NDArray[np.float64],
    ids: Sequence[str],
    relations: Sequence[str],
    factors: Sequence[float],
    seed: int,
) -> pd.DataFrame:
    """Return the table ``effects``: one row a fact, set, factor and kind of probe."""
    frame = pd.DataFrame(rows, columns=list(FIGURES))
    number = {name: frame[name].astype(int) for name in ("fact", "set", "factor", "probe")}
    seeds = (number["set"] - 1 + seed).where(number["set"] > 0).astype("Int32")
    return frame.drop(columns=["set"]).assign(
        fact=number["fact"].map(dict(enumerate(ids))),
        relation=number["fact"].map(dict(enumerate(relations))),
        factor=number["factor"].map(dict(enumerate(map(float, factors)))),
        probe=number["probe"].map(dict(enumerate(EFFECT_PROBES))),
        neurons=np.where(number["set"] > 0, "random", "chosen"),
        seed=seeds,
        n_neurons=frame["n_neurons"].astype(int),
        n_prompts=frame["n_prompts"].astype(int),
    )


def summary(frame: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return the table ``effect_summary``: averages over facts for chosen and random neurons, and their difference.

    Facts are the units: prompts of one fact, and random sets for one fact, are not independent of each other.
    """
    rows: list[dict[str, Any]] = []
    for (factor, probe), part in frame.groupby(["factor", "probe"], sort=False):
        own = part[part["neurons"] == "chosen"].set_index("fact")
        random = part[part["neurons"] == "random"]
        columns = [
            "p_before",
            "p_after",
            "log_p_before",
            "log_p_after",
            "right_before",
            "right_after",
            "ratio_mean",
            "ratio_median",
        ]
        groups = {"chosen": own[columns]}
        if len(random):
            groups["random"] = random.groupby("fact", sort=False)[columns].mean().reindex(own.index)
        spread = _seed_spread(random)
        known = {name: group.dropna() for name, group in groups.items()}
        rows += _averages({"chosen": known["chosen"]}, factor, probe, {}, seed)
        if len(random):
            both = {name: known[name].loc[known["random"].index] for name in known}
            rows += [
                row for row in _averages(both, factor, probe, spread, seed) if row["neurons"] != "chosen"
            ]
    return pd.DataFrame(
        rows, columns=["factor", "probe", "measure", "neurons", "value", "low", "high", "facts", "seed_sd"]
    )


def _averages(
    groups: dict[str, pd.DataFrame], factor: Any, probe: Any, spread: dict[str, float], seed: int
) -> list[dict[str, Any]]:
    above = np.stack([_above(group) for group in groups.values()], 1)  # (measure, set, fact)
    below = np.stack([_below(group) for group in groups.values()], 1)
    names = [*groups, "difference"] if len(groups) > 1 else list(groups)
    value = _statistic(above, below)
    low, high = _interval(above, below, seed)
    return [
        {
            "factor": factor, "probe": probe, "measure": measure, "neurons": name,
            "value": value[m, n], "low": low[m, n], "high": high[m, n], "facts": above.shape[-1],
            "seed_sd": spread.get(measure, np.nan) if name == "random" else np.nan,
        }
        for m, measure in enumerate(MEASURES)
        for n, name in enumerate(names)
    ]  # fmt: skip


def _above(group: pd.DataFrame) -> NDArray[np.float64]:
    """Return what each measure averages over facts, ``(measure, fact)``."""
    return np.stack(
        [
            group["p_after"] - group["p_before"],
            group["ratio_mean"] - 1,
            group["ratio_median"],
            group["log_p_after"] - group["log_p_before"],
            group["right_after"] - group["right_before"],
        ]
    ).astype(np.float64)


def _below(group: pd.DataFrame) -> NDArray[np.float64]:
    """Return by whose mean it is divided, ``(measure, fact)``: only the ratio of means has such a one."""
    below = np.ones((len(MEASURES), len(group)))
    below[0] = group["p_before"]
    return below


def _statistic(above: NDArray[np.float64], below: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Return the averages ``(measure, set)``, and after the sets their difference where there are two."""
    found: NDArray[np.float64] = above.mean(axis) / below.mean(axis)
    found[_MEDIAN] = np.median(above[_MEDIAN], axis=axis)
    return found if found.shape[1] == 1 else np.concatenate([found, found[:, :1] - found[:, 1:2]], axis=1)


def _interval(
    above: NDArray[np.float64], below: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95 % intervals of the bootstrap over facts, the same resamples for all measures and sets."""
    from scipy import stats

    facts = above.shape[-1]
    if facts < 2:
        none = np.full(_statistic(above, below).shape, np.nan)
        return none, none
    found = stats.bootstrap(
        (above, below),
        _statistic,
        paired=True,
        axis=-1,
        n_resamples=int(np.clip(2_000_000 // facts, 200, _RESAMPLES)),
        batch=max(1, 500_000 // facts),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return np.asarray(found.low), np.asarray(found.high)


def _seed_spread(random: pd.DataFrame) -> dict[str, float]:
    """Return the standard deviation over the seeds of every average of the random sets."""
    values = [
        _statistic(_above(rows)[:, None], _below(rows)[:, None])[:, 0] for _, rows in random.groupby("seed")
    ]
    if len(values) < 2:
        return {}
    return dict(zip(MEASURES, np.std(values, axis=0, ddof=1).tolist(), strict=True))
