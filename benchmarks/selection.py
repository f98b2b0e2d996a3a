"""Recovery and speed of shared and group selection; tnlearn's search beside them.

The cases called *sheet* are those on which the method was built; *fresh* ones were drawn up after every setting was
frozen, and are never used to change one. All targets but the null ones are made of base functions of the library.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from harness import write
from numpy.typing import NDArray

from neuronwise.discover import Group, Method, Shared, make_problem
from neuronwise.formula import Base

Array = NDArray[np.float64]

SHARED: dict[str, tuple[Callable[[Array], Array], set[str], float]] = {
    "2x^2-3x": (lambda x: 2 * x**2 - 3 * x, {"x", "x**2"}, 0.0),
    "x^2+x": (lambda x: x**2 + x, {"x", "x**2"}, 0.0),
    "x^2": (lambda x: x**2, {"x**2"}, 0.0),
    ".5x^3+1.5x+.7": (lambda x: 0.5 * x**3 + 1.5 * x, {"x", "x**3"}, 0.0),
    "3x^4-2x^2+5x": (lambda x: 3 * x**4 - 2 * x**2 + 5 * x, {"x", "x**2", "x**4"}, 0.0),
    "sin3x": (lambda x: np.sin(3 * x), {"sin(3*x)"}, 0.0),
    "2x^2-3x, 10 % noise": (lambda x: 2 * x**2 - 3 * x, {"x", "x**2"}, 0.1),
    "2x": (lambda x: 2 * x, {"x"}, 0.0),
}
SHEET = [("x**2",), ("sin(3*x)",), ("x", "x**2"), ("x**2", "x**4"), ("x", "sin(3*x)"), ("abs(x)", "x**3")]
FRESH = [
    ("x**3",),
    ("tanh(2*x)",),
    ("relu(x)",),
    ("x", "cos(3*x)"),
    ("x**2", "sin(2*x)"),
    ("x", "log(1 + x**2)"),
    ("exp(-x)", "abs(x)"),
    ("x**3", "1/(1 + x**2)"),
]
INPUTS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "uniform(-1, 1)": lambda rng, n, d: rng.uniform(-1, 1, (n, d)),
    "uniform(-2, 2)": lambda rng, n, d: rng.uniform(-2, 2, (n, d)),
    "normal": lambda rng, n, d: rng.standard_normal((n, d)),
}


def noisy(y: Array, share: float, rng: np.random.Generator) -> Array:
    return y + share * y.std() * rng.standard_normal(len(y))


def shared_tasks() -> dict[str, object]:
    figures: dict[str, object] = {}
    for name, (function, wanted, noise) in SHARED.items():
        exact, seconds = 0, []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            X = rng.uniform(-1, 1, (1000, 5))
            problem = make_problem(X, noisy(function(X).sum(1) + 0.7, noise, rng))
            runs = []
            for _ in range(3):
                start = time.perf_counter()
                best = Shared().search(problem)[0]
                runs.append(time.perf_counter() - start)
            seconds.append(min(runs))
            exact += set(best.terms) == wanted
        figures[name] = {"exact": exact, "of": 5, "slowest": max(seconds)}
        print(name, figures[name], flush=True)
    return figures


def shared_large() -> dict[str, object]:
    X = np.random.default_rng(0).uniform(-1, 1, (20_000, 100))
    y = (2 * X**2 - 3 * X).sum(1)
    posing, searching = [], []
    for _ in range(3):
        start = time.perf_counter()
        problem = make_problem(X, y)
        middle = time.perf_counter()
        best = Shared().search(problem)[0]
        posing.append(middle - start)
        searching.append(time.perf_counter() - middle)
    return {
        "terms": best.terms,
        "rows": 20_000,
        "inputs": 100,
        "checking": min(posing),
        "searching": min(searching),
    }


def target_of(bases: Sequence[str], X: Array, noise: float, rng: np.random.Generator) -> Array:
    """Random signed weights for every input and base function."""
    total = sum(Base(base)(X) @ rng.standard_normal(X.shape[1]) for base in bases)
    return noisy(np.asarray(total), noise, rng)


def group_cases(
    cases: Sequence[tuple[str, ...]],
    dims: Sequence[int],
    seeds: Sequence[int],
    *,
    n: int,
    noise: float,
    inputs: str,
    methods: Sequence[Method] = (Group(), Shared()),
) -> dict[str, object]:
    exact = {method.name: 0 for method in methods}
    misses, slowest, runs = [], 0.0, 0
    for d in dims:
        for case in cases:
            for seed in seeds:
                rng = np.random.default_rng([seed, d, len(case[0])])
                X = INPUTS[inputs](rng, n, d)
                problem = make_problem(X, target_of(case, X, noise, rng))
                runs += 1
                for method in methods:
                    start = time.perf_counter()
                    best = method.search(problem)[0]
                    if method.name == "group":
                        slowest = max(slowest, time.perf_counter() - start)
                        if set(best.terms) != set(case):
                            misses.append({"d": d, "case": case, "seed": seed, "found": best.terms})
                    exact[method.name] += set(best.terms) == set(case)
    figures = {"exact": exact, "of": runs, "misses": misses, "slowest": slowest}
    print(inputs, {key: figures[key] for key in ("exact", "of", "slowest")}, flush=True)
    return figures


def null_targets(number: int) -> dict[str, object]:
    """Targets that do not depend on the inputs: how often is anything found?"""
    figures: dict[str, object] = {}
    for method in (Shared(), Group()):
        for n, d in ((100, 5), (1000, 5), (1000, 20)):
            found: list[tuple[str, ...]] = []
            for seed in range(number):
                rng = np.random.default_rng([seed, n, d])
                X = rng.uniform(-1, 1, (n, d))
                terms = method.search(make_problem(X, rng.standard_normal(n), task="regression"))[0].terms
                found += [terms] if terms else []
            figures[f"{method.name} n={n} d={d}"] = {"found": len(found), "of": number, "terms": found}
            print(method.name, n, d, len(found), number, flush=True)
    return figures


def linear_targets(number: int) -> dict[str, object]:
    """Linear targets with noise: how often is exactly `x` returned?"""
    figures: dict[str, object] = {}
    for method in (Shared(), Group()):
        right = 0
        for seed in range(number):
            rng = np.random.default_rng([seed, 7])
            X = rng.uniform(-1, 1, (500, 5))
            weights = np.ones(5) if method.name == "shared" else rng.standard_normal(5)
            problem = make_problem(X, noisy(X @ weights, 0.3, rng))
            right += method.search(problem)[0].terms == ("x",)
        figures[method.name] = {"linear": right, "of": number}
        print("linear", method.name, right, number, flush=True)
    return figures


def labels_and_counts(number: int) -> dict[str, object]:
    """Classes and counts drawn from formulas: the right set?"""
    figures: dict[str, object] = {}
    for task in ("binary", "three classes", "counts"):
        exact, slowest = 0, 0.0
        for seed in range(number):
            rng = np.random.default_rng([seed, 11])
            X = rng.uniform(-2, 2, (2000, 5))
            case = SHEET[seed % 3]
            if task == "three classes":
                predictors = np.column_stack([2 * standard(target_of(case, X, 0, rng)) for _ in range(3)])
                y = np.argmax(predictors + rng.gumbel(size=predictors.shape), axis=1)
            else:
                predictor = standard(target_of(case, X, 0, rng))
                odds = 1 / (1 + np.exp(-3 * predictor))
                y = rng.random(2000) < odds if task == "binary" else rng.poisson(np.exp(predictor))
            problem = make_problem(X, y, task="count" if task == "counts" else "classification")
            start = time.perf_counter()
            best = Group().search(problem)[0]
            slowest = max(slowest, time.perf_counter() - start)
            exact += set(best.terms) == set(case)
        figures[task] = {"exact": exact, "of": number, "slowest": slowest}
        print(task, figures[task], flush=True)
    return figures


def standard(values: Array) -> Array:
    return (values - values.mean()) / values.std()


def tnlearn() -> dict[str, object]:
    """tnlearn's genetic search on 2x^2-3x, at 200 individuals and 20 generations."""
    import contextlib
    import io
    from importlib.metadata import version

    from tnlearn import VecSymRegressor

    runs = []
    for seed in range(3):
        X = np.random.default_rng(seed).uniform(-1, 1, (1000, 5))
        y = (2 * X**2 - 3 * X).sum(1)
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            searcher = VecSymRegressor(random_state=seed, pop_size=200, max_generations=20)
            searcher.fit(X, y)
        runs.append({"formula": str(searcher.neuron), "seconds": time.perf_counter() - start})
        print("tnlearn", runs[-1], flush=True)
    return {
        "version": version("tnlearn"),
        "task": "2x^2-3x",
        "population": 200,
        "generations": 20,
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="run tnlearn, too (minutes; needs it installed)")
    peers = parser.parse_args().peers
    figures: dict[str, object] = {"shared": shared_tasks(), "shared_large": shared_large()}
    figures["group_sheet"] = group_cases(
        SHEET, (5, 20, 50), range(5), n=1000, noise=0.05, inputs="uniform(-1, 1)"
    )
    figures["group_fresh"] = {
        name: group_cases(FRESH, (4, 12, 30), range(100, 103), n=800, noise=0.1, inputs=name)
        for name in ("uniform(-2, 2)", "normal")
    }
    figures["null"] = null_targets(200)
    figures["linear"] = linear_targets(100)
    figures["likelihood"] = labels_and_counts(15)
    if peers:
        figures["tnlearn"] = tnlearn()
    write("selection", figures)


if __name__ == "__main__":
    main()
