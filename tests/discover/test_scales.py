"""Inner scales: found where the data ask for them, and kept out where plain functions do."""

import numpy as np
import pytest

from neuronwise.discover import Group, Scales, Shared, make_problem
from neuronwise.errors import InvalidArgumentError


def problem(function, *, shared=True, n=400, d=3, seed=0, noise=0.05, width=2.0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-width, width, (n, d))
    y = function(X).sum(1) if shared else function(X) @ rng.standard_normal(d)
    return make_problem(X, y + noise * y.std() * rng.standard_normal(n))


@pytest.mark.parametrize("of", [Shared(), Group()])
def test_a_scale_between_those_of_the_library_is_found(of):
    best = Scales(of=of).search(problem(lambda x: np.sin(3.7 * x), shared=of.name == "shared"))[0]
    assert len(best.terms) == 1
    assert best.terms[0].startswith("sin(3.")
    scale = float(best.terms[0][4:-3])
    assert scale == pytest.approx(3.7, rel=0.01)


@pytest.mark.parametrize(
    ("function", "terms"),
    [
        (lambda x: 2 * x**2 - 3 * x, {"x", "x**2"}),
        (lambda x: np.exp(-x) + 0.4 * x**2, {"exp(-x)", "x**2"}),
        (lambda x: np.cos(3 * x) + 0.7 * x, {"cos(3*x)", "x"}),
    ],
)
def test_plain_functions_are_not_replaced(function, terms):
    assert set(Scales(of=Shared()).search(problem(function))[0].terms) == terms


def test_nothing_is_found_in_noise():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (200, 3))
    assert Scales(of=Shared()).search(make_problem(X, rng.standard_normal(200)))[0].terms == ()


def test_a_refit_keeps_the_scale():
    whole = problem(lambda x: np.sin(3.7 * x))
    method = Scales(of=Shared())
    found = method.search(whole.take(np.arange(250)))[0]
    again = method.refit(whole, found)
    assert again.terms == found.terms
    assert again.figures["rows"] == 400


@pytest.mark.parametrize("options", [{"low": 0}, {"low": 7.0}, {"collinear": 0}])
def test_settings_are_checked(options):
    with pytest.raises(InvalidArgumentError):
        Scales(**options)
