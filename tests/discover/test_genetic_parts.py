"""The parts of the genetic search: trees, compression, fitness, tuning, variation."""

import pickle
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from neuronwise.discover import Genetic, make_problem
from neuronwise.discover import _genetic_island as island_module
from neuronwise.discover._genetic_bases import forms_of, with_bases
from neuronwise.discover._genetic_exact import exact_space
from neuronwise.discover._genetic_island import Island, select
from neuronwise.discover._genetic_job import IslandJob, linearised, spaces_of
from neuronwise.discover._genetic_published import grown
from neuronwise.discover._genetic_space import (
    Linearised,
    curve_space,
    grid_of,
    interpolation,
    residual_squares,
)
from neuronwise.discover._genetic_tune import constants_of, rounded, tuned
from neuronwise.discover._genetic_variation import Grammar, cross, mutate, seedling
from neuronwise.discover._trees import Node, X, constant, evaluate, make, skeleton, terms_of, text, walk
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import FUNCTIONS, Base, Formula, Function, with_functions

GRAMMAR = Grammar(("sin", "exp", "tanh", "log"), 0.3, 20, 4)


def problem(formula="2*x**2 - 3*x", n=200, d=3, noise=0.0):
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (n, d))
    y = Formula(formula).evaluate(inputs)
    return make_problem(inputs, y + noise * rng.normal(size=n), task="regression", scale="none")


def plain(formula="2*x**2 - 3*x", **kwargs):
    return linearised(problem(formula, **kwargs), None)


def test_trees_fold_constants_and_neutral_elements():
    assert make("*", X, constant(1)).key == "x"
    assert make("+", make("+", X, constant(2)), constant(-2)).key == "x"
    assert make("-", X, X).key == constant(0).key
    assert make("*", X, X).key == "square(x)"
    assert (
        make("sin", make("*", constant(-2), X)).key
        == make("*", constant(-1), make("sin", make("*", X, constant(2)))).key
    )
    assert make("cos", make("*", constant(-2), X)).key == make("cos", make("*", constant(2), X)).key
    with pytest.raises(TypeError, match="sum the vector first"):
        make("*", X, make("sum", X))


def test_canonical_form_means_the_same_number():
    rng, points = Random(3), np.linspace(0.3, 1.7, 9)
    with np.errstate(all="ignore"):
        for _ in range(300):
            raw = grown(rng, 4)

            def built(node):
                return make(node.op, *map(built, node.args)) if node.args else node

            assert np.allclose(evaluate(built(raw), points, {}), evaluate(raw, points, {}), rtol=1e-9)


def test_text_reads_back_as_the_same_function():
    rng, inputs = Random(1), np.random.default_rng(0).uniform(0.2, 1.5, (20, 3))
    space = exact_space(Linearised(inputs, np.zeros((20, 1)), np.ones(20)), FUNCTIONS)
    checked = 0
    with np.errstate(all="ignore"):
        for _ in range(300):
            for term in seedling(GRAMMAR, rng):
                wanted = space.raw(term)
                if np.isfinite(wanted).all() and np.abs(wanted).max() < 1e6:
                    assert np.allclose(
                        Formula(f"1.5*({text(term)})").evaluate(inputs), 1.5 * wanted, rtol=1e-9
                    )
                    checked += 1
    assert checked > 200


def test_variation_stays_within_the_types_and_limits():
    rng = Random(0)
    pool = [seedling(GRAMMAR, rng) for _ in range(50)]
    for _ in range(1500):
        child = cross(rng.choice(pool), rng.choice(pool), GRAMMAR, rng)
        child = mutate(child, GRAMMAR, rng)
        assert len(child) <= GRAMMAR.max_terms
        for term in child:
            assert term.size <= GRAMMAR.max_size and term.kind in ("vector", "scalar")
            for node in walk(term):
                kinds = {arg.kind for arg in node.args}
                assert not {"vector", "scalar"} <= kinds
        pool[rng.randrange(50)] = child


def test_skeletons_and_pickles():
    tree = make("sin", make("*", constant(3.7), X))
    assert skeleton(tree) == "sin(*(c,x))"
    assert pickle.loads(pickle.dumps(tree)) == tree
    assert [term.key for term in terms_of(make("+", make("*", constant(2), tree), constant(4)))] == [tree.key]
    assert [term.key for term in terms_of(make("-", tree, X))] == [tree.key, "x"]


