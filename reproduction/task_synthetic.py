"""The ten synthetic data sets of the paper (arXiv 2405.02369) at three noise levels: search, and networks.

The paper sets one task neuron (10 inputs, 1 output) against a network 10-2-1 of linear neurons. Both are measured here
on ten random splits 8:2, tuned alike and stopped early; beside them a wider linear network.
"""

from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, folder_of, work_through
from sklearn.model_selection import ParameterGrid, ShuffleSplit, train_test_split

from neuronwise.discover import discover
from neuronwise.estimators import TaskNeuronRegressor

NOISE = {"low": 0.05, "medium": 0.15, "high": 0.30}
SPLITS = 10
GRID = ParameterGrid({"learning_rate": (3e-3, 1e-2, 5e-2)})


def decoded(X: np.ndarray, outputs: list[np.ndarray]) -> dict[int, float]:
    """Return the polynomial behind a target: the three noise levels share one noise draw, so two of them give it.

    y = s + eps rms(s) noise with the same noise, so s is a weighted difference of the low and the high one.
    """
    low, high = outputs[0], outputs[2]
    ratio = NOISE["high"] / NOISE["low"]
    clean = (ratio * low - high) / (ratio - 1)
    powers = np.stack([(X**k).sum(1) for k in range(1, 8)], axis=1)
    scaled = powers / np.abs(powers).max(0)
    found, *_ = np.linalg.lstsq(np.column_stack([scaled, np.ones(len(X))]), clean, rcond=None)
    coefficients = found[:-1] / np.abs(powers).max(0)
    return {k: float(c) for k, c in enumerate(coefficients, 1) if abs(round(c, 3)) >= 0.5}


def search(X: np.ndarray, y: np.ndarray, method: str) -> dict[str, Any]:
    found = discover(X, y, method=method, bases="powers7", scale="none", confidence="none", held_out=0.2)
    terms = sorted({str(term.base) for term in found.formula.terms if term.kind == "elementwise"})
    return {"formula": str(found.formula), "terms": terms, "r2": found.figures["r2"]}


def network(X: np.ndarray, y: np.ndarray, formula: Any, hidden: tuple[int, ...]) -> dict[str, Any]:
    """Return the test error of one kind of network over all splits, in standard deviations of the target."""
    errors, parameters = [], 0
    for train, test in ShuffleSplit(SPLITS, test_size=0.2, random_state=0).split(X):
        fitting, kept = train_test_split(train, test_size=0.2, random_state=0)
        best: tuple[float, dict[str, Any]] = (np.inf, {})
        for settings in GRID:
            model = make(formula, hidden, settings).fit(X[fitting], y[fitting])
            best = min(best, (mse(model, X[kept], y[kept]), settings), key=lambda one: one[0])
        model = make(formula, hidden, best[1]).fit(X[train], y[train])
        errors.append(mse(model, X[test], y[test]) / y.var())
        parameters = sum(p.numel() for p in model.module_.parameters())
    return {"errors": errors, "parameters": parameters}


def make(formula: Any, hidden: tuple[int, ...], settings: dict[str, Any]) -> TaskNeuronRegressor:
    return TaskNeuronRegressor(
        formula=formula,
        hidden=hidden,
        guard=False,
        max_epochs=200,
        patience=20,
        batch_size=128,
        random_state=0,
        **settings,
    )


def mse(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((model.predict(X) - y) ** 2))


def measure(path: Path, number: int, noise: str) -> dict[str, Any]:
    with np.load(path) as file:
        X = file["X"].astype(np.float64)
        outputs = [file[f"y_{level}_{number}"].astype(np.float64).ravel() for level in NOISE]
    y = outputs[list(NOISE).index(noise)]
    truth = decoded(X, outputs)
    searches = {method: search(X, y, method) for method in ("shared", "group")}
    neuron = " + ".join(searches["shared"]["terms"]) or "x"
    networks = {
        "linear 10-2-1": network(X, y, "linear", (2,)),
        "linear 10-32-16-1": network(X, y, "linear", (32, 16)),
        "one task neuron": network(X, y, neuron, ()),
    }
    return {"set": number, "noise": noise, "truth": truth, "search": searches, "networks": networks}


def main() -> None:
    asked = arguments(__doc__).parse_args()
    path = folder_of(asked) / "tabular" / "task_neuron_synthetic.npz"
    cases = [
        (f"{noise} {number}", measure, (path, number, noise)) for noise in NOISE for number in range(1, 11)
    ]
    work_through("task_synthetic", [c for c in cases if not asked.only or c[0] in asked.only], asked.jobs)


if __name__ == "__main__":
    main()
