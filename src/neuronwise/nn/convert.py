"""Other neurons in the place of a model's layers, with the same outputs at first."""

from __future__ import annotations

import copy as copying
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError, closest
from neuronwise.nn._normalise import Normalise
from neuronwise.nn.conv import NeuronConv1d, NeuronConv2d
from neuronwise.nn.kind import Kind, KindLike
from neuronwise.nn.kind import kind as kind_of
from neuronwise.nn.layer import NeuronLayer
from neuronwise.nn.linear import NeuronLinear
from neuronwise.sites import Site, require_module

__all__ = ["convert"]

Where = (
    str
    | Site
    | type[nn.Module]
    | tuple[type[nn.Module], ...]
    | Sequence[str | Site]
    | Callable[[str, nn.Module], bool]
)

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def convert(
    model: nn.Module,
    where: Where,
    kind: KindLike,
    *,
    keep_output: bool = True,
    copy: bool = False,
    normalise: Normalise = True,
    clip: float | None = None,
    momentum: float = 0.1,
    seed: int = 0,
) -> nn.Module:
    """Replace layers of a model by layers of neurons of another kind that compute the same at first.

    The weights of the old layer become those of the inner product with x; all others start so that they add nothing
    and can still learn (a base function's weights at 0, one factor of each product at 0, the other factor of a
    quadratic neuron at 1). With ``keep_output=False``, and only then, kinds without x are possible: the new layers
    start at random. Where an old layer has no offset and the kind needs one to be linear, the new layer has one, at 0.

    Layers are ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` and Hugging Face's ``Conv1D``. A layer that stands at several
    places of the model is replaced at all of them. Everything is looked at before anything is changed. Parameters are
    new: make the optimiser afterwards.

    Args:
        model: Any module; a layer itself is returned replaced.
        where: Which layers: a path, a glob (``"*.mlp.c_fc"``), a site or its name (the layer at its path), a list of
            these, a module type or several, or a function of name and module. With a type, a function or a glob modules
            that are no such layers are passed by; a path that names one is an error.
        kind: The kind of neuron, see :func:`neuronwise.nn.kind`.
        keep_output: Whether the model's outputs must be what they were.
        copy: Convert a copy and leave the model as it is.
        normalise: See :class:`NeuronLinear`; ``"all"`` changes x, too, and so goes only with ``keep_output=False``.
        clip: See :class:`NeuronLinear`.
        momentum: See :class:`NeuronLinear`.
        seed: For the weights that start at random.

    Returns:
        The model, changed in place, or its changed copy. The new layers' running statistics are set by the first batch
        in training; in evaluation before it the inputs count as standardised.

    Raises:
        InvalidArgumentError: If the kind cannot start as linear, or not with that ``normalise``; if a layer shares its
            weight with another module, has hooks or a parametrisation, or is used by its parent without being called;
            if nothing matches.
        SiteNotFoundError: If a path or glob matches no module.

    Example:
        >>> from torch import nn
        >>> mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> convert(mlp, "0", "x + sin(x)")[0]
        NeuronLinear(in_features=4, out_features=8, bias=True, kind='x + sin(x)')
    """
    require_module(model)
    wanted = kind_of(kind)
    if keep_output and wanted.linear is None:
        raise InvalidArgumentError(
            f"Neurons of kind {wanted.name!r} cannot start as the linear ones they replace: they need a term <w, x> "
            "that can stand alone while all others start at 0 and learn from there. Add x to the formula "
            f"('{wanted.name} + x'), or pass keep_output=False to start at random."
        )
    if keep_output and normalise == "all":
        raise InvalidArgumentError(
            "With normalise='all' x is standardised, too, and the output would not be what it was. Pass 'features', "
            "which leaves x as it is, or keep_output=False to start at random."
        )
    if copy:
        model = copying.deepcopy(model)
    layers = _chosen(model, where)
    for path, layer in layers.items():
        _check(model, path, layer)
    options = {"normalise": normalise, "clip": clip, "momentum": momentum}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {layer: _replacement(layer, wanted, keep_output, options) for layer in layers.values()}
    if model in made:
        return made[model]
    for parent in list(model.modules()):
        # Not named_children(), which leaves out the second place of a child.
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])
                _slow_path(parent)
    return model