def test_interpolation_sums_over_inputs():
    inputs = np.random.default_rng(0).uniform(-2, 2, (50, 4))
    points = grid_of(inputs, 128)
    weights = interpolation(inputs, points)
    assert np.allclose(weights @ np.sin(3 * points), np.sin(3 * inputs).sum(1), atol=1e-7)
    few = np.round(inputs)
    assert (interpolation(few, grid_of(few, 128)) @ np.abs(grid_of(few, 128)) == np.abs(few).sum(1)).all()


@pytest.mark.parametrize("n", [40, 127, 129, 500])
def test_compressed_errors_are_those_of_the_data(n):
    data = plain("exp(x)", n=n, noise=0.3)
    weighted = Linearised(data.X, data.response, np.random.default_rng(1).uniform(0.5, 2, n))
    individuals = [(), (X,), (make("square", X), X), (make("sin", make("*", constant(3), X)),)]
    compressed = curve_space(weighted, grid_of(weighted.X, 128), FUNCTIONS).errors(individuals)
    exact = exact_space(weighted, FUNCTIONS).errors(individuals)
    columns = [
        np.ones((n, 1)),
        *[
            np.column_stack([np.ones(n), *(exact_space(weighted, FUNCTIONS).raw(t) for t in terms)])
            for terms in individuals[1:]
        ],
    ]
    root = np.sqrt(weighted.weight)[:, None]
    wanted = [np.linalg.lstsq(c * root, weighted.response * root, rcond=None)[1][0] for c in columns]
    assert np.allclose(exact, wanted, rtol=1e-9)
    assert np.allclose(compressed, wanted, rtol=1e-6)


def test_least_squares_of_many_flags_dependent_columns():
    columns = np.random.default_rng(0).normal(size=(3, 2, 20))
    columns[1, 1] = 2 * columns[1, 0]
    columns /= np.linalg.norm(columns, axis=2, keepdims=True)
    errors = residual_squares(columns, np.ones((1, 20)))
    assert np.isinf(errors[1]) and np.isfinite(errors[[0, 2]]).all()
    assert np.isclose(errors[0], np.linalg.lstsq(columns[0].T, np.ones(20), rcond=None)[1][0])


def test_undefined_and_constant_terms_are_worthless():
    space = exact_space(plain(), FUNCTIONS)
    with np.errstate(all="ignore"):
        errors = space.errors([(make("log", X),), (make("/", constant(1), make("-", X, X)),), (X,)])
    assert np.isinf(errors[:2]).all() and np.isfinite(errors[2])


def test_tuning_finds_a_constant_and_rounding_writes_it_short():
    space = exact_space(plain("sin(3.7*x)"), FUNCTIONS)
    start = (make("sin", make("*", constant(3.2), X)),)
    better, error = tuned(start, space, steps=12, starts=0, rng=Random(0))
    assert error < 1e-20 * space.total
    assert constants_of(rounded(better, space, rows=200)[0]) == [3.7]


def island(published=False, **settings):
    made = Genetic.published() if published else Genetic(**{"population": 60, **settings})
    asked = problem(noise=0.1)
    spaces = spaces_of(made, asked, None)
    grammar = Grammar(made.functions, made.scalars, made.max_size, made.max_terms)
    return Island(made, grammar, spaces, 1, asked.n, asked.d)


@pytest.mark.parametrize("published", [False, True])
def test_selection_sees_each_individuals_own_fitness(published, monkeypatch):
    """The published code and two of its successors choose parents by the fitness of others (correlation about 0)."""
    seen = []

    def spying(population, tournament, rng, **kwargs):
        chosen = select(population, tournament, rng, **kwargs)
        seen.extend(population)
        return chosen

    monkeypatch.setattr(island_module, "select", spying)
    one = island(published)
    one.run(4)
    used, own = [], []
    fresh = island(published)
    with np.errstate(all="ignore"):
        for member in {id(member): member for member in seen}.values():
            if np.isfinite(member.fitness):
                used.append(member.fitness)
                own.append(fresh._judge([member.terms])[0].fitness)
    assert len(used) > 100
    assert np.allclose(used, own, rtol=1e-6, atol=1e-9)
    assert np.corrcoef(used, own)[0, 1] == pytest.approx(1, abs=1e-9)


