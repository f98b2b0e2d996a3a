"""One island of the genetic search: a population that breeds and is fitted, tuned and selected."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuronwise.discover._genetic_poles import EXACT
from neuronwise.discover._genetic_published import crossed, grown, mutated
from neuronwise.discover._genetic_space import Space
from neuronwise.discover._genetic_tune import FLOOR, constants_of, is_simple, tuned
from neuronwise.discover._genetic_variation import (
    Grammar,
    Individual,
    cross,
    mutate,
    seedling,
)
from neuronwise.discover._trees import Node, joined, skeleton

if TYPE_CHECKING:
    from neuronwise.discover.genetic import Genetic

__all__ = ["Island", "Member", "select"]

Array = NDArray[np.float64]

_COEFFICIENT = 2  # what a term counts beside its nodes
_CONSTANT = 3  # what a constant counts beside its node unless it is a simple number
_POLE = 3.0  # what a pole between the data counts
_BANK = 1500  # terms that are remembered for adding to an elite
_BANK_SIZE = 9  # no larger ones
_SINGLE_BANK_SIZE = 18  # the same of single inputs, each of which is a leaf
_ADDED = 3  # terms that are tried for each elite
_SETTLED = 6  # generations without a simpler form after which a formula without error is final
_FIRST_STEPS = 2
_SOWN = 0.25  # share of the catalogue that is tuned by steps
_SOWN_STEPS = 3
_FEW = 4  # elites that terms are added to in a generation


@dataclass(slots=True)
class Member:
    """An individual with its own fitness: both are made together and never parted.

    Args:
        terms: Its terms; in the published search one tree.
        error: Residual squares as a share of the total.
        fitness: What is selected on; lower is better.
        size: Weighted nodes, terms and constants that are no simple numbers.
        pole: Whether it has one between the data and is no exact law.
    """

    terms: Individual
    error: float
    fitness: float
    size: int
    pole: bool = False

    @property
    def key(self) -> str:
        """Text that tells it from others."""
        return " ; ".join(term.key for term in self.terms)


def select(population: Sequence[Member], tournament: int, rng: Random, *, capped: bool = False) -> Member:
    """Return the fittest of some members drawn at random: each is judged by the fitness it carries.

    Args:
        population: The members.
        tournament: How many are drawn, with repeats.
        rng: The generator.
        capped: Let only members take part that are no larger than the first drawn, so that small ones, which lose
            against any flexible sum in error alone, have children as well.
    """
    drawn = [population[int(rng.random() * len(population))] for _ in range(tournament)]
    cap = drawn[0].size if capped else None
    return min(
        (member for member in drawn if cap is None or member.size <= cap), key=lambda member: member.fitness
    )


@dataclass
class Island:
    """A population and how it goes on.

    Args:
        settings: The search's settings.
        grammar: What trees are made of.
        spaces: Where individuals are fitted: vector terms only, and with scalar terms (None where there are none).
        seed: Seed of all chance on this island.
        rows: Number of rows of the data.
        inputs: Number of inputs.
        population: The members at the start; empty: random ones.
        forms: Starting forms, tried first.
        front: The best member of each size so far.
        poled: The same of members with a pole, which may lead to a law that has it.
    """

    settings: Genetic
    grammar: Grammar
    spaces: tuple[Space, Space | None]
    seed: int
    rows: int
    inputs: int
    population: list[Member] = field(default_factory=list)
    forms: list[Individual] = field(default_factory=list)
    front: dict[int, Member] = field(default_factory=dict)
    poled: dict[int, Member] = field(default_factory=dict)
    evaluations: int = 0
    _tuned: dict[str, None] = field(default_factory=dict)
    _bank: dict[str, Node] = field(default_factory=dict)

    def begin(self, individuals: Sequence[Individual]) -> None:
        """Take individuals into the population; they are fitted here, as they may come from elsewhere."""
        allowed = self.spaces[1] is not None
        fitting = [terms for terms in individuals if allowed or all(term.kind != "scalar" for term in terms)]
        with np.errstate(all="ignore"):
            self.population = self._judge(fitting)

    def run(self, generations: int, *, deadline: float | None = None) -> None:
        """Go on for some generations, until the deadline, or until nothing has improved for a long time.

        Args:
            generations: At most so many.
            deadline: On the clock of ``time.perf_counter``.
        """
        rng = Random(self.seed)
        with np.errstate(all="ignore"):
            if len(self.population) < self.settings.population:
                self.population += self._judge(self._first(rng)[len(self.population) :])
                if self.forms:
                    self._sow(rng, deadline)
            best, since = min(member.fitness for member in self.population), 0
            for _ in range(generations):
                if deadline is not None and time.perf_counter() >= deadline:
                    break
                self._generation(rng)
                now = min(member.fitness for member in self.population)
                best, since = (now, 0) if now < best - 1e-6 else (best, since + 1)
                if since >= (_SETTLED if self._solved() else self.settings.patience):
                    break

    def _sow(self, rng: Random, deadline: float | None) -> None:
        """Add the best starting forms to the population."""
        members = self._judge(self.forms)
        # Most are told to be hopeless by random constants alone; the best are worth steps.
        for steps, share in ((0, 1.0), (_SOWN_STEPS, _SOWN)):
            members = sorted(members, key=lambda member: (member.fitness, member.key))
            # Undefined with the placeholders is not undefined with others.
            best = members if steps == 0 else self._distinct(members, round(share * len(self.forms)))
            for member in list(best):
                late = deadline is not None and time.perf_counter() >= deadline
                if late or any(one.error <= FLOOR for one in self.front.values()):
                    break
                if constants_of(member.terms):
                    space = self._space_of(member)
                    terms, _ = tuned(member.terms, space, steps=steps, starts=self.settings.starts, rng=rng)
                    members += self._judge([terms])
        ordered = sorted(members, key=lambda member: (member.fitness, member.key))
        self.population += self._distinct(ordered, self.settings.population // 2)
        self.population += self._tune(ordered, rng)

    def _space_of(self, member: Member) -> Space:
        """Return where a member is fitted."""
        vector, mixed = self.spaces
        if mixed is not None and any(term.kind == "scalar" for term in member.terms):
            return mixed
        return vector

    def _solved(self) -> bool:
        """Whether some member leaves nothing but rounding; the published search never stops for that."""
        return self.settings.coefficients and any(member.error <= FLOOR for member in self.population)

    def _first(self, rng: Random) -> list[Individual]:
        count = self.settings.population
        if not self.settings.coefficients:
            return [(grown(rng),) for _ in range(count)]
        return [seedling(self.grammar, rng) for _ in range(count)]

    def _generation(self, rng: Random) -> None:
        settings = self.settings
        keep = max(1, round(settings.elite * settings.population))
        ordered = sorted(self.population, key=lambda member: (member.fitness, member.key))
        elites = self._distinct(ordered, keep)
        if settings.coefficients:
            elites = list({member.key: member for member in [*elites, *self._pareto()]}.values())
        children = self._judge([self._child(rng) for _ in range(settings.population - len(elites))])
        if settings.coefficients:
            children = self._distinct(children, len(children))
            promising = sorted(elites + children, key=lambda member: (member.fitness, member.key))
            children += self._tune(promising, rng)
            children += self._judge(self._extended(promising[:_FEW]))
        self.population = elites + children

    def _pareto(self) -> list[Member]:
        """Return the front's members that no smaller one beats."""
        found: list[Member] = []
        for size in sorted(self.front):
            if not found or self.front[size].error < found[-1].error * (1 - 1e-3):
                found.append(self.front[size])
        return found

    def _distinct(self, members: Sequence[Member], count: int) -> list[Member]:
        """Return the first members, each form (constants apart) once, that can be evaluated at all."""
        found: dict[str, Member] = {}
        for member in members:
            if len(found) == count:
                break
            form = " ; ".join(skeleton(term) for term in member.terms)
            if form not in found and (np.isfinite(member.fitness) or not self.settings.coefficients):
                found[form] = member
        return list(found.values()) or list(members[:1])

    def _child(self, rng: Random) -> Individual:
        settings, draw = self.settings, rng.random()
        capped = settings.coefficients and rng.random() < settings.capped
        first = select(self.population, settings.tournament, rng, capped=capped).terms
        if not settings.coefficients:
            limit = settings.max_size
            if draw < settings.crossover:
                other = select(self.population, settings.tournament, rng).terms
                return (crossed(first[0], other[0], limit, rng),)
            return (
                (mutated(first[0], limit, rng),) if draw < settings.crossover + settings.mutation else first
            )
        if draw < settings.crossover:
            other = select(self.population, settings.tournament, rng, capped=capped).terms
            return cross(first, other, self.grammar, rng)
        if draw < settings.crossover + settings.mutation:
            child = mutate(first, self.grammar, rng)
            return mutate(child, self.grammar, rng) if rng.random() < 0.3 else child
        return seedling(self.grammar, rng)

    def _judge(self, individuals: Sequence[Individual]) -> list[Member]:
        """Fit individuals and give each its own fitness; the best of each size enter the front."""
        if not individuals:
            return []
        self.evaluations += len(individuals)
        vector, mixed = self.spaces
        if not self.settings.coefficients:
            squares = vector.plain_errors([terms[0] for terms in individuals], self.inputs)
            return [
                self._member(terms, float(error), vector)
                for terms, error in zip(individuals, squares, strict=True)
            ]
        members: list[Member] = []
        scalar = [any(term.kind == "scalar" for term in terms) for terms in individuals]
        for space, wanted in ((vector, False), (mixed, True)):
            chosen = [
                terms for terms, is_scalar in zip(individuals, scalar, strict=True) if is_scalar == wanted
            ]
            if chosen and space is not None:
                errors = space.errors(chosen)
                members += [
                    self._member(terms, float(error), space)
                    for terms, error in zip(chosen, errors, strict=True)
                ]
        return members

    def _member(self, terms: Individual, squares: float, space: Space) -> Member:
        """Make a member: ln of the unexplained share plus parsimony, or the plain mean squares as published."""
        error = squares / space.total
        if not self.settings.coefficients:
            usable = "x" in terms[0].key and np.isfinite(error)
            return self._entered(Member(terms, error, error if usable else np.inf, terms[0].size))
        free = sum(not is_simple(value) for value in constants_of(terms))
        size = sum(term.size + _COEFFICIENT for term in terms) + _CONSTANT * free
        if not np.isfinite(error):
            return Member(terms, error, np.inf, size)
        fitness = float(np.log(max(error, FLOOR))) + self.settings.parsimony * size
        if error > EXACT and not self.settings.poles and any(map(space.has_pole, terms)):
            return self._entered(Member(terms, error, fitness + _POLE, size, pole=True))
        return self._entered(Member(terms, error, fitness, size))

    def _entered(self, member: Member) -> Member:
        front = self.poled if member.pole else self.front
        best = front.get(member.size)
        if np.isfinite(member.fitness) and (
            best is None or (member.error, member.key) < (best.error, best.key)
        ):
            front[member.size] = member
        return member

    def _tune(self, ordered: Sequence[Member], rng: Random) -> list[Member]:
        """Put the right constants into the best members whose form has not been tuned yet."""
        settings = self.settings
        found: list[Member] = []
        left = round(settings.tuned * settings.population)
        # A few steps show whether a form is promising; only then it gets all.
        worth = ordered[min(len(ordered) - 1, settings.population // 4)].error
        for member in ordered:
            if left == 0:
                break
            form = " ; ".join(skeleton(term) for term in member.terms)
            if form in self._tuned or not constants_of(member.terms):
                continue
            self._tuned[form] = None
            left -= 1
            space = self._space_of(member)
            terms, squares = tuned(member.terms, space, steps=_FIRST_STEPS, starts=settings.starts, rng=rng)
            if squares < worth * space.total:
                terms, _ = tuned(terms, space, steps=settings.steps, starts=0, rng=rng)
            found += self._judge([terms])
        return found

    def _extended(self, elites: Sequence[Member]) -> list[Individual]:
        """Return elites with the remembered terms that explain most of what they leave."""
        space, kinds, size = self.spaces[0], {"vector"}, _BANK_SIZE
        if self.grammar.inputs and self.spaces[1] is not None:
            space, kinds, size = self.spaces[1], {"vector", "scalar"}, _SINGLE_BANK_SIZE
        for member in elites:
            for term in member.terms:
                if term.kind in kinds and term.size <= size:
                    self._bank.setdefault(term.key, term)
        for term in [term for member in self.population for term in member.terms]:
            if term.kind in kinds and term.size <= size and space.column(term) is not None:
                self._bank.setdefault(term.key, term)
        while len(self._bank) > _BANK:
            del self._bank[next(iter(self._bank))]
        terms = list(self._bank.values())
        space.prepare(terms)
        usable = [(term, column) for term in terms if (column := space.column(term)) is not None]
        found: list[Individual] = []
        if not usable:
            return found
        columns = np.array([column for _, column in usable])
        for member in elites:
            if (
                any(term.kind not in kinds for term in member.terms)
                or len(member.terms) >= self.grammar.max_terms
            ):
                continue
            space.prepare(member.terms)  # memory may have been cleared
            own = [column for term in member.terms if (column := space.column(term)) is not None]
            if len(own) < len(member.terms):
                continue
            gains = _gains(np.array(own).reshape(len(own), columns.shape[1]), columns, space.target)
            for place in np.argsort(-gains, kind="stable")[:_ADDED]:
                found.append(joined([*member.terms, usable[int(place)][0]]))
        return found


def _gains(own: Array, columns: Array, target: Array) -> Array:
    """Return how much each further column lowers the residual squares of a fit with some columns ``(M,)``."""
    basis = np.linalg.qr(own.T)[0]
    inner = columns @ basis
    left = target - (target @ basis) @ basis.T
    remaining = np.maximum((columns**2).sum(axis=1) - (inner**2).sum(axis=1), 1e-30)
    gains: Array = ((columns @ left.T) ** 2).sum(axis=1) / remaining
    return np.where(remaining > 1e-8, gains, 0.0)
