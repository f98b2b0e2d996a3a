"""Genetic symbolic regression, vectorised or of single inputs: formulas from outside any library of base functions."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from neuronwise.discover._genetic_bases import with_bases
from neuronwise.discover._genetic_finish import Finish
from neuronwise.discover._genetic_job import IslandJob
from neuronwise.discover._genetic_variation import Individual
from neuronwise.discover._trees import BINARY, POWERS
from neuronwise.discover.candidate import Candidate
from neuronwise.discover.problem import SearchProblem
from neuronwise.engine import blocks_of, map_reduce
from neuronwise.errors import DataError, InvalidArgumentError, closest
from neuronwise.formula import FUNCTIONS, Function, with_functions

__all__ = ["Genetic"]

#: How generations are shared among the epochs: the first is short, as easy formulas end there.
_SHARES = (1, 2, 3)
_SINGLE_SHARES = (1, 1, 1)  # starting forms of single inputs take longer


@dataclass(frozen=True)
class Genetic:
    """Search formulas of any form by genetic programming, by default every input passing through the same formula.

    An individual is a sum of up to ``max_terms`` trees. Vector trees are elementwise and stand for the sum over the
    inputs; scalar trees are products and functions of such sums. Each tree has one coefficient, by least squares;
    constants inside the trees of the best individuals are tuned by Levenberg-Marquardt steps with the coefficients
    solved for. Individuals of vector trees only are fitted on the data compressed to a grid on the axis that all inputs
    share, which costs the same for any number of rows and inputs. Islands evolve apart and exchange individuals; they
    run on any engine with the same result.

    Classes and counts: the deviance is expanded to second order, at the model without terms first and at the best found
    later; the formulas returned are fitted by maximum likelihood.

    Base functions other than the default ones (``bases=`` of :func:`discover` or :func:`make_problem`) are forms that
    the search starts from, and what they call are the functions that trees may have, in place of ``functions``; where
    ``functions`` is set as well, beside these.

    Args:
        population: Individuals of an island.
        generations: Generations of an island at most, all epochs together.
        seconds: Time to search for at most; with it the result depends on the machine. Finishing (exact fits,
            rounding, simplifying) comes on top.
        islands: Islands. Every fourth holds scalar trees; a single one holds both.
        epochs: Between two of them islands exchange individuals, 1 to 3.
        tournament: Individuals that are drawn for each parent; the fittest wins.
        capped: Share of tournaments that admit no member larger than the first drawn.
        elite: Share of a population that goes on unchanged, each form once.
        crossover: Share of children of two parents.
        mutation: Share of changed children. The rest are new (published: unchanged).
        parsimony: What each node counts on the scale of ln(unexplained share).
        tuned: Share of a population whose constants are tuned in a generation.
        steps: Steps of a tuning at most.
        starts: Random settings of the constants that a tuning tries first.
        patience: Generations without improvement after which an island rests.
        scalars: Share of scalar trees where they are grown.
        max_size: Weighted nodes of a tree at most: a power counts 2, a function 3.
        max_terms: Trees of an individual at most.
        grid: Points of the grid on the axis.
        catalogue: Try starting forms first, constants tuned: all small forms, such as products of two functions of
            simple arguments; of single inputs sums of products that a beam has grown, and functions of such sums.
        functions: Functions that trees may have.
        extra: The user's own functions that may be named in ``functions``.
        inputs: ``"shared"``: every input passes through the same formula. ``"single"``: formulas of single inputs,
            ``x[0]*sin(x[1])``, as in ordinary symbolic regression; trees may be twice as large. ``"both"``: every
            second island has single inputs beside the vector of all and its sums.
        poles: Whether what a formula divides by may change its sign between the data, and a term explode or be
            undefined there. If not, such formulas are steps on the way only, unless they leave no error at all. Poles
            outside the data are no matter.
        coefficients: Solve for a coefficient for each tree and an offset. False is the published search.

    Source: arXiv 2405.02369, section 3.

    Example:
        >>> import numpy as np
        >>> from neuronwise.discover import make_problem
        >>> X = np.random.default_rng(0).uniform(-2, 2, (300, 3))
        >>> problem = make_problem(X, (X * np.exp(-(X**2))).sum(1))
        >>> best = Genetic(islands=1).search(problem)[0]
        >>> bool(np.allclose(best.predict(X), problem.y))
        True
    """

    name: ClassVar[str] = "genetic"

    population: int = 200
    generations: int = 60
    seconds: float | None = None
    islands: int = 4
    epochs: int = 3
    tournament: int = 4
    capped: float = 0.5
    elite: float = 0.3
    crossover: float = 0.4
    mutation: float = 0.5
    parsimony: float = 0.02
    tuned: float = 0.06
    steps: int = 8
    starts: int = 32
    patience: int = 15
    scalars: float = 0.5
    max_size: int = 20
    max_terms: int = 4
    grid: int = 128
    catalogue: bool = True
    functions: tuple[str, ...] = ("sin", "cos", "exp", "log", "sqrt", "tanh", "abs")
    extra: tuple[Function, ...] = ()
    inputs: Literal["shared", "single", "both"] = "shared"
    poles: bool = False
    coefficients: bool = True

    def __post_init__(self) -> None:
        for setting, lowest in _LOWEST.items():
            value = getattr(self, setting)
            if not (math.isfinite(value) and value >= lowest):
                raise InvalidArgumentError(f"{setting} must be at least {lowest}, not {value!r}.")
        for setting in ("capped", "elite", "crossover", "mutation", "tuned", "scalars"):
            if not 0 <= getattr(self, setting) <= 1:
                raise InvalidArgumentError(f"{setting} is a share, 0 to 1, not {getattr(self, setting)!r}.")
        if self.crossover + self.mutation > 1:
            raise InvalidArgumentError(
                "crossover and mutation are shares of the same children: at most 1 together."
            )
        if self.epochs > len(_SHARES):
            raise InvalidArgumentError(f"epochs must be 1 to {len(_SHARES)}, not {self.epochs}.")
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidArgumentError(f"seconds must be more than 0, not {self.seconds!r}.")
        if self.inputs not in _INPUTS:
            raise InvalidArgumentError(f"inputs must be one of {', '.join(_INPUTS)}, not {self.inputs!r}.")
        if self.inputs != "shared" and not self.coefficients:
            raise InvalidArgumentError("The published search knows shared inputs only.")
        for name in self.functions:
            if name not in self.table:
                raise InvalidArgumentError(f"There is no function {name!r}. {closest(name, self.table)}")
            if name in (*BINARY, *POWERS, "neg", "sum"):
                raise InvalidArgumentError(f"{name!r} is an operator that trees have anyway.")

    @classmethod
    def published(cls, *, seconds: float | None = None) -> Genetic:
        """Return the settings of the paper's code, for comparison.

        500 trees of +, -, * and the sign over x (0.7 of the leaves) and whole numbers in [-20, 20), 80 generations,
        tournaments of 15, the best 5 % kept, crossover 0.3, mutation 0.6, reproduction 0.1, plain mean squares, no
        coefficient or constant fitted, no parsimony.

        Three things differ. Each tree is selected by its own fitness; the published code chooses parents by the fitness
        list of another order of the population. Terms with coefficient 1 are summed like all others. Trees have at most
        60 nodes, where the published ones grow without limit.

        Args:
            seconds: Time to search for at most.
        """
        return cls(
            population=500,
            generations=80,
            seconds=seconds,
            islands=1,
            epochs=1,
            capped=0.0,
            tournament=15,
            elite=0.05,
            crossover=0.3,
            mutation=0.6,
            parsimony=0.0,
            tuned=0.0,
            patience=80,
            scalars=0.0,
            max_size=60,
            max_terms=1,
            catalogue=False,
            functions=(),
            coefficients=False,
        )

    @property
    def table(self) -> Mapping[str, Function]:
        """The functions that formulas may call."""
        return with_functions(*self.extra) if self.extra else FUNCTIONS

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return the formulas of the front of size against error, best first; see :meth:`Method.search`.

        Raises:
            DataError: If the published search is given anything but a regression with one output.
            InvalidArgumentError: If it is given base functions.
        """
        if not self.coefficients and (problem.task != "regression" or problem.outputs > 1):
            raise DataError("The published search explains one numeric target only. Take Genetic() instead.")
        settings = with_bases(self, problem)
        begun = time.perf_counter()
        populations: list[list[Individual]] = [[] for _ in range(self.islands)]
        finish = Finish(settings, problem)
        predictor = None
        shares = (_SHARES if self.inputs == "shared" else _SINGLE_SHARES)[len(_SHARES) - self.epochs :]
        for epoch, share in enumerate(shares):
            part = share / sum(shares)
            seconds = None
            if self.seconds is not None:
                left = self.seconds - (time.perf_counter() - begun)
                rounds = math.ceil(self.islands / (1 if engine == "local" else workers or 1))
                seconds = max(0.0, left * share / sum(shares[epoch:]) / rounds)
            job = IslandJob(
                settings,
                problem,
                epoch,
                max(1, round(self.generations * part)),
                seconds,
                populations,
                predictor,
            )
            outcomes = map_reduce(job, blocks_of(self.islands, 1), engine=engine, workers=workers)
            finish.add(outcomes[number] for number in sorted(outcomes))
            if finish.solved:
                break
            populations = _migrated([outcomes[number].population for number in sorted(outcomes)])
            if problem.task != "regression":
                predictor = finish.best_predictor()
        return finish.candidates()


_INPUTS = ("shared", "single", "both")
_LOWEST: Mapping[str, float] = {
    "population": 4,
    "generations": 1,
    "islands": 1,
    "epochs": 1,
    "tournament": 1,
    "parsimony": 0,
    "steps": 0,
    "starts": 0,
    "patience": 1,
    "max_size": 1,
    "max_terms": 1,
    "grid": 8,
}


def _migrated(populations: list[list[Individual]]) -> list[list[Individual]]:
    """Return each island's best with the best half of what its neighbour has."""
    count = len(populations)
    moved = []
    for number, own in enumerate(populations):
        other = populations[(number + 1) % count] if count > 1 else []
        moved.append([*own, *other[: len(other) // 2]])
    return moved
