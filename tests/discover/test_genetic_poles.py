"""The genetic search and poles between the data: only a law that leaves no error may have one."""

import numpy as np
import pytest

from neuronwise.discover import Genetic, make_problem
from neuronwise.discover._genetic_exact import exact_space
from neuronwise.discover._genetic_finish import Finish
from neuronwise.discover._genetic_island import Member
from neuronwise.discover._genetic_job import Outcome, linearised, spaces_of
from neuronwise.discover._genetic_poles import divisors
from neuronwise.discover._trees import X as VECTOR
from neuronwise.discover._trees import constant, input_of, make, text
from neuronwise.formula import FUNCTIONS, Formula

SMALL = {"population": 60, "generations": 8, "islands": 1, "epochs": 1, "starts": 8}
LEVELS = np.array([-1.2, -0.5, 0.3, 1.1, 1.5, 2.0])  # nothing between 1.1 and 1.5, where a pole can hide
FIRST, SECOND = input_of(0), input_of(1)


def beyond(tree, place=1.32):
    """Return the tree less a constant."""
    return make("+", constant(-place), tree)


def table(power=1, noise=0.02):
    rng = np.random.default_rng(0)
    X = rng.choice(LEVELS, (300, 2))
    y = (X / (X - 1.32) ** power).sum(1)
    return make_problem(X, y + noise * y.std() * rng.normal(size=300), scale="none", task="regression")


@pytest.mark.parametrize("inputs", ["shared", "single"])
@pytest.mark.parametrize("power", [1, 2])
def test_no_candidate_explodes_between_the_rows(inputs, power):
    # Each input by itself from its lowest value to its highest, the other at each of its levels.
    line = np.linspace(-1.2, 2, 4001)
    places = np.concatenate(
        [np.stack([line, np.full(4001, level)][::step], axis=1) for level in LEVELS for step in (1, -1)]
    )
    problem = table(power)
    for one in Genetic(inputs=inputs, **SMALL).search(problem):
        largest = 10 * np.abs(one.predict(problem.X)).max()
        assert np.abs(one.formula.evaluate(places)).max() < largest, str(one.formula)


def test_they_are_allowed_on_request():
    tree = make("/", VECTOR, beyond(VECTOR))
    for poles in (False, True):
        finish = Finish(Genetic(poles=poles, **SMALL), table())
        finish.add([Outcome([], [Member((tree,), 0.01, -4.0, 8, pole=not poles)], 1, 0.01)])
        found = any("1.3" in str(one.formula) for one in finish.candidates())
        assert found == poles


@pytest.mark.parametrize("law", ["x[1]/x[0]", "x[1]/(x[0] - x[1])"])
def test_a_law_without_error_may_have_one(law):
    X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    problem = make_problem(X, Formula(law).evaluate(X), scale="none", task="regression")
    best = Genetic(inputs="single", **SMALL).search(problem)[0]
    assert best.figures["explained"] > 1 - 1e-10
    wide = np.random.default_rng(1).uniform(2, 3, (200, 2)) * [1, -1]
    np.testing.assert_allclose(best.formula.evaluate(wide), Formula(law).evaluate(wide), rtol=1e-6)


def test_a_pole_outside_the_data_is_fine():
    X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    clean = (1 / (1.3 + X)).sum(1)
    problem = make_problem(X, clean + 0.01 * np.random.default_rng(1).normal(size=300), task="regression")
    best = Genetic(**SMALL).search(problem)[0]
    assert "/" in str(best.formula)
    assert best.figures["explained"] > 0.995


class TestHasPole:
    @pytest.mark.parametrize(
        ("tree", "pole"),
        [
            (make("/", VECTOR, beyond(VECTOR)), True),
            (make("/", VECTOR, make("square", beyond(VECTOR))), True),
            (make("/", VECTOR, make("*", make("exp", VECTOR), beyond(VECTOR))), True),
            (make("sin", make("/", VECTOR, beyond(VECTOR))), True),
            (make("tan", VECTOR), True),
            (make("/", VECTOR, beyond(VECTOR, 7.0)), False),
            (make("/", VECTOR, make("+", constant(1.0), make("square", VECTOR))), False),
            (make("*", VECTOR, beyond(VECTOR)), False),
            (make("tan", make("*", constant(0.1), VECTOR)), False),
        ],
        ids=lambda value: text(value) if not isinstance(value, bool) else "",
    )
    def test_on_the_grid_and_on_the_data(self, tree, pole):
        problem = table()
        grid, _ = spaces_of(Genetic(scalars=0), problem, None)
        with np.errstate(all="ignore"):
            assert grid.has_pole(tree) == pole
            assert exact_space(linearised(problem, None), FUNCTIONS).has_pole(tree) == pole

    def test_only_within_the_range_of_an_input(self):
        rng = np.random.default_rng(0)
        X = np.stack([rng.uniform(0, 1, 300), rng.uniform(5, 6, 300)], axis=1)
        problem = make_problem(X, X.sum(1), scale="none")
        for space in (
            spaces_of(Genetic(), problem, None)[0],
            exact_space(linearised(problem, None), FUNCTIONS),
        ):
            assert not space.has_pole(make("/", VECTOR, beyond(VECTOR, 3.0)))
            assert space.has_pole(make("/", VECTOR, beyond(VECTOR, 5.5)))

    def test_of_single_inputs(self):
        X = np.stack([np.linspace(1, 2, 50), np.linspace(-1, 1, 50)], axis=1)
        space = exact_space(linearised(make_problem(X, X[:, 0], scale="none"), None), FUNCTIONS)
        assert space.has_pole(make("/", FIRST, SECOND))
        assert not space.has_pole(make("/", SECOND, FIRST))
        assert not space.has_pole(make("/", SECOND, make("-", FIRST, SECOND)))  # 1 - (-1) down to 2 - 1
        assert space.has_pole(make("/", SECOND, make("-", FIRST, make("*", constant(3.0), SECOND))))

    def test_divisors_are_looked_at_factor_by_factor(self):
        tree = make("/", FIRST, make("*", make("square", SECOND), make("exp", FIRST)))
        assert {part.key for part in divisors(tree)} == {"x[1]"}
        assert not list(divisors(make("*", FIRST, SECOND)))
