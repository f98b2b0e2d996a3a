"""Islands as blocks of an engine's work: the same populations whichever engine runs them, with however many workers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuronwise.discover._deviance import likelihood_of
from neuronwise.discover._genetic_bases import forms_of
from neuronwise.discover._genetic_exact import ExactSpace, exact_space
from neuronwise.discover._genetic_island import Island, Member
from neuronwise.discover._genetic_products import product_forms
from neuronwise.discover._genetic_space import Linearised, Space, curve_space, grid_of, row_space
from neuronwise.discover._genetic_variation import Grammar, Individual, catalogue
from neuronwise.discover._trees import Node, X, input_of
from neuronwise.discover.problem import SearchProblem
from neuronwise.engine import Block

if TYPE_CHECKING:
    from neuronwise.discover.genetic import Genetic

__all__ = ["IslandJob", "Outcome", "linearised", "seed_of"]

Array = NDArray[np.float64]

_ROWS = 500  # rows that scalar terms are fitted on during the search
_SINGLE_SIZE = 2  # how much larger trees may be where each input is a leaf of its own
_MIGRANTS = 0.25  # share of a population that the next epoch goes on from
_EXPLAINED = (
    1e-6  # unexplained share, each degree of freedom counted, below which vector terms are all there is
)
_SMALLEST = 1e-3  # variance of a class or count in a linearisation, so that no row has all the weight


@dataclass
class Outcome:
    """What an island ends with.

    Args:
        population: Its best individuals, the best first.
        front: The best member of each size, and of those with a pole.
        evaluations: Individuals that were fitted.
        error: The smallest unexplained share.
    """

    population: list[Individual]
    front: list[Member]
    evaluations: int
    error: float


@dataclass
class IslandJob:
    """One epoch on every island. Blocks count islands.

    Args:
        settings: The search's settings.
        problem: The problem.
        epoch: Which epoch it is; islands draw other numbers in each.
        generations: Generations of this epoch.
        seconds: Seconds for each island, or None.
        populations: What each island goes on from; empty lists at the start.
        predictor: Where classes and counts are linearised ``(n, 1)``; None: the model without terms.
    """

    settings: Genetic
    problem: SearchProblem
    epoch: int
    generations: int
    seconds: float | None
    populations: list[list[Individual]]
    predictor: Array | None = None
    _spaces: tuple[Space, Space | None] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spaces": None}

    def start(self) -> dict[int, Outcome]:
        """Return no outcomes."""
        return {}

    def run(self, state: dict[int, Outcome], block: Block) -> bool:
        """Run the islands of a block."""
        for number in range(block[1], block[2]):
            state[number] = self._island(number)
        return True

    def merge(self, state: dict[int, Outcome], other: dict[int, Outcome]) -> None:
        """Take over the outcomes of later islands."""
        state.update(other)

    def dump(self, state: dict[int, Outcome]) -> dict[str, Tensor]:
        """Return the outcomes as one tensor of text."""
        plain = {str(number): _plain(outcome) for number, outcome in state.items()}
        return {"outcomes": torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> dict[int, Outcome]:
        """Return the outcomes that :meth:`dump` has written."""
        plain = json.loads(bytes(tensors["outcomes"].numpy().tobytes()))
        return {int(number): _outcome(value) for number, value in plain.items()}

    def fingerprint(self) -> str:
        """Return a digest of settings and data."""
        digest = hashlib.sha256(
            repr((self.settings, self.epoch, self.generations, self.problem.seed)).encode()
        )
        digest.update(np.ascontiguousarray(self.problem.X).tobytes())
        digest.update(np.ascontiguousarray(self.problem.targets).tobytes())
        return digest.hexdigest()

    def _island(self, number: int) -> Outcome:
        settings, problem = self.settings, self.problem
        deadline = None if self.seconds is None else time.perf_counter() + self.seconds
        if self._spaces is None:
            self._spaces = spaces_of(settings, problem, self.predictor)
        vector, mixed = self._spaces
        grammar = grammar_of(settings, problem, number, scalars=mixed is not None)
        island = Island(
            settings,
            grammar,
            (vector, mixed if grammar.scalars or grammar.inputs else None),
            seed_of(problem.seed, number, self.epoch),
            problem.n,
            problem.d,
        )
        if self.epoch == 0:
            island.forms = _given(grammar, problem)
            if settings.catalogue:
                island.forms += self._forms(number, grammar, deadline)
        island.begin(self.populations[number])
        island.run(self.generations, deadline=deadline)
        ordered = sorted(island.population, key=lambda member: (member.fitness, member.key))
        count = max(1, round(_MIGRANTS * settings.population))
        return Outcome(
            [member.terms for member in ordered[:count]],
            [front[size] for front in (island.front, island.poled) for size in sorted(front)],
            island.evaluations,
            min((member.error for member in island.front.values()), default=1.0),
        )

    def _forms(self, number: int, grammar: Grammar, deadline: float | None) -> list[Individual]:
        """Return an island's part of the starting forms."""
        assert self._spaces is not None
        settings, problem = self.settings, self.problem
        found: list[Individual] = []
        if grammar.shared:
            found += [(term,) for term in catalogue(grammar)[number :: settings.islands]]
        space = self._spaces[1]
        if grammar.inputs and isinstance(space, ExactSpace):
            y = None
            if problem.task == "regression" and problem.outputs == 1:
                y = problem.targets[rows_of(problem), 0]
            step = settings.islands if not grammar.shared else max(1, settings.islands // 2)
            first = number if not grammar.shared else number // 2
            with np.errstate(all="ignore"):
                found += product_forms(grammar, space, y, (first, step), deadline)
        return found


def _given(grammar: Grammar, problem: SearchProblem) -> list[Individual]:
    """Return the user's base functions as starting forms: of the vector of all inputs, and of single ones."""
    leaves = ((X,) if grammar.shared else ()) + tuple(map(input_of, range(grammar.inputs)))
    return [(form,) for form in forms_of(problem, leaves) if form.size <= grammar.max_size]


def grammar_of(settings: Genetic, problem: SearchProblem, number: int, *, scalars: bool) -> Grammar:
    """Return what the trees of an island are made of.

    Args:
        settings: The search's settings.
        problem: The problem.
        number: The island. With shared inputs every fourth has scalar terms: everywhere else individuals are fitted
            on the compressed curve. With both kinds of inputs every second has everything.
        scalars: Whether scalar terms are wanted at all.
    """
    alone = settings.islands == 1
    if settings.inputs == "shared":
        share = settings.scalars if scalars and (alone or number % 4 == 3) else 0.0
        return Grammar(settings.functions, share, settings.max_size, settings.max_terms)
    size = _SINGLE_SIZE * settings.max_size
    if settings.inputs == "single":
        return Grammar(settings.functions, 0.0, size, settings.max_terms, inputs=problem.d, shared=False)
    if scalars and (alone or number % 2 == 1):
        return Grammar(settings.functions, settings.scalars, size, settings.max_terms, inputs=problem.d)
    return Grammar(settings.functions, 0.0, settings.max_size, settings.max_terms)


def rows_of(problem: SearchProblem) -> NDArray[np.int64]:
    """Return the rows that scalar terms are fitted on during the search."""
    rows = np.arange(problem.n)
    if problem.n <= _ROWS:
        return rows
    return np.sort(np.random.default_rng(seed_of(problem.seed, 0, -1)).permutation(rows)[:_ROWS])


def spaces_of(
    settings: Genetic, problem: SearchProblem, predictor: Array | None
) -> tuple[Space, Space | None]:
    """Return where individuals are fitted: with vector terms only, and with scalar terms (None: there is no need)."""
    linear = linearised(problem, predictor)
    table = settings.table
    if settings.inputs == "single":
        # The points of an exact space are all inputs of all rows, but its scalars are one number a row.
        space = exact_space(linear, table, rows_of(problem))
        space.memory *= problem.d
        return space, space
    points = grid_of(problem.X, settings.grid)
    vector = curve_space(linear, points, table)
    unneeded = settings.scalars == 0 or problem.d == 1
    if not settings.coefficients or (unneeded and settings.inputs == "shared"):
        return vector, None
    left = problem.n - len(points)
    if left > 0 and vector.rest / left <= _EXPLAINED * vector.total / problem.n:
        return vector, None
    rows = rows_of(problem)
    if settings.inputs == "both":
        return vector, exact_space(linear, table, rows)
    return vector, row_space(linear, points, table, rows)


def linearised(problem: SearchProblem, predictor: Array | None) -> Linearised:
    """Return the least-squares problem that the search works on.

    For regression that is the problem itself. A deviance is replaced by its second-order expansion at a predictor, as
    in one step of iteratively reweighted least squares; without a predictor, at the model without terms.
    """
    weight = problem.row_weight
    if problem.task == "regression" or predictor is None or problem.outputs > 1:
        return Linearised(problem.X, problem.response, weight)
    likelihood = likelihood_of(problem)
    mean = likelihood.means(predictor)
    spread = np.maximum(mean if likelihood.counts else mean * (1 - mean), _SMALLEST)
    return Linearised(problem.X, predictor + (likelihood.targets - mean) / spread, weight * spread[:, 0])


def seed_of(seed: int, island: int, epoch: int) -> int:
    """Return the seed of an island in an epoch."""
    return int(np.random.SeedSequence([seed, island, epoch + 1]).generate_state(1, np.uint64)[0])


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "population": [[_nested(term) for term in terms] for terms in outcome.population],
        "front": [
            [[_nested(term) for term in one.terms], one.error, one.fitness, one.size, one.pole]
            for one in outcome.front
        ],
        "evaluations": outcome.evaluations,
        "error": outcome.error,
    }


def _outcome(plain: Mapping[str, Any]) -> Outcome:
    front = [
        Member(tuple(map(_node, terms)), error, fitness, size, pole)
        for terms, error, fitness, size, pole in plain["front"]
    ]
    population = [tuple(map(_node, terms)) for terms in plain["population"]]
    return Outcome(population, front, plain["evaluations"], plain["error"])


def _nested(node: Node) -> list[Any]:
    return [node.op, node.value, *map(_nested, node.args)]


def _node(nested: list[Any]) -> Node:
    return Node(nested[0], tuple(map(_node, nested[2:])), nested[1])
