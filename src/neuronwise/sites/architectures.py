"""The table of architectures: where the feed-forward neurons of known model families are.

The table is data, in ``architectures.toml``: a new family is one row there. A row is chosen by ``config.model_type`` of
the model or of any module inside it, so a Hugging Face model is also recognised inside a user's own module.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from torch import nn

from neuronwise.sites._weights import dense_shape, reads_through, writes_through
from neuronwise.sites.site import Site, WeightSlice

__all__ = ["Family", "Match", "Read", "families", "match_families", "table_sites"]


@dataclass(frozen=True, slots=True)
class Read:
    """One weight that reads into the neurons: the module, its role, and which part of a fused projection."""

    role: str
    module: str
    part: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table; the fields are explained at its top."""

    name: str
    model_types: tuple[str, ...]
    neurons: str
    reads: tuple[Read, ...]
    final_norm: str | None = None
    norm_offset: float = 0.0
    norm_centred: bool = False
    output_norm: str | None = None
    project_out: str | None = None
    reused: Mapping[str, str] | None = None

    @property
    def pattern(self) -> re.Pattern[str]:
        """The path of the neurons as a regular expression, with what stands before it as ``prefix``."""
        numbers = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[0-9]+)", re.escape(self.neurons))
        return re.compile(rf"(?P<prefix>(?:.+\.)?){numbers}")


@dataclass(frozen=True, slots=True)
class Match:
    """A down projection that a row of the table matches, with what its path says."""

    family: Family
    path: str
    prefix: str
    numbers: Mapping[str, int]
    config: Any

    def sibling(self, pattern: str) -> str:
        """Return the path of another module of the same layer, or beside the list of layers."""
        return self.prefix + pattern.format(**self.numbers)

    @property
    def stack(self) -> str:
        """Path of the list of layers."""
        return self.prefix + self.family.neurons.partition(".{layer}")[0]


@cache
def families() -> tuple[Family, ...]:
    """Return the rows of the table."""
    text = resources.files("neuronwise.sites").joinpath("architectures.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["family"]
    return tuple(
        Family(
            **row
            | {
                "model_types": tuple(row["model_types"]),
                "reads": tuple(Read(**read) for read in row["reads"]),
            }
        )
        for row in rows
    )


def match_families(model: nn.Module) -> list[Match]:
    """Return the down projections that the table knows, in the model's order."""
    rows: dict[str, list[tuple[Family, re.Pattern[str]]]] = {}
    for family in families():
        for model_type in family.model_types:
            rows.setdefault(model_type, []).append((family, family.pattern))
    modules = dict(model.named_modules())
    configs: dict[str, Any] = {}
    found = []
    for path, module in modules.items():
        # The nearest config counts: the towers of a model with several have one each. Parents come before children.
        own = getattr(module, "config", None)
        known = isinstance(getattr(own, "model_type", None), str)
        configs[path] = own if known or not path else configs.get(path.rpartition(".")[0])
        for family, pattern in rows.get(getattr(configs[path], "model_type", None) or "", ()):
            hit = pattern.fullmatch(path)
            if hit is None or dense_shape(module) is None:
                continue
            numbers = {name: int(text) for name, text in hit.groupdict().items() if name != "prefix"}
            match = Match(family, path, hit["prefix"], numbers, configs[path])
            if all(match.sibling(read.module) in modules for read in family.reads):
                found.append(match)
                break
    return found


def table_sites(model: nn.Module) -> list[Site]:
    """Return the sites that the table knows, in the model's order; empty if no row matches."""
    sites: list[Site] = []
    matches = match_families(model)
    for match in matches:
        module = model.get_submodule(match.path)
        shape = dense_shape(module)
        if shape is None:
            continue
        reads, writes = _reads(model, match, shape[0]), writes_through(match.path, module)
        sites += [
            Site(match.path, "input", shape[0], -1, layer, match.stack, "ffn", call, reads, writes)
            for layer, call in _calls(match)
        ]
    if any(match.family.reused for match in matches):
        # Modules that are shared run again and again: the order of the layers is not that of the modules.
        sites.sort(key=lambda site: (site.stack, site.layer or 0))
    return sites


def _reads(model: nn.Module, match: Match, width: int) -> tuple[WeightSlice, ...]:
    slices = []
    for read in match.family.reads:
        path = match.sibling(read.module)
        piece = reads_through(path, model.get_submodule(path), role=read.role, part=read.part, of=read.of)
        if piece is not None and piece.stop - piece.start == width:
            slices.append(piece)
    return tuple(slices)


def _calls(match: Match) -> list[tuple[int, int | None]]:
    """Return ``(layer, call)`` of each time that the module runs in one forward pass."""
    if match.family.reused is None:
        return [(match.numbers["layer"], None)]
    # The layers share their modules: layer i runs group floor(i * groups / layers), each with all of its inner
    # layers (ALBERT, Lan et al. 2020). Layers are numbered as they run.
    sizes = {key: int(getattr(match.config, name)) for key, name in match.family.reused.items()}
    group, inner = match.numbers["layer"], match.numbers["inner"]
    per_group = sizes["layers"] / sizes["groups"]
    runs = [i for i in range(sizes["layers"]) if int(i / per_group) == group]
    return [(i * sizes["inner"] + inner, call if len(runs) > 1 else None) for call, i in enumerate(runs)]
