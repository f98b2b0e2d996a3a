"""Make docs/reproduction/task_neurons.md of the figures in results/task_*.jsonl."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from common import RESULTS, read_results

from neuronwise.intervals import resampled_interval

PAGE = RESULTS.parent.parent / "docs" / "reproduction" / "task_neurons.md"
SPLIT = 2 / 8  # test rows by training rows of the synthetic splits
LEARNERS = {
    "linear": "linear",
    "quadratic": "quadratic",
    "task": "task",
    "task_matched": "task, matched",
    "guarded": "guarded",
    "linear_model": "linear model",
    "boosted_trees": "boosted trees",
}
METRICS = {
    "nrmse": "root mean squared error by the target's standard deviation",
    "accuracy": "accuracy",
    "log_loss": "log loss",
}
MARKS = {"better": " ▲", "worse": " ▼", "no difference": ""}
Row = dict[str, Any]


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def synthetic(rows: list[Row]) -> list[str]:
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    kinds = list(rows[0]["networks"])
    body, better = [], dict.fromkeys(noises, 0)
    for row in rows:
        truth = " + ".join(
            f"{c:.0f} x**{k}" for k, c in sorted(row["truth"].items(), key=lambda one: -int(one[0]))
        )
        truth = truth.replace("x**1", "x")
        errors = {kind: np.array(row["networks"][kind]["errors"]) for kind in kinds}
        gap = errors["one task neuron"] - errors["linear 10-2-1"]
        _, low, high, _ = resampled_interval(gap, SPLIT)
        better[row["noise"]] += high < 0
        found = row["search"]["shared"]["terms"], row["search"]["group"]["terms"]
        body.append(
            [
                row["noise"],
                truth,
                *(", ".join(terms) or "none" for terms in found),
                *(f"{error.mean():.3f}" for error in errors.values()),
                f"{low:+.3f} to {high:+.3f}",
            ]
        )
    parameters = ", ".join(f"{kind}: {count_of(rows, kind)}" for kind in kinds)
    counts = ", ".join(
        f"{count} of {sum(row['noise'] == noise for row in rows)} ({noise})"
        for noise, count in better.items()
    )
    return [
        "## The paper's synthetic sets",
        "",
        "Mean squared error on test rows by the variance of the target, mean of ten random splits 8:2, rates tuned on "
        "a fifth of the training rows, stopped early. The last column is the 95 % interval of one task neuron less "
        "10-2-1 (corrected for the overlap of the splits); the searches see powers of x up to 7. Parameters: "
        f"{parameters}.",
        "",
        *table(
            ["noise", "target, summed over inputs", "shared", "group", *kinds, "one neuron less 10-2-1"], body
        ),
        f"One task neuron is significantly better than 10-2-1 in {counts}.",
        "",
        "Command: `python reproduction/task_synthetic.py`.",
        "",
    ]


def count_of(rows: list[Row], kind: str) -> str:
    counts = sorted({row["networks"][kind]["parameters"] for row in rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def public(rows: list[Row], classes: bool) -> list[str]:
    rows = [row for row in rows if row["classes"] == classes]
    if not rows:
        return []
    metric = METRICS[rows[0]["metric"]]
    body = []
    for row in rows:
        means = {one["learner"]: one for one in row["means"]}
        verdicts = {one["learner"]: one["verdict"] for one in row["pairs"]}
        cells = [
            f"{means[name]['mean']:.3f}{MARKS[verdicts.get(name, 'no difference')]}" for name in LEARNERS
        ]
        body.append([row["set"], f"{row['rows']:,} × {row['inputs']}", *cells, told(row["guard_kept_task"])])
    sizes = {
        name: [one["parameters"] for row in rows for one in row["means"] if one["learner"] == name]
        for name in LEARNERS
    }
    ratio = np.median(np.array(sizes["task_matched"]) / np.array(sizes["linear"]))
    what = "Classification" if classes else "Regression"
    head = ["set", "rows × inputs", *LEARNERS.values(), "folds kept by the guard"]
    return [
        f"### {what}",
        "",
        *table(head, body),
        f"{what}, {metric}, ten fixed folds. ▲ / ▼: significantly better / worse than the linear network (paired, "
        "5 % level, corrected for overlapping training parts; not corrected for the number of sets). Matched networks "
        f"have at most the linear one's parameters (median ratio {ratio:.2f}).",
        "",
        *(sentence(rows, name) for name in ("quadratic", "task", "task_matched", "guarded", "boosted_trees")),
        "",
    ]


def told(share: float | None) -> str:
    return "" if share is None else f"{10 * share:.0f}"


def sentence(rows: list[Row], name: str) -> str:
    verdicts = [one["verdict"] for row in rows for one in row["pairs"] if one["learner"] == name]
    worse = [row["set"] for row in rows if verdict_of(row, name) == "worse"]
    told = f" (worse: {', '.join(worse)})" if worse else ""
    return (
        f"- {LEARNERS[name]}: better in {verdicts.count('better')}, no difference in "
        f"{verdicts.count('no difference')}, worse in {verdicts.count('worse')} of {len(rows)} sets{told}."
    )


def verdict_of(row: Row, name: str) -> str:
    return next(one["verdict"] for one in row["pairs"] if one["learner"] == name)


def feynman(rows: list[Row]) -> list[str]:
    body = []
    for budget, start in sorted({(row["budget"], row["catalogue"]) for row in rows}):
        own = [row for row in rows if (row["budget"], row["catalogue"]) == (budget, start)]
        counts = [sum(bool(row[name]) for row in own) for name in ("recovered", "same_form")]
        body.append([f"{budget:g}", "with" if start else "without", str(len(own)), *map(str, counts)])
    missed = sorted(row["law"] for row in rows if row["catalogue"] and not row["recovered"])
    return [
        "## The Feynman formulas",
        "",
        "Genetic search on 500 rows without noise. Recovered: R2 above 0.9999 on fresh rows; same form: equal to the "
        "law also on a wider range. The starting forms were written with this list in view: the line without them is "
        "the fair one.",
        "",
        *table(["seconds each", "starting forms", "formulas", "recovered", "same form"], body),
        f"Not recovered with starting forms: {'; '.join(f'`{law}`' for law in missed) or 'none'}.",
        "",
        "Command: `python reproduction/task_feynman.py` (`--no-catalogue` for the line without).",
        "",
    ]


SECTIONS: dict[str, Callable[[list[Row]], list[str]]] = {
    "task_synthetic": synthetic,
    "task_public": lambda rows: [
        "## Public sets",
        "",
        "Two hidden layers (32, 16); learning rate and weight decay tuned alike for every network, trees tuned too; "
        "search, tuning and early stopping see the training part only, of which at most "
        f"{rows[0]['most_training_rows']:,} rows are used. How often the guard kept task neurons was "
        "not recorded in the first sets.",
        "",
        *public(rows, classes=False),
        *public(rows, classes=True),
        "Command: `python reproduction/task_public.py`.",
        "",
    ],
    "task_feynman": feynman,
}


def main() -> None:
    lines = ["# Task neurons: tables of the reproduction", ""]
    lines += [
        "What they mean is told [here](../explanation/task-neurons.md); the data and how to run it all, in "
        "`reproduction/README.md`.",
        "",
    ]
    for name, section in SECTIONS.items():
        rows = list(read_results(name).values())
        if rows:
            lines += section(rows)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
