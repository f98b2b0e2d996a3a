"""NeuronSeek's search model (arXiv 2506.15715): powers and CP products behind hard-concrete gates, trained together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.discover._cp import Form
from neuronwise.discover.problem import SearchProblem
from neuronwise.errors import InvalidArgumentError

__all__ = ["Gated", "Gates", "HardConcrete", "SearchModel", "train"]

_LEFT, _RIGHT = -0.1, 1.1  # where the concrete distribution is stretched to before it is cut to [0, 1]
_FLOOR = 1e-8
_KEPT = 0.5  # a term is kept where its gate is open with more than this probability


@dataclass(frozen=True)
class Gates:
    """Settings of the training; the defaults are those of NeuronSeek-TD 2.0.

    Args:
        penalty: Weight of the expected number of open gates in the loss, lambda.
        epochs: Passes over the rows.
        batch: Rows a step.
        temperature: Of the gates, tau.
        open_at_start: Probability with which a gate starts, before it is stretched: P0.
        warm_up: Share of the epochs in which the gates are left alone.
        full_penalty: Share of the epochs after which the penalty has its full weight; it rises evenly until then.
        learning_rates: Of the weights of powers, of the factors, of the batch norms, of the gates.
        weight_decay: Of the weights of powers and of the factors.
        clip: Largest norm of the gradient.
    """

    penalty: float = 0.05
    epochs: int = 200
    batch: int = 64
    temperature: float = 0.66
    open_at_start: float = 0.9
    warm_up: float = 0.25
    full_penalty: float = 0.75
    learning_rates: tuple[float, float, float, float] = (0.005, 0.01, 0.01, 0.01)
    weight_decay: tuple[float, float] = (1e-4, 1e-5)
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.penalty < 0:
            raise InvalidArgumentError(
                f"epochs must be at least 1, batch at least 2 and penalty not negative, not {self.epochs}, "
                f"{self.batch} and {self.penalty}."
            )
        if not 0 <= self.warm_up <= self.full_penalty <= 1 or not 0 < self.open_at_start < 1:
            raise InvalidArgumentError(
                "0 <= warm_up <= full_penalty <= 1 and 0 < open_at_start < 1 must hold, not "
                f"{self.warm_up}, {self.full_penalty} and {self.open_at_start}."
            )


class HardConcrete(nn.Module):
    """Gates that are exactly 0 or 1 with some probability, and can be trained (Louizos et al. 2018, arXiv 1712.01312).

    Args:
        count: How many.
        temperature: tau.
        open_at_start: P0; ``log_alpha`` starts at its log odds.
    """

    def __init__(self, count: int, temperature: float, open_at_start: float) -> None:
        super().__init__()
        self.temperature = temperature
        start = math.log(open_at_start / (1 - open_at_start))
        self.log_alpha = nn.Parameter(torch.full((count,), start))

    def forward(self, noise: Tensor | None) -> Tensor:
        """Return the gates ``(count,)``: random ones from uniform ``noise``, or those of the test without."""
        logits: Tensor = self.log_alpha
        if noise is not None:
            odds = torch.log(noise + _FLOOR) - torch.log(1 - noise + _FLOOR)
            logits = (odds + self.log_alpha) / self.temperature
        return (torch.sigmoid(logits) * (_RIGHT - _LEFT) + _LEFT).clamp(0, 1)

    def expected(self) -> Tensor:
        """Return the probability that each gate is not 0, ``(count,)``."""
        return torch.sigmoid(self.log_alpha - self.temperature * math.log(-_LEFT / _RIGHT))


class SearchModel(nn.Module):
    """``b + sum_k z_k BN(<w_k, x**k>) + sum_k z'_k BN(sum_r prod_m <u_kmr, x>)``, for C outputs.

    Args:
        d: Number of inputs.
        outputs: C.
        powers: Orders of the powers.
        products: Orders of the products.
        rank: R, products that each order is the sum of.
        gates: The settings.
        generator: Draws the start.
    """

    def __init__(
        self,
        d: int,
        outputs: int,
        powers: tuple[int, ...],
        products: tuple[int, ...],
        rank: int,
        gates: Gates,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.powers, self.products, self.rank, self.outputs = powers, products, rank, outputs
        terms = len(powers) + len(products)
        self.weights = nn.Parameter(0.05 * torch.randn(len(powers), d, outputs, generator=generator))
        self.factors = nn.Parameter(
            0.05 * torch.randn(d, sum(products) * rank * outputs, generator=generator)
        )
        self.norm = nn.BatchNorm1d(terms * outputs)
        self.gates = HardConcrete(terms, gates.temperature, gates.open_at_start)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def terms(self, x: Tensor) -> Tensor:
        """Return every term before its norm, ``(n, terms * C)``: powers first."""
        found = [(x**order) @ weights for order, weights in zip(self.powers, self.weights, strict=True)]
        heights = (x @ self.factors).view(len(x), -1, self.rank, self.outputs)
        at = 0
        for order in self.products:
            found.append(heights[:, at : at + order].prod(1).sum(1))
            at += order
        return torch.cat(found, 1)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the predictors, ``(n, C)``.

        Args:
            x: ``(n, d)``.
            noise: Uniform numbers, one a gate; without them the gates of the test.
        """
        normed: Tensor = self.norm(self.terms(x)).view(len(x), -1, self.outputs)
        gates: Tensor = self.gates(noise)
        return self.bias + (normed * gates[:, None]).sum(1)


