"""The chapter of the demo on neurons for a table: one whose formula is known, and a real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neuronwise.cli.tour import FORMULA, Tour

if TYPE_CHECKING:
    import pandas as pd

    from neuronwise.formula import Formula

__all__ = ["neurons_for_tables"]

_ROWS, _FRESH = 600, 2000
# The terms that the made table asks for.
_TRUTH = {"x**2", "sin(2*x)"}


def neurons_for_tables(tour: Tour) -> Mapping[str, Any]:
    """Find the neuron of a table with a known formula and of a real one, and see whether each is worth it."""
    import neuronwise as nw
    from neuronwise.data import read_table

    screen = tour.screen
    table, fresh = _tank(_ROWS, seed=7), _tank(_FRESH, seed=8)
    screen.prose(
        "A table of four sensors and a load, made by load = 1.5 sin(2 depth) - sin(2 salt) + 0.8 heat**2 - 0.5 flow**2 "
        f"and noise; {_ROWS} rows. The search, which knows nothing of this, finds:"
    )
    found = nw.discover(table, "load", resamples=10 if tour.quick else 30, seed=0)
    screen.line(f"  {found.neuron}", style="bold")
    if set(found.terms) != _TRUTH:
        tour.failed.append(f"the search should have found {sorted(_TRUTH)}, not {list(found.terms)}")
    low, high = found.interval("r2")
    screen.prose(
        f"It explains {found.figures['r2']:.1%} [{low:.1%}, {high:.1%}] of rows that it has not seen; a weighted sum "
        f"of the inputs explains {max(0.0, found.figures['r2_linear']):.1%}. How often each base function is found "
        "when only half of the rows are searched:"
    )
    sure = found.confidence[["base", "frequency", "low", "high"]]
    screen.table(sure[sure["frequency"] > 0], digits=3)
    scores = _networks(table, fresh, found.neuron, tour)
    screen.prose("Networks of 16 such neurons, on fresh rows:")
    screen.table(scores, digits=4)
    found.save(tour.out / FORMULA, overwrite=True)
    page = found.report(tour.out / "formula.html", title="The load of a tank")
    real = nw.discover(read_table("diabetes"), "target", confidence="none", seed=0)
    screen.prose(
        "And a real one, scikit-learn's diabetes (442 patients, ten measurements, how far the disease went a year "
        f"later): the search finds {real.neuron}, R2 {real.figures['r2']:.2f} on held-out rows. "
        + ("Linear neurons suffice there." if real.terms in ((), ("x",)) else "")
    )
    screen.line(f"The formula, its terms and its confidence:  {page}")
    return {
        "formula": str(found.formula),
        "terms": list(found.terms),
        "figures": dict(found.figures),
        "networks": scores,
        "diabetes": {"formula": str(real.formula), "r2": real.figures["r2"]},
        "page": str(page),
    }


def _tank(rows: int, *, seed: int) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.uniform(-2, 2, (rows, 4)), columns=["depth", "heat", "flow", "salt"])
    load = 1.5 * np.sin(2 * frame["depth"]) - np.sin(2 * frame["salt"])
    load += 0.8 * frame["heat"] ** 2 - 0.5 * frame["flow"] ** 2
    return frame.assign(load=load + rng.normal(0, 0.2, rows))


def _networks(table: pd.DataFrame, fresh: pd.DataFrame, found: Formula, tour: Tour) -> pd.DataFrame:
    """Return how well networks of linear, quadratic and found neurons predict fresh rows."""
    import pandas as pd

    import neuronwise as nw

    rows = []
    kinds: dict[str, Any] = {"linear": "linear", "quadratic": "x + x**2", "found": found}
    for name, formula in kinds.items():
        model = nw.TaskNeuronRegressor(
            formula=formula, guard=False, hidden=(16,), max_epochs=60 if tour.quick else 150, random_state=0
        )
        model.fit(table.drop(columns="load"), table["load"])
        parameters = sum(parameter.numel() for parameter in model.module_.parameters())
        rows.append(
            (
                name,
                "x" if name == "linear" else str(formula),
                parameters,
                model.score(fresh.drop(columns="load"), fresh["load"]),
            )
        )
    return pd.DataFrame(rows, columns=["neurons", "formula", "parameters", "R2 on fresh rows"])
