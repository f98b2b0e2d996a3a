"""Decorrelation of samples or of features as a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.train._select import uniform
from neuronwise.train.method import Method, Selection, selected
from neuronwise.train.view import View

__all__ = ["Decorrelation"]


@dataclass(frozen=True, kw_only=True)
class Decorrelation(Method):
    r"""Add ``strength`` times :math:`\lVert G - I \rVert_F^2`, with G the Gram matrix of samples or of features.

    The paper writes :math:`z z^T` and calls it a correlation of features, but measures cosines between samples; both
    are offered. It encourages monosemanticity by the paper's argument; below 0 the strength does the opposite.

    Args:
        strength: The factor.
        gram: ``"sample"``: of the activation vectors; ``"feature"``: of the neurons over the batch.
        normalise: Make vectors of length 1 first (of features: centred ones, so that G holds correlations); without it
            G is of the raw activations, to the letter.
        samples: At most so many samples of a batch, evenly spaced, go into it.
        selection: ``"random"`` permutes the neurons of each sample independently, the control.

    Source: "DecPO" (arXiv 2406.17969): loss of DPO plus 1e-4 times this, on the MLP of one block.
    """

    name: ClassVar[str] = "decorrelation"
    has_loss: ClassVar[bool] = True
    reports: ClassVar[str] = "correlation"
    strength: float = 1e-4
    gram: Literal["sample", "feature"] = "sample"
    normalise: bool = True
    samples: int = 1024
    selection: Selection = "phi"

    def __post_init__(self) -> None:
        selected(self.selection)
        if self.gram not in ("sample", "feature"):
            raise InvalidArgumentError(f"gram must be 'sample' or 'feature', not {self.gram!r}.")
        if self.samples < 2:
            raise InvalidArgumentError(f"samples must be at least 2, not {self.samples}.")

    @property
    def size(self) -> float:
        """The strength."""
        return self.strength

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return strength times the squared distance of the Gram matrix from the identity."""
        values = view.matrix
        real = view.real_rows
        if len(values) > self.samples:
            step = -(-len(values) // self.samples)
            values, real = values[::step], None if real is None else real[::step]
        weight = torch.ones_like(values[:, :1]) if real is None else real[:, None].to(values.dtype)
        if self.selection == "random":
            values = values.gather(1, uniform(values, view.seed).argsort(1))
        if self.gram == "feature" and self.normalise:
            values = (values - (values * weight).sum(0) / weight.sum().clamp(min=1.0)) * weight
        vectors = values if self.gram == "sample" else values.T
        if self.normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        # The Gram matrices of rows and of columns have the same norm: take the smaller one.
        smaller = vectors @ vectors.T if vectors.shape[0] <= vectors.shape[1] else vectors.T @ vectors
        square, lengths = smaller.square().sum(), vectors.square().sum(1)
        count = weight.sum() if self.gram == "sample" else values.new_full((), float(len(vectors)))
        if not view.again:
            pairs = (count * (count - 1)).clamp(min=1.0)
            own = lengths.detach().square().sum()
            view.state.note(((square.detach() - own).clamp(min=0.0) / pairs).sqrt())
        distance = square - 2 * lengths.sum() + count
        return (self.strength if strength is None else strength) * distance
