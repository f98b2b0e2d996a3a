"""The search for a neuron of one layer of a trained network: what its inputs could say, and its neurons cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.discover.discover import Confidence, discover
from neuronwise.discover.discovery import Discovery
from neuronwise.discover.method import Method
from neuronwise.errors import DataError, InvalidArgumentError, counted
from neuronwise.formula import Base, Formula
from neuronwise.hooks import call_model, capture, refuse_uncatchable, untouched
from neuronwise.nn import convert
from neuronwise.sites import Site, find_sites

__all__ = ["LayerProposal", "discover_layer"]

_SMALL = 0.01  # of the largest variance; directions of the target with less are not searched


@dataclass(frozen=True, eq=False)
class LayerProposal:
    """A neuron proposed for a layer.

    Args:
        where: The layer's path.
        neuron: The neuron's form with free weights; it contains ``x``, so that the layer can be converted without a
            change of the model's output. ``x`` alone: stay with linear neurons.
        discovery: The search: formulas, confidence, figures on rows held out.
        directions: Number of directions of the target that were searched.
        variance: Share of the target's variance that lies in them.
    """

    where: str
    neuron: Formula
    discovery: Discovery
    directions: int
    variance: float

    @property
    def linear(self) -> bool:
        """Whether nothing better than linear neurons was found."""
        return str(self.neuron) == "x"

    def apply(self, model: nn.Module, *, copy: bool = False) -> nn.Module:
        """Give the layer these neurons; the model computes the same at first. See :func:`neuronwise.nn.convert`.

        Args:
            model: The model.
            copy: Change a copy.
        """
        return convert(model, self.where, self.neuron, copy=copy)


def discover_layer(
    model: nn.Module,
    site: str | Site,
    data: Iterable[Any],
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    target: Literal["gradient", "output", "given"] = "gradient",
    rows: int = 20_000,
    directions: int = 8,
    method: str | Method = "group",
    bases: str | Sequence[str | Base] = "default",
    confidence: Confidence = "none",
    seed: int = 0,
) -> LayerProposal:
    r"""Search base functions of a layer's inputs that would help where its neurons cannot.

    The layer computes ``z = W x + b``. With ``target="gradient"`` each row's ``-dL/dz`` is searched: where ``z`` should
    move, sample by sample, for the loss to fall. In a trained network no function ``W' x`` explains anything of it, as
    the gradient of W is 0; a base function that does is one whose weights, starting at 0, have a gradient - the larger
    the better it explains. Adding ``V phi(x)`` with the regression's V is the step of a functional gradient descent
    (Mason et al. 2000, NeurIPS 12; for growing networks: Fahlman and Lebiere 1990; Evci et al. 2022, arXiv 2201.05125).
    It says what helps first, with the rest of the network as it is; whether it pays is seen after training.

    Of many neurons the directions in which their gradients vary most are searched, all together. The neuron proposed is
    linear (``x``) where nothing was found, or where on rows held out the 95 % interval of R2 is not above 0.

    Args:
        model: The network. It is run in evaluation mode and left as it is.
        site: The layer: a path or site. Linear layers and anything else with its neurons on the last axis; Conv1d and
            Conv2d without groups, whose inputs are the patches that they see.
        data: Batches ``(inputs, target)``; for ``target="output"`` also inputs alone.
        loss: Function of the model's output and the batch's target; its mean over a batch.
        target: ``"gradient"``; ``"output"``: what the module computes, to find a neuron in place of a whole block; or
            ``"given"``: the batch's target itself, one row for each row of the layer's inputs.
        rows: Rows (samples, positions) at most, taken at random.
        directions: Directions of the target at most.
        method: A search method, see :func:`discover`.
        bases: Base functions, see :func:`discover`. The layer will see their arguments standardised and clipped, so
            that powers do no harm; ``"bounded"`` is safer still where inputs drift far.
        confidence: See :func:`discover`.
        seed: Seed of the choice of rows and of the search.

    Raises:
        InvalidArgumentError: If an argument is wrong, or the loss is missing.
        DataError: If there are no batches, or the target does not vary.
        SiteNotFoundError: If there is no such layer.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> x = torch.rand(600, 3) * 4 - 2
        >>> y = torch.sin(3 * x).sum(1, keepdim=True) + x[:, :1]
        >>> model = nn.Linear(3, 1)
        >>> solved = torch.linalg.lstsq(torch.cat([x, torch.ones(600, 1)], 1), y).solution
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(solved[:3].T), model.bias.copy_(solved[3])
        >>> found = discover_layer(model, "", [(x, y)], loss=nn.functional.mse_loss, bases="x, x**2, sin(3*x)")
        >>> "sin(3*x)" in found.discovery.terms
        True
    """
    if target not in ("gradient", "output", "given"):
        raise InvalidArgumentError(f"target must be 'gradient', 'output' or 'given', not {target!r}.")
    if target == "gradient" and loss is None:
        raise InvalidArgumentError(
            "Gradients need a loss: pass loss=torch.nn.functional.cross_entropy, or what the model was trained by."
        )
    if rows < 20 or directions < 1:
        raise InvalidArgumentError(f"rows must be at least 20 and directions 1, not {rows} and {directions}.")
    refuse_uncatchable(model)
    path = site.path if isinstance(site, Site) else site
    inputs, wanted = _collected(model, path, data, loss, target, rows, seed)
    narrow, share = _principal(wanted, directions)
    discovery = discover(
        inputs,
        narrow[:, 0] if narrow.shape[1] == 1 else narrow,
        task="regression",
        method=method,
        bases=bases,
        # The layer standardises the arguments of base functions too.
        scale="standard",
        confidence=confidence,
        seed=seed,
    )
    return LayerProposal(path, _neuron(discovery), discovery, narrow.shape[1], share)


def _collected(
    model: nn.Module,
    path: str,
    data: Iterable[Any],
    loss: Callable[[Any, Any], Tensor] | None,
    target: str,
    rows: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return inputs ``(n, d)`` and targets ``(n, m)`` of random rows of the layer."""
    rng = np.random.default_rng(seed)
    keys, inputs, wanted = np.empty(0), None, None
    with untouched(model):
        for batch in data:
            x, y = _batch_rows(model, path, batch, loss, target)
            keys = np.concatenate([keys, rng.random(len(x))])
            inputs = x if inputs is None else np.concatenate([inputs, x])
            wanted = y if wanted is None else np.concatenate([wanted, y])
            if len(keys) > rows:
                # The rows with the smallest random keys are a fair sample, however many are still to come.
                kept = np.sort(np.argpartition(keys, rows)[:rows])
                keys, inputs, wanted = keys[kept], inputs[kept], wanted[kept]
    if inputs is None or wanted is None:
        raise DataError("There is no batch in data.")
    for values, what in ((inputs, "read by the layer"), (wanted, "of its target")):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise DataError(
                f"{bad} of {values.size} values {what} ({path!r}) are NaN or infinite. Look at the batches, and "
                "whether the training of the model has diverged."
            )
    return inputs, wanted