def _chosen(model: nn.Module, where: Where) -> dict[str, nn.Module]:
    """Return the layers that are meant, by the first of their paths."""
    several = where if isinstance(where, list | tuple | Sequence) and not isinstance(where, str) else [where]
    found: dict[nn.Module, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for each in several:
        name = each.path if isinstance(each, Site) else each
        exact = isinstance(name, str) and not set(name) & set("*?")
        for path in _paths(modules, name):
            if exact or _is_layer(modules[path]):
                found.setdefault(modules[path], path)
    if not found:
        raise InvalidArgumentError(
            f"{where!r} matches no nn.Linear, nn.Conv1d, nn.Conv2d or Hugging Face Conv1D of the model."
        )
    return {path: module for module, path in found.items()}


def _paths(modules: dict[str, nn.Module], name: Any) -> list[str]:
    if isinstance(name, type):
        return [path for path, module in modules.items() if isinstance(module, name)]
    if callable(name):
        return [path for path, module in modules.items() if name(path, module)]
    if not isinstance(name, str):
        raise InvalidArgumentError(
            f"where is a path, a glob, a site, a list of them, a module type or a function, not {type(name).__name__}."
        )
    plain = re.sub(r":(input|output)(#\d+)?$", "", name)
    found = [p for p in modules if p == plain or (set(plain) & set("*?") and fnmatchcase(p, plain))]
    if not found:
        raise SiteNotFoundError(f"{name!r} matches no module of the model. {closest(plain, modules)}")
    return found


def _is_layer(module: nn.Module) -> bool:
    # Not their subclasses, which may do anything with their weight.
    return type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d) or _is_transposed(module)


def _is_transposed(module: nn.Module) -> bool:
    """Whether it is Hugging Face's ``Conv1D``: a linear layer with its weight the other way round."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def _check(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Raise an error if a layer cannot be replaced."""
    name = repr(path) if path else "The model"
    if isinstance(layer, NeuronLayer):
        raise InvalidArgumentError(
            f"{name} already has neurons of kind {layer.kind.name!r}. Convert the plain layer to the kind wanted."
        )
    if not _is_layer(layer):
        inner = type(layer).__name__
        hint = " It is used by its parent without being called." if inner.startswith("NonDynamically") else ""
        raise InvalidArgumentError(
            f"{name} is of type {inner}, and what can be replaced is nn.Linear, nn.Conv1d, nn.Conv2d and Hugging "
            f"Face's Conv1D.{hint}"
        )
    if any(getattr(layer, hooks, None) for hooks in _HOOKS):
        raise InvalidArgumentError(
            f"{name} has hooks, which would be lost. Remove them first, and put them on the new layer."
        )
    if getattr(layer, "parametrizations", None):
        raise InvalidArgumentError(
            f"{name} has a parametrisation. Remove it first: torch.nn.utils.parametrize.remove_parametrizations."
        )
    own = {parameter: key for key, parameter in layer.named_parameters(recurse=False)}
    for other_path, other in model.named_modules():
        if other is layer:
            continue
        for key, parameter in other.named_parameters(recurse=False):
            if parameter in own:
                raise InvalidArgumentError(
                    f"{name} shares its {own[parameter]} with {other_path}.{key}; after replacing it they would no "
                    "longer be tied. Choose other layers, or untie them first by cloning the parameter."
                )


def _slow_path(parent: nn.Module) -> None:
    """Keep torch's transformer layer from reading the weights of its layers past their forward."""
    if isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0


def _replacement(layer: nn.Module, kind: Kind, keep_output: bool, options: dict[str, Any]) -> NeuronLayer:
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    form = kind.linear
    needs = keep_output and form is not None and "one" in form.settings.values()
    options = {
        "kind": kind,
        "bias": bias is not None or needs,
        # Drawn on the processor, for the same start on every device.
        "device": "meta" if weight.is_meta else "cpu",
        "dtype": weight.dtype,
        **options,
    }
    made = _like(layer, options).to(weight.device).train(layer.training)
    if keep_output:
        values = weight.detach().T if _is_transposed(layer) else weight.detach()
        _start_linear(made, values, None if bias is None else bias.detach())
    for parameter in made.parameters():
        parameter.requires_grad_(weight.requires_grad)
    return made


def _like(layer: nn.Module, options: dict[str, Any]) -> NeuronLayer:
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        options = {
            **options,
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "groups": layer.groups,
            "padding_mode": layer.padding_mode,
        }
        make: Any = NeuronConv1d if isinstance(layer, nn.Conv1d) else NeuronConv2d
        made: NeuronLayer = make(layer.in_channels, layer.out_channels, layer.kernel_size, **options)
        return made
    shape = tuple(layer.get_parameter("weight").shape)
    inputs, outputs = shape if _is_transposed(layer) else shape[::-1]
    return NeuronLinear(inputs, outputs, **options)


@torch.no_grad()
def _start_linear(made: NeuronLayer, weight: Tensor, bias: Tensor | None) -> None:
    """Set the weights so that a layer is a linear one."""
    kind, form = made.kind, made.kind.linear
    assert form is not None
    named = made.named_weights()
    for index, setting in form.settings.items():
        block = kind.blocks[index]
        for base, name in zip(block.bases, block.weights, strict=False):
            carries = setting == "carry" and kind.lift[base].text == "x"
            named[name].copy_(weight) if carries else named[name].zero_()
        if block.offset in named:
            named[block.offset].fill_(1.0 if setting == "one" else 0.0)
    if form.offset is not None and (offset := kind.blocks[form.offset].offset) in named:
        assert offset is not None
        named[offset].copy_(bias) if bias is not None else named[offset].zero_()