@dataclass(frozen=True, eq=False)
class Gated:
    """What the gates have left open.

    Args:
        powers: Orders of powers that were kept.
        products: Orders of products that were kept.
        forms: The trained model with the kept terms, the norms folded into the weights; one an output.
        probabilities: Probability that each gate is open, powers first.
    """

    powers: tuple[int, ...]
    products: tuple[int, ...]
    forms: tuple[Form, ...]
    probabilities: NDArray[np.float64]


def train(
    problem: SearchProblem, powers: tuple[int, ...], products: tuple[int, ...], rank: int, settings: Gates
) -> Gated:
    """Train the search model and return what its gates have left open.

    Adam with a rate for each kind of parameters, a cosine schedule, gradients clipped; cross-entropy for classes, else
    squared error.

    Args:
        problem: The problem; its seed is that of the start, the batches and the gates.
        powers: Orders of powers that are offered.
        products: Orders of products that are offered.
        rank: R.
        settings: The settings.

    Raises:
        InvalidArgumentError: If the target is a count, for which the method has no loss.
    """
    if problem.task == "count":
        raise InvalidArgumentError(
            "Gates are trained on numbers or classes, not on counts; use search_by='greedy'."
        )
    generator = torch.Generator().manual_seed(problem.seed)
    X = torch.tensor(problem.X, dtype=torch.float32)
    y = torch.tensor(problem.targets, dtype=torch.float32)
    row = (
        torch.ones(problem.n) if problem.weight is None else torch.tensor(problem.weight, dtype=torch.float32)
    )
    model = SearchModel(problem.d, y.shape[1], powers, products, rank, settings, generator)
    optimizer, schedule = _optimizer(model, settings)
    warm, full = int(settings.epochs * settings.warm_up), int(settings.epochs * settings.full_penalty)
    model.train()
    for epoch in range(settings.epochs):
        model.gates.requires_grad_(epoch >= warm)
        weight = settings.penalty * min(1.0, max(0, epoch - warm) / max(1, full - warm))
        for rows in torch.split(torch.randperm(len(X), generator=generator), settings.batch):
            if len(rows) < 2:  # a batch norm has nothing to say about a single row
                continue
            optimizer.zero_grad()
            noise = torch.rand(len(powers) + len(products), generator=generator)
            loss = _loss(model(X[rows], noise), y[rows], row[rows], problem.link)
            if weight > 0:
                loss = loss + weight * model.gates.expected().sum()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
        schedule.step()
    model.eval()
    return _kept(model)


def _optimizer(
    model: SearchModel, settings: Gates
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    power, factor, norm, gate = settings.learning_rates
    groups = [
        {"params": [model.weights], "lr": power, "weight_decay": settings.weight_decay[0]},
        {"params": [model.factors], "lr": factor, "weight_decay": settings.weight_decay[1]},
        {"params": [*model.norm.parameters(), model.bias], "lr": norm},
        {"params": [*model.gates.parameters()], "lr": gate},
    ]
    optimizer = torch.optim.Adam(groups)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs, eta_min=1e-5)


def _loss(predictor: Tensor, y: Tensor, row: Tensor, link: str) -> Tensor:
    if link == "identity":
        each = (predictor - y).square().mean(1)
    elif link == "logit":
        each = nn.functional.binary_cross_entropy_with_logits(predictor, y, reduction="none")[:, 0]
    else:
        each = nn.functional.cross_entropy(predictor, y, reduction="none")
    return (each * row).mean()


@torch.no_grad()
def _kept(model: SearchModel) -> Gated:
    """Fold gates and norms into the weights of the terms that are kept."""
    probabilities, gates = model.gates.expected().double(), model.gates(None).double()
    count, outputs = len(model.powers), model.outputs
    deviation = (model.norm.running_var.double() + model.norm.eps).sqrt()  # type: ignore[union-attr]
    slope = (gates.repeat_interleave(outputs) * model.norm.weight / deviation).view(-1, outputs)
    mean = model.norm.running_mean.double().view(-1, outputs)  # type: ignore[union-attr]
    shift = gates[:, None] * model.norm.bias.double().view(-1, outputs) - slope * mean
    kept = probabilities > _KEPT
    factors = model.factors.double().view(len(model.factors), -1, model.rank, outputs)  # (d, slots, R, C)
    forms = []
    for output in range(outputs):
        intercept = float(model.bias[output] + shift[kept, output].sum())
        powers = {
            order: (slope[k, output] * model.weights[k, :, output].double()).numpy()
            for k, order in enumerate(model.powers)
            if kept[k]
        }
        products, at = [], 0
        for k, order in enumerate(model.products):
            for r in range(model.rank if kept[count + k] else 0):
                product = factors[:, at : at + order, r, output].T.clone()
                product[0] *= slope[count + k, output]
                products.append(product.numpy())
            at += order
        forms.append(Form(intercept, powers, tuple(products)))
    return Gated(
        tuple(order for k, order in enumerate(model.powers) if kept[k]),
        tuple(order for k, order in enumerate(model.products) if kept[count + k]),
        tuple(forms),
        probabilities.numpy(),
    )