def _batch_rows(
    model: nn.Module, path: str, batch: Any, loss: Callable[[Any, Any], Tensor] | None, target: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    if not pair and target != "output":
        raise InvalidArgumentError(f"Each batch must be (inputs, target), not {type(batch).__name__}.")
    given, wanted = batch if pair else (batch, None)
    into = find_sites(model, path or [""], tensor="input", example=given)[0]
    out = find_sites(model, path or [""], tensor="output", example=given)[0]
    layer = into.module(model)
    with torch.enable_grad(), capture(model, [into, out]) as seen:
        result = call_model(model, given)
        x, z = seen[into], seen[out]
        if target == "gradient":
            assert loss is not None
            value = loss(result, wanted)
            if not z.requires_grad:
                raise InvalidArgumentError(
                    f"The output of {path!r} is not on the path of gradients; is it frozen, or not used by the loss?"
                )
            # Of a mean over the batch, so that batches of any size count alike.
            wanted = -torch.autograd.grad(value, z)[0] * len(z)
        elif target == "output":
            wanted = z
    assert wanted is not None
    return _flat(layer, x.detach(), wanted.detach(), into.axis, out.axis if target != "given" else -1)


def _flat(
    layer: nn.Module, x: Tensor, y: Tensor, x_axis: int, y_axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one row for each vector that the layer reads."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        if layer.groups != 1:
            raise InvalidArgumentError(
                "A convolution with groups reads other inputs for each group; search one group."
            )
        read = _patches(layer, x)
    else:
        read = x.movedim(x_axis, -1).flatten(0, -2)
    y = y.movedim(y_axis, -1) if y.ndim > 1 else y[:, None]
    wanted = y.flatten(0, -2)
    if len(read) != len(wanted):
        raise DataError(f"The layer read {counted(len(read), 'row')}, and the target has {len(wanted)}.")
    return read.double().cpu().numpy(), wanted.double().cpu().numpy()


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Return what every position of a convolution reads, ``(positions, channels * kernel)``."""
    if isinstance(layer.padding, str):
        raise InvalidArgumentError(
            "A convolution with padding given by name is not taken apart; give it as a number."
        )
    one = isinstance(layer, nn.Conv1d)
    sizes = [layer.kernel_size, layer.dilation, layer.padding, layer.stride]
    kernel, dilation, padding, stride = [(1, *s) if one else s for s in sizes]
    padding = (0, padding[1]) if one else padding
    unfolded = nn.functional.unfold(x[:, :, None] if one else x, kernel, dilation, padding, stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def _principal(target: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], float]:
    """Return the target along the directions in which it varies most, and their share of its variance."""
    centred = target - target.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[0] > 1e-24 * max(float((target**2).sum()), 1e-300):
        raise DataError(
            "The target of the layer does not vary: the loss does not depend on it, or it fits exactly."
        )
    count = min(most, int(np.count_nonzero(values >= _SMALL * values[0])))
    return centred @ vectors[:, :count], float(values[:count].sum() / values.sum())


def _neuron(discovery: Discovery) -> Formula:
    """Return the neuron to propose: what was found and ``x``; ``x`` alone where nothing holds on the rows held out."""
    figures = discovery.tables["discovery_figures"].set_index("name")
    low = float(figures["low"].get("r2", np.nan))
    if not discovery.terms or discovery.terms == ("x",) or low <= 0:
        return Formula("x")
    found = Formula(discovery.neuron, inputs=None)
    if "x" in discovery.terms:
        return found
    number = next(k for k in range(1, 10_000) if f"w{k}" not in found.parameters)
    return Formula(f"<w{number}, x> + {found}")
