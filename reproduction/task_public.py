"""Public regression and classification sets, fixed folds: linear, quadratic, task neurons and trees, tuned alike."""

from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, folder_of, work_through
from sklearn.model_selection import KFold, StratifiedKFold

from neuronwise.estimators import compare

FOLDS = 10
LEARNERS = (
    "linear",
    "quadratic",
    "task",
    "task_matched",
    "guarded",
    "linear_model",
    "boosted_trees",
)
FILES = {"uci_regression": False, "more_regression": False, "uci_classification": True}


def names_in(folder: Path) -> list[tuple[str, str, bool]]:
    """Return every data set: its file, its name, and whether it is one of classes."""
    found = []
    for file, classes in FILES.items():
        with np.load(folder / "tabular" / f"{file}.npz") as arrays:
            found += [
                (file, name.removesuffix("_X"), classes) for name in arrays.files if name.endswith("_X")
            ]
    return found


def measure(folder: Path, file: str, name: str, classes: bool, rows: int) -> dict[str, Any]:
    with np.load(folder / "tabular" / f"{file}.npz") as arrays:
        X, y = arrays[f"{name}_X"].astype(np.float64), arrays[f"{name}_y"]
        folds = arrays[f"{name}_fold"] if f"{name}_fold" in arrays.files else None
    if folds is None:
        splitter = (StratifiedKFold if classes else KFold)(FOLDS, shuffle=True, random_state=0)
        folds = np.empty(len(y), dtype=np.int64)
        for number, (_, test) in enumerate(splitter.split(X, y)):
            folds[test] = number
    result = compare(
        X,
        y,
        learners=LEARNERS,
        task="classification" if classes else "regression",
        folds=folds,
        rows=rows,
        tune=3,
        hidden=(32, 16),
        max_epochs=100,
        progress=False,
    )
    means, pairs = result.tables["comparison"], result.tables["comparison_pairs"]
    fits = result.tables["comparison_fits"]
    return {
        "set": name,
        "classes": classes,
        "rows": len(X),
        "most_training_rows": rows,
        "inputs": X.shape[1],
        "metric": result.metric,
        "formula": str(result.discovery.formula),
        "task_formulas": fits[fits["learner"] == "task"]["formula"].value_counts().to_dict(),
        "guard_kept_task": float((fits.loc[fits["learner"] == "guarded", "formula"] != "linear").mean()),
        "means": means[means["metric"] == result.metric].to_dict("records"),
        "pairs": pairs[pairs["metric"] == result.metric].to_dict("records"),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=500, help="Most rows of a training part, for time.")
    asked = parser.parse_args()
    folder = folder_of(asked)
    cases = [
        (name, measure, (folder, file, name, classes, asked.rows)) for file, name, classes in names_in(folder)
    ]
    work_through("task_public", [c for c in cases if not asked.only or c[0] in asked.only], asked.jobs)


if __name__ == "__main__":
    main()
