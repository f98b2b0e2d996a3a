"""attribute: one signature for every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from neuronwise.attribute._forms import Form
from neuronwise.attribute._positions import PositionsLike
from neuronwise.attribute.ablation import Ablation
from neuronwise.attribute.activation import Activation
from neuronwise.attribute.attribution import Attribution
from neuronwise.attribute.conductance import Conductance
from neuronwise.attribute.deeplift import DeepLift
from neuronwise.attribute.direct import DirectLogitAttribution
from neuronwise.attribute.gradient import GradientTimesActivation
from neuronwise.attribute.influence import InternalInfluence
from neuronwise.attribute.integrated import IntegratedGradients
from neuronwise.attribute.log_increase import LogProbabilityIncrease
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.noise import FusionGrad, NoiseGrad, SmoothGrad
from neuronwise.attribute.problem import Problem
from neuronwise.attribute.reference import Counterfactual, Reference
from neuronwise.attribute.targets import Target, TargetFunction, as_target
from neuronwise.data import model_card
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.hooks import batch_mismatch, frozen_parameters, untouched
from neuronwise.sites import NeuronSet, Site, Sites, find_sites
from neuronwise.store import Manifest

__all__ = ["METHODS", "attribute", "score"]

METHODS: Mapping[str, Callable[[], Method]] = MappingProxyType(
    {
        "ablation": Ablation,
        "activation": Activation,
        "conductance": Conductance,
        "deeplift": DeepLift,
        "direct_logit": DirectLogitAttribution,
        "fusion_grad": FusionGrad,
        "gradient_x_activation": GradientTimesActivation,
        "integrated_gradients": IntegratedGradients,
        "internal_influence": InternalInfluence,
        "joint_integrated_gradients": lambda: IntegratedGradients(joint=True),
        "log_probability_increase": LogProbabilityIncrease,
        "noise_grad": NoiseGrad,
        "smooth_grad": SmoothGrad,
    }
)


def attribute(
    model: nn.Module,
    inputs: Any,
    target: Target | TargetFunction,
    *,
    sites: Site | Sites | None = None,
    method: str | Method = "integrated_gradients",
    positions: PositionsLike = None,
    reference: Reference = None,
    memory: int = 1 << 30,
    form: Form = "auto",
) -> Attribution:
    """Say how much every neuron contributes to one number of the model's output, for every example of a batch.

    Args:
        model: Any module. It is bit-identical afterwards, also after an exception; gradients of its parameters are
            never computed. It runs in evaluation mode.
        inputs: The batch, whose tensors' first axis counts examples; for language models ``prompts.inputs`` of
            :func:`neuronwise.data.encode`.
        target: :class:`LogProbability` or :class:`Probability` of answers, :class:`LogitDifference`,
            :class:`NeuronActivation`, or a function ``(output, examples)`` to one number a row.
        sites: Whose neurons; by default the feed-forward neurons that ``find_sites`` finds.
        method: A name in ``METHODS``, or a :class:`Method` with its settings, such as
            ``IntegratedGradients(rule="left", nodes=20)``.
        positions: None for the target's positions (all, where it has none), ``"all"``, whole numbers (negative ones
            count from each example's last real token), or int64 ``(example, position)``, -1 where there are fewer.
        reference: What a neuron is compared with: None for 0, ``{site: one value a neuron}`` such as the means of an
            observed corpus, or :class:`Counterfactual` for another batch.
        memory: Bytes that a run may take for activations and their gradients; larger problems are cut.
        form: How rows share work: ``"auto"``, or for comparison ``"wide"`` (every row through all layers),
            ``"growing"`` (rows join at the first layer in which they differ), ``"prefix"`` (and only the last token is
            run).

    Returns:
        The scores, with the completeness gap where the method has one.

    Raises:
        InvalidArgumentError: If an argument does not fit.
        SiteNotFoundError: If a site is not in the model, or none is found.
        CompiledModelError: If hooks on the model would be skipped.
        BatchMismatchError: If batch and model differ in device or dtype.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.GELU(), torch.nn.Linear(3, 1))
        >>> found = attribute(model, torch.ones(1, 2), lambda output, examples: output[:, 0])
        >>> found.gap < 1e-6, found.converged
        (True, True)
    """
    chosen = _method(method)
    batch_mismatch(model, inputs)
    with untouched(model), frozen_parameters(model):
        problem = Problem(
            model,
            inputs,
            as_target(target),
            _sites(model, sites),
            positions=positions,
            memory=memory,
            form=form,
        )
        problem.value  # noqa: B018 - the model must not run later: only here is it in evaluation mode
        scores = score(problem, chosen, reference)
    return _result(model, problem, chosen, scores, reference)


def score(problem: Problem, method: Method, reference: Reference = None) -> Scores:
    """Return the scores of a method as tensors, without a result around them; for many small problems.

    Raises:
        InvalidArgumentError: If the reference does not fit the problem.
    """
    return method.solve(problem, reference)


def _method(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise InvalidArgumentError(
            f"There is no attribution method {method!r}. {closest(str(method), METHODS)}"
        )
    return METHODS[method]()


def _sites(model: nn.Module, sites: Site | Sites | None) -> Sites:
    return find_sites(model) if sites is None else Sites.of(sites)


def _result(
    model: nn.Module, problem: Problem, method: Method, scores: Scores, reference: Reference
) -> Attribution:
    examples = np.arange(problem.count)
    value = problem.value.double().cpu().numpy()
    completeness = pd.DataFrame(
        {
            "path": np.repeat([_path_name(path, problem) for path in scores.paths], problem.count),
            "example": np.tile(examples, len(scores.paths)),
            "reference": scores.start.double().numpy().ravel(),
            "gap": scores.gap.double().numpy().ravel(),
            "nodes": scores.nodes.numpy().ravel(),
            "converged": scores.converged.numpy().ravel(),
        }
    )
    arrays = {}
    for site in problem.sites:
        arrays[f"scores/{site.name}"] = scores.values[site].double().cpu().numpy()
        arrays[f"positions/{site.name}"] = problem.positions[site].numpy()
    parameters = {
        "method": {"name": method.name, **_plain(method)},
        "target": type(problem.target).__name__,
        "reference": _reference_name(reference),
        "form": problem.form_used,
        "forwards": round(problem.cost.forwards, 3),
        "backwards": round(problem.cost.backwards, 3),
    }
    manifest = Manifest(
        kind="attribution",
        action={"name": "attribute", "parameters": parameters},
        model=model_card(model),
        data={"examples": problem.count},
    )
    tables = {
        "sites": problem.sites.to_frame(),
        "targets": pd.DataFrame({"example": examples, "value": value}),
        "completeness": completeness,
    }
    return Attribution(tables=tables, manifest=manifest, arrays=arrays)


def _path_name(path: tuple[Site, ...], problem: Problem) -> str:
    return path[0].name if len(path) == 1 else "all sites" if len(path) == len(problem.sites) else "several"


def _plain(method: Method) -> dict[str, Any]:
    """Return a method's settings as plain JSON."""
    settings: dict[str, Any] = {}
    for entry in dataclasses.fields(method):  # type: ignore[arg-type] # every method is a data class
        value = getattr(method, entry.name)
        if isinstance(value, Method):
            value = {"name": value.name, **_plain(value)}
        elif isinstance(value, NeuronSet):
            value = {site.name: value.indices(site).tolist() for site in value.sites}
        elif isinstance(value, Tensor):
            value = f"tensor of shape {tuple(value.shape)}"
        settings[entry.name] = value
    return settings


def _reference_name(reference: Reference) -> str:
    return (
        "zero"
        if reference is None
        else "counterfactual"
        if isinstance(reference, Counterfactual)
        else "given"
    )
