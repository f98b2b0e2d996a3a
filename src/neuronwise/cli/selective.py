"""The most selective neurons of an observed model, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.observe import Activity

__all__ = ["brief", "selective", "stronger_side"]


def brief(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of sites for narrow screens: by layer where that says it all, without prefixes of columns."""
    if "layer" in frame:
        sites = frame[["site", "layer"]].drop_duplicates()
        enough = sites["layer"].notna().all() and sites["layer"].is_unique
        frame = frame.drop(columns="site" if enough else "layer")
    # The median of means says little, and its long figures would crowd out the rest.
    frame = frame.drop(columns="median_mean", errors="ignore")
    return frame.rename(columns=lambda name: name.removeprefix("median_").replace("_", " "))


def stronger_side(row: pd.Series) -> str:
    """Return the side, ``"top"`` or ``"bottom"``, on which a neuron reaches further from zero."""
    return "bottom" if -row["min"] > row["max"] else "top"


def selective(activity: Activity, count: int, *, by: str = "kurtosis") -> pd.DataFrame:
    """Return the most selective neurons: site, layer, neuron, statistic, and the strongest value with its text.

    Empty if that statistic was not observed.
    """
    import pandas as pd

    if by not in activity.tables["neurons"].columns:
        return pd.DataFrame()
    rows = []
    for _, row in activity.tables["neurons"].nlargest(count, by).iterrows():
        entry = {"site": row["site"], "layer": row["layer"], "neuron": int(row["neuron"]), by: float(row[by])}
        if "min" in row and "examples" in activity.tables:
            best = activity.examples(row["site"], entry["neuron"], side=stronger_side(row)).head(1)
            entry |= {
                name: best[name].iloc[0]
                for name in ("value", "example", "text")
                if name in best and len(best)
            }
        rows.append(entry)
    return pd.DataFrame(rows)
