"""The Feynman formulas (Udrescu and Tegmark 2020, arXiv 1905.11481): the genetic search on single inputs.

75 formulas with the range of every variable; 500 rows to search on, 500 fresh ones to judge by, no noise. Recovered: R2
above 0.9999 on the fresh rows. Same form: the formula found equals the law to 1e-6 also where every variable goes from
half its lower to one and a half times its upper end (all are positive, and stay so), wherever the law is defined; a
mere approximation on the given range does not.

Each formula has so many seconds of wall-clock time; with more processes than idle cores the figures are worse.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, folder_of, work_through

from neuronwise.discover import Genetic, make_problem
from neuronwise.formula import Formula

ROWS = 500
WIDE_ROWS = 2000
RECOVERED = 0.9999
SAME = 1e-6  # of the spread on the wider range
AGREE = 0.99  # share of the rows on which they must agree: an equal form may be undefined on other edges
DEFINED = 0.2  # share of the wider range's rows on which the law must be defined for a comparison
FUNCTIONS = ("sin", "cos", "exp", "log", "sqrt", "tanh", "asin")


def law_of(case: dict[str, Any]) -> Formula:
    """Return the law in inputs by number: names such as ``I`` could mean something else."""
    known = {variable["name"]: f"x[{place}]" for place, variable in enumerate(case["variables"])}
    known |= {"arcsin": "asin", "ln": "log"}
    return Formula(re.sub(r"[A-Za-z_]\w*", lambda found: known.get(found[0], found[0]), case["formula"]))


def drawn(case: dict[str, Any], rows: int, rng: np.random.Generator, *, wider: float = 0.0) -> np.ndarray:
    """Return inputs, uniform in their ranges, made wider by a share of each end."""
    ends = [(one["low"] * (1 - wider), one["high"] * (1 + wider)) for one in case["variables"]]
    return np.column_stack([rng.uniform(low, high, rows) for low, high in ends])


def same_form(found: Formula, law: Formula, X: np.ndarray) -> bool | None:
    """Return whether two formulas agree wherever the law is defined; None where that is almost nowhere."""
    with np.errstate(all="ignore"):
        wanted, given = law.evaluate(X), found.evaluate(X)
    defined = np.isfinite(wanted)
    if defined.mean() < DEFINED:
        return None
    wanted, given = wanted[defined], given[defined]
    # Poles make the range endless: the spread is that of the middle 98 %, and errors are relative beyond it.
    low, high = np.quantile(wanted, (0.01, 0.99))
    return bool((np.abs(given - wanted) <= SAME * np.maximum(high - low, np.abs(wanted))).mean() > AGREE)


def measure(case: dict[str, Any], budget: float, catalogue: bool, seed: int) -> dict[str, Any]:
    law, rng = law_of(case), np.random.default_rng([seed, 2020])
    X, fresh = drawn(case, ROWS, rng), drawn(case, ROWS, rng)
    wide = drawn(case, WIDE_ROWS, rng, wider=0.5)
    problem = make_problem(X, law.evaluate(X), task="regression", scale="none", seed=seed)
    search = Genetic(inputs="single", seconds=budget, catalogue=catalogue, functions=FUNCTIONS)
    best = search.search(problem)[0]
    wanted, given = law.evaluate(fresh), best.predict(fresh)
    r2 = float(1 - ((given - wanted) ** 2).mean() / wanted.var())
    return {
        "law": case["formula"],
        "inputs": [variable["name"] for variable in case["variables"]],
        "found": str(best.formula),
        "r2": r2 if np.isfinite(r2) else None,
        "recovered": bool(r2 > RECOVERED),
        "same_form": same_form(best.formula, law, wide),
        "budget": budget,
        "catalogue": catalogue,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--budget", type=float, default=20.0, help="Seconds of search for each formula.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-catalogue", action="store_true", help="Without the starting forms.")
    asked = parser.parse_args()
    path = Path(folder_of(asked)) / "feynman_equations" / "equations.jsonl"
    laws = [json.loads(line) for line in path.read_text().splitlines()]
    start = "plain" if asked.no_catalogue else "catalogue"
    cases = [
        (
            f"{law['id']} {asked.budget:g}s {start} {asked.seed}",
            measure,
            (law, asked.budget, not asked.no_catalogue, asked.seed),
        )
        for law in laws
        if not asked.only or law["id"] in asked.only
    ]
    done = work_through("task_feynman", cases, asked.jobs)
    rows = [done[key] for key, *_ in cases]
    figures = {name: sum(bool(row[name]) for row in rows) for name in ("recovered", "same_form")}
    print(json.dumps({**figures, "formulas": len(rows)}))


if __name__ == "__main__":
    main()
