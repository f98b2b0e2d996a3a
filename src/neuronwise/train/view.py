"""What a method sees of one site in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site
from neuronwise.train._state import SiteState

__all__ = ["View"]


@dataclass(frozen=True)
class View:
    """One site's activations, its neurons' statistics before this step, and what is known of the batch.

    Activations are ``(example, position, neuron, position)`` (positions before and after the neuron axis, 1 where there
    are none), and statistics broadcast to them.

    Args:
        site: The site.
        tensor: The activations as the model has them.
        given: What the site's module was called with, where the site is its output.
        values: The activations, float32 or float64, on the autograd path; ``(example, 1, neuron, 1)`` means over
            positions where units are pooled.
        real: True where a position is real, ``(example, position, 1, position)``; None where all are.
        mean: Running mean.
        variance: Running variance.
        scale: Running variance plus a share of the mean variance of all units; infinite for a constant site.
        dims: The axes of ``values`` that count samples.
        state: Statistics and state of the site.
        again: Whether activation checkpointing computes this again: nothing is to be counted.
        seed: Seed of random choices.
        labels: Class of every example ``(example,)`` or position ``(example, position)``, -1 for none; or None.
        classes: Number of classes.
        embeddings: Embedding of every example ``(example, dimension)``, or None.
    """

    site: Site
    tensor: Tensor
    given: Tensor | None
    values: Tensor
    real: Tensor | None
    mean: Tensor
    variance: Tensor
    scale: Tensor
    dims: tuple[int, ...]
    state: SiteState
    again: bool
    seed: int
    labels: Tensor | None = None
    classes: int = 0
    embeddings: Tensor | None = None

    @property
    def phi(self) -> Tensor:
        """The Monosemantic Scale by the running statistics, without gradient; -1 where a position is not real."""
        phi = (self.values.detach() - self.mean).square_().div_(self.scale)
        return phi if self.real is None else phi.masked_fill_(~self.real, -1.0)

    @property
    def samples(self) -> int:
        """How many samples each unit has, padding included."""
        count = 1
        for dim in self.dims:
            count *= self.values.shape[dim]
        return count

    @property
    def matrix(self) -> Tensor:
        """The activations ``(sample, unit)`` on the autograd path; padding is 0."""
        values = self.values if self.real is None else self.values.masked_fill(~self.real, 0.0)
        if len(self.dims) == 1:  # units are elements
            return values.flatten(1)
        return values.transpose(2, 3).reshape(-1, values.shape[2])

    @property
    def real_rows(self) -> Tensor | None:
        """True where a sample of :attr:`matrix` is real, ``(sample,)``; None where all are."""
        if self.real is None or len(self.dims) == 1:
            return None
        return self.real.transpose(2, 3).reshape(-1)

    def row_labels(self) -> Tensor:
        """Return the class of every sample, ``(sample,)``; -1 for none, and for padding.

        Raises:
            InvalidArgumentError: If there are no labels, or they do not fit.
        """
        labels = self.per_row(self._needed(self.labels, "labels"), "labels")
        return labels if self.real_rows is None else torch.where(self.real_rows, labels, -1)

    def row_embeddings(self) -> Tensor:
        """Return the embedding of every sample, of length 1, ``(sample, dimension)``; 0 for padding.

        Raises:
            InvalidArgumentError: If there are no embeddings, or they do not fit.
        """
        given = self._needed(self.embeddings, "embeddings")
        places = torch.arange(given.shape[0], device=self.values.device)
        if given.dim() != 2:
            raise self._unfit("embeddings", given)
        rows = self.per_row(places, "embeddings")
        unit = torch.nn.functional.normalize(given.to(self.values), dim=1)[rows]
        return unit if self.real_rows is None else unit * self.real_rows[:, None]

    def per_row(self, given: Tensor, what: str) -> Tensor:
        """Return what is given for every example, or every position, for every sample.

        Raises:
            InvalidArgumentError: If it does not fit.
        """
        examples, samples = self.values.shape[0], self.samples
        given = given.to(self.values.device)
        if given.dim() == 1 and given.shape[0] == examples:
            return given.repeat_interleave(samples // max(1, examples))
        if given.dim() == 2 and given.shape[0] == examples and given.numel() == samples:
            return given.reshape(-1)
        raise self._unfit(what, given)

    def _needed(self, given: Tensor | None, what: str) -> Tensor:
        if given is None:
            raise InvalidArgumentError(
                f"{self.site.name}: this method needs {what} of the batch. Call mono.expect({what}=...) before the "
                "forward pass of every batch."
            )
        return given

    def _unfit(self, what: str, given: Tensor) -> InvalidArgumentError:
        examples = self.values.shape[0]
        each = self.samples // max(1, examples)
        return InvalidArgumentError(
            f"{self.site.name}: {what} of shape {tuple(given.shape)} do not fit {examples} examples of {each} "
            "position(s): there must be one for each example, or for labels one for each position, and units may not "
            "be elements or pooled then."
        )

    def like_tensor(self, four: Tensor) -> Tensor:
        """Bring ``(example, position, neuron, position)``, or what broadcasts to it, to the shape of the tensor."""
        layout = self.state.statistics.layout
        before, after = layout.around(tuple(self.tensor.shape))
        moved = self.tensor.movedim(layout.batch_axis, 0).shape
        full = four.expand(moved[0], before, self.site.width, after)
        return full.reshape(moved).movedim(0, layout.batch_axis)
