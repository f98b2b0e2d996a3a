import numpy as np
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import Refinement, coarse
from neuronwise.knowledge.selection import adapted_share, shared_by


def enough(share, rule, prompts):
    """The least number of prompts that is enough."""
    counts = np.arange(1, prompts + 1)
    chosen = counts[shared_by(counts, prompts, Refinement(share, rule))]
    return int(chosen[0]) if len(chosen) else None


def test_coarse_neurons_reach_a_part_of_their_own_prompts_largest_score():
    scores = np.array([[1.0, 0.25, 0.24, -2.0], [-1.0, 0.5, 2.0, 0.0], [-1.0, -2.0, 0.0, -0.1]])
    assert coarse(scores, 0.25).tolist() == [
        [True, True, False, False],  # a tie with the threshold is in
        [False, True, True, False],
        [False] * 4,  # where nothing is positive
    ]


@pytest.mark.parametrize(
    ("share", "prompts", "official", "eleuther"),
    [
        (0.7, 10, 7, 8),
        (0.5, 10, 5, 6),
        (0.5, 9, 5, 5),
        (0.1, 10, 3, 2),  # officially at least three prompts
        (0.0, 10, 3, 1),
        (1.0, 5, 5, None),
        (0.7, 2, 2, 2),  # fewer than three prompts: all of them
        (0.1, 1, 1, 1),
        (0.55, 20, 11, 12),  # 11.000000000000002 in binary
        (0.29, 100, 29, 30),  # 28.999999999999996
        (0.7, 30, 21, 22),
    ],
)
def test_how_many_prompts_are_enough(share, prompts, official, eleuther):
    assert enough(share, "official", prompts) == official
    assert enough(share, "eleuther", prompts) == eleuther


def test_shared_by_takes_a_number_of_prompts_for_each_count():
    chosen = shared_by(np.array([3, 3, 3]), np.array([3, 4, 5]), Refinement(0.7))
    assert chosen.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("size", "share", "rounds"),
    [
        (None, 0.7, 0),
        ((3, 5), 0.7, 0),  # four neurons as it is
        ((2, 2), 0.85, 3),  # raised until two are left
        ((6, 7), 0.55, 3),  # lowered until six are in
        ((0, 0), 1.0, 6),  # no share gives none: six rounds at most
        ((50, 60), 0.4, 6),
    ],
)
def test_share_moves_until_the_size_is_reached(size, share, rounds):
    # Of 20 prompts: at 0.7 four neurons (14 and more), at 0.85 two, at 0.55 six.
    counts = np.array([20, 20, 16, 14, 13, 11, 9])
    found = adapted_share([counts], [20], Refinement(0.7, size=size))
    assert found == (pytest.approx(share), rounds)


def test_the_size_is_the_mean_over_the_facts():
    counts = [np.array([10, 10, 10, 10]), np.array([10, 10])]
    assert adapted_share(counts, [10, 10], Refinement(size=(3, 3))) == (0.7, 0)
    assert adapted_share([], [], Refinement(size=(3, 3))) == (0.7, 0)


def test_share_stays_between_0_and_1():
    counts = [np.array([10, 10])]
    assert adapted_share(counts, [10], Refinement(0.95, size=(0, 1))) == (1.0, 1)
    assert adapted_share(counts, [10], Refinement(0.05, size=(3, 4))) == (0.0, 1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"share": 1.1}, "share"),
        ({"share": -0.1}, "share"),
        ({"rule": "most"}, "'official' or 'eleuther'"),
        ({"size": (5, 2)}, "least, most"),
    ],
)
def test_refinements_that_make_no_sense(values, words):
    with pytest.raises(InvalidArgumentError, match=words):
        Refinement(**values)
