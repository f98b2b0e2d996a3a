"""neuronwise: find, watch, change and design the neurons of any PyTorch model.

The names here are the few that most users need; the rooms (:mod:`neuronwise.sites`, :mod:`neuronwise.hooks`,
:mod:`neuronwise.observe`, ...) have the rest. Every name is imported when it is first used, so that
``import neuronwise`` itself costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Final

from neuronwise import errors

if TYPE_CHECKING:
    from neuronwise import estimators as estimators
    from neuronwise import formula as formula
    from neuronwise import nn as nn
    from neuronwise import train as train
    from neuronwise.attribute import Attribution, attribute
    from neuronwise.data import Fact, corpus, facts, load_model, load_weights
    from neuronwise.discover import Discovery, discover
    from neuronwise.estimators import TaskNeuronClassifier, TaskNeuronRegressor
    from neuronwise.formula import Formula
    from neuronwise.hooks import capture, check, intervene
    from neuronwise.knowledge import KnowledgeNeurons, locate
    from neuronwise.nn import convert
    from neuronwise.observe import Activity, ablate, monosemanticity, observe
    from neuronwise.sites import NeuronSet, Site, Sites, find_sites, promoted_tokens
    from neuronwise.store import load_result as load
    from neuronwise.store import query

__version__ = "0.1.0"

__all__ = [
    "Activity",
    "Attribution",
    "Discovery",
    "Fact",
    "Formula",
    "KnowledgeNeurons",
    "NeuronSet",
    "Site",
    "Sites",
    "TaskNeuronClassifier",
    "TaskNeuronRegressor",
    "ablate",
    "attribute",
    "capture",
    "check",
    "convert",
    "corpus",
    "discover",
    "errors",
    "facts",
    "find_sites",
    "intervene",
    "load",
    "load_model",
    "load_weights",
    "locate",
    "monosemanticity",
    "observe",
    "promoted_tokens",
    "query",
]

# Rooms that are used by their own name, as in nw.nn.NeuronLinear; imported when first used.
_ROOMS: Final = ("estimators", "formula", "nn", "train")

# Public name -> (room, its name there).
_NAMES: Final = MappingProxyType(
    {
        "Activity": ("observe", "Activity"),
        "Attribution": ("attribute", "Attribution"),
        "Discovery": ("discover", "Discovery"),
        "Fact": ("data", "Fact"),
        "Formula": ("formula", "Formula"),
        "KnowledgeNeurons": ("knowledge", "KnowledgeNeurons"),
        "NeuronSet": ("sites", "NeuronSet"),
        "Site": ("sites", "Site"),
        "Sites": ("sites", "Sites"),
        "TaskNeuronClassifier": ("estimators", "TaskNeuronClassifier"),
        "TaskNeuronRegressor": ("estimators", "TaskNeuronRegressor"),
        "ablate": ("observe", "ablate"),
        "attribute": ("attribute", "attribute"),
        "capture": ("hooks", "capture"),
        "check": ("hooks", "check"),
        "convert": ("nn", "convert"),
        "corpus": ("data", "corpus"),
        "discover": ("discover", "discover"),
        "facts": ("data", "facts"),
        "find_sites": ("sites", "find_sites"),
        "intervene": ("hooks", "intervene"),
        "load": ("store", "load_result"),
        "load_model": ("data", "load_model"),
        "load_weights": ("data", "load_weights"),
        "locate": ("knowledge", "locate"),
        "monosemanticity": ("observe", "monosemanticity"),
        "observe": ("observe", "observe"),
        "promoted_tokens": ("sites", "promoted_tokens"),
        "query": ("store", "query"),
    }
)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562), and keep it."""
    if name in _ROOMS:
        return importlib.import_module(f"neuronwise.{name}")
    if name not in _NAMES:
        raise AttributeError(
            f"module 'neuronwise' has no attribute {name!r}. {errors.closest(name, [*__all__, *_ROOMS])}"
        )
    room, attribute = _NAMES[name]
    value: object = getattr(importlib.import_module(f"neuronwise.{room}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those that have not been imported yet."""
    return sorted({*globals(), *__all__, *_ROOMS})


class _Package(ModuleType):
    """Lets a verb keep its name where the room it lives in has the same one.

    Importing ``neuronwise.observe`` makes Python store that module as the attribute ``observe`` of this package,
    and ``neuronwise.observe(...)`` would no longer be the function. The room itself stays importable as ever:
    ``from neuronwise.observe import ...``.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _NAMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
