"""find_sites: where the neurons of a model are, found by themselves or named by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from neuronwise.errors import InvalidArgumentError, SiteAxisError, SiteNotFoundError, closest
from neuronwise.sites._example import example_shapes
from neuronwise.sites._weights import neuron_axis, reads_through, writes_through
from neuronwise.sites.architectures import table_sites
from neuronwise.sites.collection import Sites
from neuronwise.sites.site import Site, TensorName
from neuronwise.sites.structure import layer_of, structure_sites

__all__ = ["Where", "find_sites", "require_module"]

Where = str | type[nn.Module] | tuple[type[nn.Module], ...] | Sequence[str] | Callable[[str, nn.Module], bool]
"""What :func:`find_sites` takes to name modules."""

_NAME = re.compile(r"(?P<path>.*):(?P<tensor>input|output)(?:#(?P<call>\d+))?")


def find_sites(
    model: nn.Module,
    where: Where | None = None,
    *,
    tensor: TensorName | None = None,
    axis: int | None = None,
    width: int | None = None,
    example: Any = None,
) -> Sites:
    """Find where the neurons of a model are.

    Without ``where``, the table of architectures is asked first (the feed-forward neurons of the known Hugging Face
    families: the input of each down projection), then the structure of the model (see
    :mod:`neuronwise.sites.structure`). With ``where``, the modules that it names are taken as they are. Nothing is
    computed, unless an ``example`` is given and needed, and the model is not changed; models on the meta device do.

    Args:
        model: Any module.
        where: Modules by hand: a path (``"encoder.fc"``), a glob (``"*.mlp"``), a site's full name
            (``"encoder.fc:input"``, ``"block:output#2"``), a list of these, a function of name and module, or a
            module type or tuple of types.
        tensor: Whether the neurons are the modules' ``"input"`` or ``"output"`` (the default); by hand only.
        axis: The axis that counts neurons; by hand only. Without it, what the module's type says; else 1 for an
            example's tensor of four or more axes, and the last one for any other.
        width: How many neurons, where the module's type does not tell.
        example: A batch to run once if the width or the axis is not known otherwise, and to check both.

    Raises:
        InvalidArgumentError: If the model is no module, or arguments do not go together.
        SiteNotFoundError: If there is nothing of that name, or no neurons were found.
        SiteAxisError: If the tensor does not have that width on that axis, or the width cannot be told.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> find_sites(model).names
        ('2:input',)
        >>> find_sites(model, "0")[0].width
        8
    """
    require_module(model)
    if where is None:
        if (tensor, axis, width) != (None, None, None):
            raise InvalidArgumentError(
                "tensor=, axis= and width= go with sites named by hand: pass where= too."
            )
        return Sites(_found(model))
    named = _named(model, where, tensor or "output")
    modules = dict(model.named_modules(remove_duplicate=False))
    shapes = _shapes(model, example, named)
    # A full name that discovery knows means that very site, with all that is known about it.
    known: dict[str, Site] = {}
    if axis is None and width is None and example is None and any(full for *_, full in named):
        known = {site.name: site for site in _discovered(model)}
    sites = []
    for path, which, call, full in named:
        name = f"{path}:{which}" if call is None else f"{path}:{which}#{call}"
        if full and name in known:
            sites.append(known[name])
            continue
        site = _by_hand(model, path, modules[path], which, axis, width, shapes.get((path, which)))
        sites.append(replace(site, call=call))
    return Sites(sites)


def require_module(model: object) -> None:
    """Raise an error if it is not a module, with a word on where one may be found.

    Raises:
        InvalidArgumentError: If it is not.
    """
    if isinstance(model, nn.Module):
        return
    hint = ""
    if isinstance(getattr(model, "model", None), nn.Module):
        hint = " It holds one: pass its .model."
    elif isinstance(model, str):
        hint = f" Load it first: load_model({model!r}).model."
    raise InvalidArgumentError(f"The model must be a torch.nn.Module, not {type(model).__name__}.{hint}")


def _found(model: nn.Module) -> list[Site]:
    sites = _discovered(model)
    if not sites:
        raise SiteNotFoundError(
            f"No neurons were found in {type(model).__name__} by itself: no row of the table of architectures "
            "matches, and no linear, convolution or recurrent layers feed into each other where the structure can "
            "be seen. Name the sites by hand: find_sites(model, 'path.of.module'), a glob such as '*.mlp', or a "
            "module type, with tensor='input' or 'output'."
        )
    return sites


def _discovered(model: nn.Module) -> list[Site]:
    return table_sites(model) or structure_sites(model)


_Named = tuple[str, TensorName, int | None, bool]


def _named(model: nn.Module, where: Where, tensor: TensorName) -> list[_Named]:
    """Return ``(path, tensor, call, named in full)`` of what ``where`` names, each once, in order."""
    if isinstance(where, str):
        found = _by_name(model, where, tensor)
    elif isinstance(where, type) or (isinstance(where, tuple) and all(isinstance(t, type) for t in where)):
        types = cast("type[nn.Module] | tuple[type[nn.Module], ...]", where)
        found = [(p, tensor, None, False) for p, m in model.named_modules() if isinstance(m, types)]
    elif callable(where):
        found = [(p, tensor, None, False) for p, m in model.named_modules() if where(p, m)]
    elif isinstance(where, Iterable):
        found = [entry for name in where for entry in _by_name(model, str(name), tensor)]
    else:
        raise InvalidArgumentError(
            f"where is a path, a glob, a list of them, a module type or a function, not {type(where).__name__}."
        )
    if not found:
        raise SiteNotFoundError(f"{where!r} matches none of the {sum(1 for _ in model.modules())} modules.")
    return list(dict.fromkeys(found))


def _by_name(model: nn.Module, where: str, tensor: TensorName) -> list[_Named]:
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    full = _NAME.fullmatch(where)
    pattern, call = where, None
    if full is not None:
        pattern, tensor = full["path"], cast(TensorName, full["tensor"])
        call = None if full["call"] is None else int(full["call"])
    # No glob of brackets: a path never has any.
    found = [
        p for p in paths if p == pattern or (("*" in pattern or "?" in pattern) and fnmatchcase(p, pattern))
    ]
    if not found:
        raise SiteNotFoundError(f"{where!r} matches no module of the model. {closest(pattern, paths)}")
    return [(path, tensor, call, full is not None) for path in found]


def _shapes(
    model: nn.Module, example: Any, named: list[_Named]
) -> dict[tuple[str, TensorName], tuple[int, ...]]:
    if example is None:
        return {}
    shapes: dict[tuple[str, TensorName], tuple[int, ...]] = {}
    tensors: tuple[TensorName, ...] = ("input", "output")
    for tensor in tensors:
        paths = [path for path, which, *_ in named if which == tensor]
        if paths:
            found = example_shapes(model, example, paths, tensor)
            shapes |= {(path, tensor): shape for path, shape in found.items()}
    return shapes


def _by_hand(
    model: nn.Module,
    path: str,
    module: nn.Module,
    tensor: TensorName,
    axis: int | None,
    width: int | None,
    shape: tuple[int, ...] | None,
) -> Site:
    where = f"{path}:{tensor}"
    typical = neuron_axis(module, tensor)
    if axis is None:
        axis = typical[1] if typical else 1 if shape is not None and len(shape) > 3 else -1
    expected = typical[0] if typical and typical[1] == axis else None
    if shape is not None:
        if not -len(shape) <= axis < len(shape):
            raise SiteAxisError(f"{where} has the shape {shape} in the example: there is no axis {axis}.")
        expected = shape[axis]
    if width is None:
        width = expected
    if width is None:
        raise SiteAxisError(
            f"How many neurons {where} has on axis {axis} cannot be told from its type {type(module).__name__}. "
            "Give width=, or example= (a batch to run once)."
        )
    if expected is not None and width != expected:
        raise SiteAxisError(f"{where} has {expected} neurons on axis {axis}, not {width}.")
    stack, layer = layer_of(model, path)
    matches = typical is not None and typical == (width, axis)
    read = reads_through(path, module) if matches and tensor == "output" else None
    writes = writes_through(path, module) if matches and tensor == "input" else None
    return Site(path, tensor, width, axis, layer, stack, reads=(read,) if read else (), writes=writes)
