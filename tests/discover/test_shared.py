"""Shared selection: the sheet's tasks and checks, exactness, determinism, numbers of any size."""

import os
import subprocess
import sys

import numpy as np
import pytest

from neuronwise.discover import Candidate, Method, Shared, make_problem
from neuronwise.discover.candidate import predicted
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula

TASKS = {
    "2x^2-3x": (lambda x: 2 * x**2 - 3 * x, {"x", "x**2"}),
    "x^2+x": (lambda x: x**2 + x, {"x", "x**2"}),
    "x^2": (lambda x: x**2, {"x**2"}),
    ".5x^3+1.5x": (lambda x: 0.5 * x**3 + 1.5 * x, {"x", "x**3"}),
    "3x^4-2x^2+5x": (lambda x: 3 * x**4 - 2 * x**2 + 5 * x, {"x", "x**2", "x**4"}),
    "sin3x": (lambda x: np.sin(3 * x), {"sin(3*x)"}),
    "2x": (lambda x: 2 * x, {"x"}),
}


def uniform(n=1000, d=5, seed=0, width=1.0):
    return np.random.default_rng(seed).uniform(-width, width, (n, d))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", TASKS)
def test_the_terms_are_found_exactly(name, seed):
    function, wanted = TASKS[name]
    X = uniform(seed=seed)
    best = Shared().search(make_problem(X, function(X).sum(1) + 0.7))[0]
    assert set(best.terms) == wanted
    assert best.figures["explained"] == pytest.approx(1, abs=1e-12)
    fresh = uniform(seed=seed + 100)
    assert best.predict(fresh) == pytest.approx(function(fresh).sum(1) + 0.7, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_change_them(seed):
    X = uniform(seed=seed)
    y = (2 * X**2 - 3 * X).sum(1)
    y += 0.1 * y.std() * np.random.default_rng(seed + 50).standard_normal(1000)
    assert Shared().search(make_problem(X, y))[0].terms == ("x", "x**2")


def test_the_sheets_least_squares():
    X = np.array([[0, 1], [1, 1], [2, 0], [-1, 1.0]] * 3)
    y = np.array([-1, -2, 2, 4.0] * 3)
    best = Shared().search(make_problem(X, y, bases="x, x**2"))[0]
    found = {str(term.base): term.coefficient for term in best.formula.terms if term.base}
    assert found == {"x": pytest.approx(-3), "x**2": pytest.approx(2)}


def test_powers_of_large_inputs_do_no_harm():
    X = uniform(600, 10, width=50.0)
    y = (X**7).sum(1)
    best = Shared().search(make_problem(X, y, scale="none"))[0]
    assert best.terms == ("x**7",)
    assert best.predict(X) == pytest.approx(y, rel=1e-9)
    both = Shared().search(make_problem(X, y + 1e7 * (X**2).sum(1), scale="none", bases="powers7"))[0]
    assert both.terms == ("x**2", "x**7")


@pytest.mark.parametrize("size", [1e-120, 1e120])
def test_targets_of_any_size(size):
    X = uniform(200)
    best = Shared().search(make_problem(X, size * (X**2 + X).sum(1)))[0]
    assert best.terms == ("x", "x**2")
    assert best.predict(X) == pytest.approx(size * (X**2 + X).sum(1), rel=1e-9, abs=size * 1e-9)


def test_nothing_is_found_in_noise():
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        problem = make_problem(rng.uniform(-1, 1, (300, 5)), rng.standard_normal(300))
        found.append(Shared().search(problem)[0].terms)
    assert sum(terms != () for terms in found) <= 1


def test_a_linear_target_gives_x():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X = rng.uniform(-1, 1, (300, 5))
        y = X.sum(1) + 0.3 * rng.standard_normal(300)
        assert Shared().search(make_problem(X, y))[0].terms == ("x",)


def test_candidates_come_best_first_and_print_simplest_first():
    X = uniform()
    y = (2 * X**2 - 3 * X).sum(1) + 0.3 * np.random.default_rng(1).standard_normal(1000)
    found = Shared().search(make_problem(X, y))
    assert len(found) == 20
    criteria = [one.criterion for one in found[1:]]
    assert criteria == sorted(criteria)
    assert [str(term.base) for term in found[0].formula.terms if term.base] == ["x", "x**2"]
    again = Formula(str(found[0].formula))
    assert np.array_equal(again.evaluate(X), found[0].formula.evaluate(X))


def test_all_sets_are_looked_at_where_there_are_few():
    X = uniform(200)
    found = Shared().search(make_problem(X, (X**3 + X).sum(1) + X[:, 0] ** 2, bases="polynomial"))
    assert len(found) == 20
    every = Shared(exhaustive=0, width=1).search(
        make_problem(X, (X**3 + X).sum(1) + X[:, 0] ** 2, bases="polynomial")
    )
    assert found[0].criterion <= every[0].criterion


def test_classes_and_counts():
    rng = np.random.default_rng(3)
    X = rng.uniform(-2, 2, (1500, 4))
    predictor = 1.5 * (X**2 - 4 / 3).sum(1)
    labels = rng.random(1500) < 1 / (1 + np.exp(-predictor))
    best = Shared().search(make_problem(X, labels))[0]
    assert best.terms == ("x**2",)
    assert best.formula.terms[0].coefficient == pytest.approx(1.5, abs=0.2)
    assert best.predict(X).sum(1) == pytest.approx(1)
    counts = rng.poisson(np.exp(0.4 * predictor))
    best = Shared().search(make_problem(X, counts, task="count"))[0]
    assert best.terms == ("x**2",)
    assert best.formula.terms[0].coefficient == pytest.approx(0.6, abs=0.05)


def test_several_outputs_share_their_terms():
    X = uniform()
    y = np.column_stack([(X**2).sum(1), (X - X**2).sum(1)])
    best = Shared().search(make_problem(X, y))[0]
    assert best.terms == ("x", "x**2")
    assert len(best.outputs) == 2
    assert best.predict(X) == pytest.approx(y, abs=1e-9)
    assert str(best.formula) == "x + x**2"


def test_sample_weights_say_what_counts():
    X = uniform(400)
    y = (X**2).sum(1)
    y[:100] += 50 * np.random.default_rng(0).standard_normal(100)
    weight = np.r_[np.zeros(100), np.ones(300)]
    best = Shared().search(make_problem(X, y, sample_weight=weight))[0]
    assert best.terms == ("x**2",)
    assert best.figures["explained"] == pytest.approx(1, abs=1e-12)


def test_the_same_formula_in_another_process_and_with_another_hash_seed():
    code = """
import numpy as np
from neuronwise.discover import Shared, make_problem
rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (200, 3))
found = Shared().search(make_problem(X, (X**2).sum(1) + rng.standard_normal(200)))
text = str([(str(one.formula), one.criterion) for one in found])
"""
    here: dict[str, str] = {}
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 - it must not have been touched
    exec(code, here)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    there = subprocess.run(
        [sys.executable, "-c", code + "print(text)"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert there.stdout.strip() == here["text"]
    assert "x**2" in here["text"]


def test_settings_are_checked():
    assert isinstance(Shared(), Method)
    for option in ("width", "max_terms"):
        with pytest.raises(InvalidArgumentError, match=option):
            Shared(**{option: 0})
    with pytest.raises(InvalidArgumentError, match="link"):
        predicted(np.zeros((2, 1)), "probit")


def test_a_candidate_by_itself():
    one = Candidate(Formula("x**2 + 1"), 0.0, 3, ("x**2",))
    assert one.predict(np.array([[1.0, 2.0]])).tolist() == [6.0]
    assert one.outputs == (one.formula,)
