"""Fit time of the estimators beside scikit-learn's MLP and tnlearn's, at the same rows, epochs, batch and widths."""

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import interleaved, write
from sklearn.neural_network import MLPRegressor

from neuronwise.estimators import TaskNeuronRegressor

ROWS, INPUTS, HIDDEN, BATCH = 10_000, 20, (32, 16), 200
FORMULA = "x**2 + x"

TNLEARN = """
import json, sys, time
import numpy as np
import torch
torch.set_num_threads({threads})
from tnlearn import MLPRegressor
data = np.load({path!r})
model = MLPRegressor(neurons="x**2+x", layers_list=list({hidden}), max_iter={epochs}, batch_size={batch})
start = time.perf_counter()
model.fit(data["X"], data["y"])
print("SECONDS", time.perf_counter() - start)
"""


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, INPUTS))
    y = X**2 @ rng.normal(size=INPUTS) + X @ rng.normal(size=INPUTS) + 0.5 * rng.normal(size=ROWS)
    return X, y


def ours(formula: str, epochs: int, *, guard: bool = False) -> TaskNeuronRegressor:
    return TaskNeuronRegressor(
        formula,
        guard=guard,
        hidden=HIDDEN,
        batch_size=BATCH,
        max_epochs=epochs,
        patience=epochs,
        validation_fraction=0.1,
        learning_rate=1e-3,
    )


def theirs(epochs: int) -> MLPRegressor:
    return MLPRegressor(
        hidden_layer_sizes=HIDDEN,
        batch_size=BATCH,
        max_iter=epochs,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=epochs + 1,
        tol=0.0,
        random_state=0,
    )


def tnlearn(python: str, epochs: int, threads: int, folder: Path) -> float:
    X, y = data()
    path = folder / "estimators_data.npz"
    np.savez(path, X=X.astype(np.float32), y=y.astype(np.float32))
    try:
        code = TNLEARN.format(threads=threads, path=str(path), hidden=HIDDEN, epochs=epochs, batch=BATCH)
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    finally:
        path.unlink()
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    line = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
    return float(line.split()[1])


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", help="python with tnlearn 0.2.0; without it tnlearn is left out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    X, y = data()
    fits = {
        "sklearn": lambda: theirs(options.epochs).fit(X, y),
        "linear": lambda: ours("linear", options.epochs).fit(X, y),
        "task": lambda: ours(FORMULA, options.epochs).fit(X, y),
        "auto": lambda: ours("auto", options.epochs).fit(X, y),
    }
    seconds = interleaved(fits, repeats=options.repeats, warm_up=1)
    best = {name: min(values) for name, values in seconds.items()}
    best["auto_with_guard"] = timed(lambda: ours("auto", options.epochs, guard=True).fit(X, y))
    figures: dict[str, Any] = {
        "setting": {"rows": ROWS, "inputs": INPUTS, "hidden": HIDDEN, "batch": BATCH, "epochs": options.epochs,
                    "threads": options.threads, "formula": FORMULA},
        "seconds": best,
        "relative_to_sklearn": {name: value / best["sklearn"] for name, value in best.items()},
    }  # fmt: skip
    if options.peer:
        epochs = 2  # it takes long; the ratio is by epoch
        each = tnlearn(options.peer, epochs, options.threads, Path(__file__).parent) / epochs
        figures["tnlearn_seconds_per_epoch"] = each
        figures["tnlearn_slower"] = each / (best["task"] / options.epochs)
    print(json.dumps(figures, indent=2))
    write("estimators", figures)


if __name__ == "__main__":
    sys.exit(main())