def test_tournament_returns_the_fittest_drawn():
    one = island()
    one.run(1)
    population = [member for member in one.population if np.isfinite(member.fitness)]
    best = min(member.fitness for member in population)
    assert select(population, 5000, Random(0)).fitness == best
    wins = [select(population, 4, Random(seed)).fitness for seed in range(300)]
    assert np.mean(wins) < np.mean([member.fitness for member in population])


def test_published_fitness_is_the_plain_mean_square_with_the_constant_once():
    one = island(published=True)
    tree = Node("+", (Node("*", (X, X)), constant(5.0)))
    member = one._judge([(tree,)])[0]
    inputs, y = problem(noise=0.1).X, problem(noise=0.1).y
    squares = ((y - y.mean()) ** 2).sum()
    assert np.isclose(member.error * squares, ((y - y.mean() - (inputs**2).sum(1) - 5) ** 2).sum(), rtol=1e-6)


def test_outcomes_survive_a_checkpoint():
    asked = problem(noise=0.1)
    job = IslandJob(Genetic(population=20), asked, 0, 2, None, [[], []])
    state = job.start()
    assert job.run(state, (0, 0, 1))
    again = job.restore(job.dump(state))
    assert again[0].population == state[0].population and again[0].evaluations == state[0].evaluations
    assert [one.key for one in again[0].front] == [one.key for one in state[0].front]
    assert all(value.dtype == torch.uint8 for value in job.dump(state).values())
    assert job.fingerprint() != IslandJob(Genetic(population=21), asked, 0, 2, None, [[], []]).fingerprint()


def test_memory_is_bounded_and_does_not_change_results():
    def run(memory):
        one = island()
        for space in one.spaces:
            space.memory = memory
        one.run(5)
        return one, [member.key for member in one.population]

    small, keys = run(20_000)
    assert len(small.spaces[0]._values) * 128 < 40_000 + 200 * 128
    assert keys == run(8_000_000)[1]


def given(bases, formula="2*x**2 - 3*x"):
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 1, (200, 3))
    return make_problem(
        inputs, Formula(formula).evaluate(inputs), task="regression", scale="none", bases=bases
    )


def test_base_functions_that_were_given_are_the_functions_of_trees():
    settings = Genetic(islands=1, population=30, generations=4, epochs=1, starts=4)
    assert with_bases(settings, given("default")) is settings
    assert with_bases(settings, given("x, sin(3*x), tanh(x)**2")).functions == ("sin", "tanh")
    assert with_bases(settings, given("polynomial")).functions == ()
    assert with_bases(replace(settings, functions=("exp",)), given("sin(x)")).functions == ("exp", "sin")
    swish = Function.from_expression("swish", "x*sigmoid(x)")
    own = with_bases(settings, given([Base("swish(x)", functions=with_functions(swish))]))
    assert (own.functions, own.extra) == (("swish",), (swish,))
    # sin and exp are among the default functions, and would fit this better than any polynomial.
    short = replace(settings, generations=1, catalogue=False)
    for one in short.search(given("x, x**2, x**3", "sin(3*x) + exp(-x)")):
        assert not any(name in str(one.formula) for name in FUNCTIONS), str(one.formula)


def test_base_functions_that_were_given_are_starting_forms():
    trees = forms_of(given("x, x**5, sin(2*x - 1), 1/(1 + x**2), x**-2, abs(x)**0.5, -x*exp(x)"))
    points = np.linspace(0.5, 1.5, 7)
    for tree in trees:
        assert np.isfinite(evaluate(tree, points, FUNCTIONS)).all()
    wanted = {"x", "x**5", "sin(2*x - 1)", "1/(1 + x**2)", "x**(-2)", "-x*exp(x)"}
    values = {tuple(evaluate(tree, points, FUNCTIONS).round(9)) for tree in trees}
    assert values == {tuple(Base(text)(points).round(9)) for text in wanted}
    assert forms_of(given("default")) == []
    # A form that nothing else would find in so short a search.
    law = "tanh(3.1*x**3 - sin(2.3*x + 0.4))"
    short = Genetic(islands=1, population=10, generations=1, epochs=1, starts=0, catalogue=False)
    assert short.search(given(["x", law], law))[0].figures["explained"] > 1 - 1e-9


def test_the_published_search_refuses_base_functions():
    with pytest.raises(InvalidArgumentError, match="uses no base functions"):
        Genetic.published().search(given("x, x**2"))
