import math

import numpy as np
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import jaccard, r1_squared


@pytest.mark.parametrize(
    ("rows", "value"),
    [
        ([[1, 0], [1, 1]], 0.707107),
        (np.eye(3), 0.0),
        ([[2, 1], [2, 1], [4, 2]], 1.0),
        ([[1, 0, 0], [1, 1, 0], [1, 1, 1]], 0.702575),
    ],
)
def test_r1_squared_of_the_published_checks(rows, value):
    assert r1_squared(rows) == pytest.approx(value, abs=5e-7)


def test_r1_squared_of_two_vectors_is_their_cosine_without_its_sign():
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert r1_squared([a, -5 * b]) == pytest.approx(abs(cosine), abs=1e-12)


def test_r1_squared_leaves_zero_vectors_out():
    assert r1_squared([[1, 0], [0, 0], [1, 1]]) == pytest.approx(r1_squared([[1, 0], [1, 1]]))
    assert math.isnan(r1_squared([[1, 0], [0, 0]]))
    with pytest.raises(InvalidArgumentError, match="matrix"):
        r1_squared([1.0, 2.0])


def test_jaccard():
    assert jaccard([{1, 2, 3}, {2, 3, 4}]) == pytest.approx(2 / 4)
    assert jaccard([{1}, {1}, {2}]) == pytest.approx(1 / 3)
    assert jaccard([set(), set()]) == 1 and jaccard([set(), {1}]) == 0
    assert math.isnan(jaccard([{1}]))
