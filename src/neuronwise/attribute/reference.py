"""References: what a neuron's activation is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuronwise.attribute._positions import PositionsLike
from neuronwise.attribute.problem import Problem
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.sites import Site

__all__ = ["Counterfactual", "Reference", "reference_of"]


@dataclass(frozen=True)
class Counterfactual:
    """The activations in another run, example by example: attribution patching, patching.

    Args:
        inputs: A batch with as many examples as the one that is attributed to.
        positions: Where in it to read, if not at the same positions; see :func:`neuronwise.attribute.attribute`.
    """

    inputs: Any
    positions: PositionsLike = None


Reference = None | Mapping[Any, Any] | Counterfactual
"""None is 0; a mapping ``{site or its name: (neuron,)}`` the means of a corpus (``activity.means()``)."""


def reference_of(problem: Problem, asked: Reference) -> dict[Site, Tensor]:
    """Return the reference of every neuron, ``{site: (example, position, neuron)}``.

    Raises:
        InvalidArgumentError: If it does not fit the problem.
    """
    if asked is None:
        return {site: torch.zeros_like(values) for site, values in problem.activations.items()}
    if isinstance(asked, Counterfactual):
        return _other_run(problem, asked)
    if not isinstance(asked, Mapping):
        raise InvalidArgumentError(
            "reference must be None (zero), {site: one value a neuron} such as activity.means(), or "
            f"Counterfactual(inputs); not {type(asked).__name__}."
        )
    by_name = {str(site): values for site, values in asked.items()}
    found = {}
    for site, values in problem.activations.items():
        if site.name not in by_name:
            raise InvalidArgumentError(
                f"The reference has nothing for {site.name}. {closest(site.name, by_name)}"
            )
        given = torch.as_tensor(np.asarray(by_name[site.name])).to(values)
        try:
            found[site] = given.expand_as(values).clone() * problem.valid(site).to(values).unsqueeze(-1)
        except RuntimeError as error:
            raise InvalidArgumentError(
                f"The reference of {site.name} has shape {tuple(given.shape)}; it must be one value a neuron "
                f"({site.width}), or {tuple(values.shape)}."
            ) from error
    return found


def _other_run(problem: Problem, other: Counterfactual) -> dict[Site, Tensor]:
    asked = problem.asked_positions if other.positions is None else other.positions
    run = Problem(problem.model, other.inputs, problem.target, problem.sites, positions=asked)
    found = dict(run.activations)
    for site, values in problem.activations.items():
        if found[site].shape != values.shape:
            raise InvalidArgumentError(
                f"The counterfactual has shape {tuple(found[site].shape)} at {site.name}, the batch "
                f"{tuple(values.shape)}: give a batch with as many examples, and positions that correspond."
            )
    return found
