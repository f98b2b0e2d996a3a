"""Powers and low-rank interactions: sums of products of inner products, for any number of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from neuronwise.discover._cp import Form, Shape, power_label
from neuronwise.discover._cp_search import Fitted, Offer, assess, refit, search
from neuronwise.discover._gates import Gates, train
from neuronwise.discover.candidate import Candidate, ranked
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import InvalidArgumentError
from neuronwise.formula import Formula

__all__ = ["Gates", "LowRank", "candidate_of"]

MOST_ORDERS = 20  # a power of a higher order is far below or beyond all others
_SHARE = 0.01  # of the predictor's variance; products of trained gates below that are not a start


@dataclass(frozen=True)
class LowRank:
    r"""Search ``y = b + sum_k <w_k, x**k> + sum_j prod_m <u_jm, x>``: powers, and products of inner products.

    A product of k inner products has k d weights, where all mixed monomials of degree k are d^k: this is the search for
    interactions of many inputs. Which powers, and how many products of which order, is decided by the criterion of
    group selection, with the degrees of freedom that each of them has:

    - ``search_by="greedy"`` (default): term after term is added - products by alternating least squares and damped
      Gauss-Newton from several random starts - and taken away again where the criterion does not miss it.
    - ``search_by="gates"``: NeuronSeek's way (arXiv 2506.15715, TD 2.0): all terms are trained at once behind
      hard-concrete gates, and the open ones are refitted and pruned by the same criterion, which takes off what the
      outcome would owe to the weight of the penalty.

    What cannot be told apart is settled so (sheet, section 6.9): order 1 is a power only, as one inner product is the
    same function. A sum of d products can also be a power, ``sum_i x_i**2 = sum_i <e_i, x> <e_i, x>``; a power has d
    weights and so is the cheaper one wherever it does. Neither holds for mixtures with few inputs: with
    ``d <= 2 rank`` another split between powers and products may fit as well. Factors can be scaled against each
    other, and two products of order 2 be mixed: factors come with equal lengths, and only the sum has a meaning.

    Args:
        order: Highest order.
        rank: Products of one order at most.
        starts: Random starts of every new product.
        search_by: ``"greedy"`` or ``"gates"``.
        pruned: Whether open gates are refitted and pruned; False gives the trained model as it is.
        order_one_twice: Offer order 1 as a product too, as NeuronSeek does.
        gates: How gates are trained.

    Example:
        >>> from neuronwise.discover import make_problem
        >>> X = np.random.default_rng(0).standard_normal((400, 6))
        >>> y = (X @ [1, 0, 2, 0, 1, 1]) * (X @ [0, 1, 1, -1, 0, 2]) + X @ [1, 1, 0, 0, 0, 1]
        >>> LowRank(order=3).search(make_problem(X, y))[0].terms
        ('x', '<w, x>*<w, x>')
    """

    name: ClassVar[str] = "low_rank"
    uses_bases: ClassVar[bool] = False

    order: int = 5
    rank: int = 8
    starts: int = 3
    search_by: Literal["greedy", "gates"] = "greedy"
    pruned: bool = True
    order_one_twice: bool = False
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        if self.order > MOST_ORDERS:
            raise InvalidArgumentError(f"order must be at most {MOST_ORDERS}, not {self.order}.")
        if min(self.order, self.rank, self.starts) < 1:
            raise InvalidArgumentError(
                f"order, rank and starts must be at least 1, not {self.order}, {self.rank} and {self.starts}."
            )
        if self.search_by not in ("greedy", "gates"):
            raise InvalidArgumentError(f"search_by must be 'greedy' or 'gates', not {self.search_by!r}.")
        if self.order_one_twice and (self.search_by != "gates" or self.pruned):
            raise InvalidArgumentError(
                "order_one_twice is for gates without a refit: two terms that are one function cannot be refitted."
            )

    @classmethod
    def published(cls) -> LowRank:
        """Return NeuronSeek-TD 2.0 as it is: its terms, gates and settings, no refit.

        Source: arXiv 2506.15715 v2 and its code; rank 8, order 5, 200 epochs, lambda 0.05.
        """
        return cls(search_by="gates", pruned=False, order_one_twice=True)

    def search(
        self, problem: SearchProblem, *, engine: str = "local", workers: int | None = None
    ) -> list[Candidate]:
        """Return the best formulas, best first; see :meth:`Method.search`.

        Raises:
            InvalidArgumentError: If gates are to be trained on counts.
        """
        offer = self._offer()
        if self.search_by == "greedy":
            return ranked(candidate_of(problem, one) for one in search(problem, offer))
        gated = train(problem, offer.powers, offer.products, self.rank, self.gates)
        if self.pruned:
            start = [_promising(form, problem) for form in gated.forms]
            found = search(problem, offer, start=_alike(start, problem.d, problem.seed), forward=False)
            return ranked(candidate_of(problem, one) for one in found)
        return [candidate_of(problem, assess(problem, offer, gated.forms))]

    def refit(self, problem: SearchProblem, candidate: Candidate) -> Candidate:
        """Return a candidate with its numbers fitted to all rows of a problem; see :class:`Refits`."""
        return refitted(problem, self._offer(), candidate) if self.pruned else candidate

    def _offer(self) -> Offer:
        products = range(1 if self.order_one_twice else 2, self.order + 1)
        return Offer(tuple(range(1, self.order + 1)), tuple(products), self.rank, self.starts)


def form_of(formula: Formula, d: int) -> Form:
    """Return the numbers of a formula that :meth:`Form.formula` has made.

    Args:
        formula: The formula.
        d: Number of inputs.
    """
    intercept, powers, products = 0.0, {}, []
    labels = {power_label(order): order for order in range(1, MOST_ORDERS + 1)}
    for term in formula.terms:
        if term.kind == "constant":
            intercept += term.coefficient
        elif term.kind == "elementwise":
            weights = np.ones(d) if term.weight is None else formula.weights[term.weight]
            powers[labels[str(term.base)]] = term.coefficient * weights
        else:
            factors = np.array([formula.weights[name] for name, _ in term.factors if name is not None])
            factors[0] *= term.coefficient
            products.append(factors)
    return Form(intercept, powers, tuple(products))


def refitted(problem: SearchProblem, offer: Offer, candidate: Candidate) -> Candidate:
    """Return a candidate with its numbers fitted to all rows of a problem, from where they are.

    Args:
        problem: The rows.
        offer: What was searched.
        candidate: A candidate of :func:`candidate_of`.
    """
    forms = [form_of(formula, problem.d) for formula in candidate.outputs]
    return candidate_of(problem, refit(problem, offer, forms))


def candidate_of(problem: SearchProblem, one: Fitted) -> Candidate:
    """Return a fit as a candidate.

    Args:
        problem: The problem.
        one: The fit.
    """
    forms = [form.normalised() for form in one.forms]
    outputs = tuple(form.formula(problem.names) for form in forms)
    form = outputs[0] if len(outputs) == 1 else Formula(forms[0].text(free=True), inputs=problem.names)
    figures = {"explained": one.explained, "dof": float(one.dof)}
    figures.update({f"rank_{order}": float(rank) for order, rank in one.shape.ranks})
    return Candidate(
        form,
        one.criterion,
        form.complexity,
        one.shape.labels(),
        outputs=outputs,
        link=problem.link,
        figures=figures,
    )


def _promising(form: Form, problem: SearchProblem) -> Form:
    """Return a form without the products that hardly vary."""
    whole = float(form.evaluate(problem.X).var())
    sizes = [float((problem.X @ factors.T).prod(1).var()) for factors in form.products]
    kept = [f for f, size in zip(form.products, sizes, strict=True) if size > _SHARE * whole]
    return Form(form.intercept, form.powers, tuple(kept))


def _alike(forms: Sequence[Form], d: int, seed: int) -> list[Form]:
    """Return forms of one shape: those with fewer products of an order get small random ones."""
    rng = np.random.default_rng(seed)
    shape = Shape(forms[0].shape.powers)
    for order in sorted({order for form in forms for order, _ in form.shape.ranks}):
        shape = shape.with_rank(order, max(form.shape.rank(order) for form in forms))
    alike = []
    for form in forms:
        extra = []
        for order, rank in shape.ranks:
            missing = rank - form.shape.rank(order)
            extra += [0.1 * rng.standard_normal((order, d)) for _ in range(missing)]
        alike.append(Form(form.intercept, form.powers, (*form.products, *extra)))
    return alike
