"""The class selectivity of neurons as a loss, in either direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.train._select import uniform
from neuronwise.train.method import Method, Selection, selected
from neuronwise.train.view import View

__all__ = ["ClassSelectivity"]


@dataclass(frozen=True, kw_only=True)
class ClassSelectivity(Method):
    r"""Regularise the class selectivity index: the loss is ``-alpha`` times its mean over units (and then over sites).

    :math:`SI = (\mu_{max} - \mu_{rest}) / (\mu_{max} + \mu_{rest} + e)`, from the batch's mean rectified activation of
    every class; :math:`\mu_{rest}` is the mean over the other classes that occur in the batch. Negative activations
    count as 0, since the index is not defined for them.

    Needs labels: ``mono.expect(labels=...)`` before each batch. Units of convolutions are commonly ``"pooled"``.

    Args:
        alpha: Above 0 encourages selectivity, below 0 discourages it.
        classes: Number of classes; None takes the largest label seen so far plus one, which waits for a GPU.
        selection: ``"random"`` shuffles the labels of the batch, the control.
        tiny: The constant e.

    Source: Leavitt & Morcos (arXiv 2003.01262); the index of Morcos et al. (2018).
    """

    name: ClassVar[str] = "selectivity"
    has_loss: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    reports: ClassVar[str] = "selectivity"
    alpha: float = -1.0
    classes: int | None = None
    selection: Selection = "phi"
    tiny: float = 1e-7

    def __post_init__(self) -> None:
        selected(self.selection)
        if self.classes is not None and self.classes < 2:
            raise InvalidArgumentError(f"classes must be at least 2, not {self.classes}.")

    @property
    def size(self) -> float:
        """Alpha."""
        return self.alpha

    def loss(self, view: View, strength: Tensor | None = None) -> Tensor | None:
        """Return the loss; ``strength`` stands for minus alpha."""
        values = view.matrix.clamp(min=0.0)
        labels = view.row_labels()
        if self.selection == "random":
            order = uniform(labels.to(values.dtype) + values.detach().mean(1), view.seed).argsort()
            labels = labels[order]
        classes = torch.arange(view.classes, device=labels.device)
        member = (labels[:, None] == classes).to(values.dtype)
        count = member.sum(0)
        means = member.T @ values / count.clamp(min=1.0)[:, None]
        present = count > 0
        best = torch.where(present[:, None], means, -torch.inf).amax(0).clamp(min=0.0)
        others = (present.sum() - 1).clamp(min=1)
        rest = (means.sum(0) - best) / others
        index = ((best - rest) / (best + rest + self.tiny)).mean()
        # One class has nothing to be compared with.
        index = torch.where(present.sum() > 1, index, torch.zeros_like(index))
        if not view.again:
            view.state.note(torch.where(present.sum() > 1, index.detach(), torch.nan))
        return (-self.alpha if strength is None else strength) * index
