"""A patch on disk: one safetensors file whose metadata say what the tensors are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from neuronwise.edit._changes import Change, LowRank
from neuronwise.errors import NeuronwiseError, PatchError
from neuronwise.files import atomic_file

if TYPE_CHECKING:
    from neuronwise.edit.patch import Patch

__all__ = ["FORMAT", "VERSION", "read", "write"]

FORMAT = "neuronwise.patch"
VERSION = 1


def write(patch: Patch, path: Path) -> Path:
    """Write the file, whole or not at all."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    listed: list[dict[str, str | int]] = []
    for number, change in enumerate(patch.changes):
        if isinstance(change, LowRank):
            named = {"left": change.left, "right": change.right}
            listed.append({"kind": "low_rank", "parameter": change.parameter, "base": change.base})
        else:
            named = {"old": change.old, "new": change.new}
            if change.index is not None:
                named["index"] = change.index
            listed.append({"kind": "values", "parameter": change.parameter, "axis": change.axis})
        tensors |= {f"{number}.{name}": tensor for name, tensor in named.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "base": patch.base or "",
        "method": patch.method,
        "parameters": json.dumps(dict(patch.parameters), sort_keys=True),
        "facts": json.dumps([dict(fact) for fact in patch.facts], sort_keys=True),
        "changes": json.dumps(listed),
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata)
    return path


def read(path: Path) -> dict[str, Any]:
    """Return the fields of the patch in a file.

    Raises:
        PatchError: If the file is not a patch, or one of a newer neuronwise.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise PatchError(f"Cannot read {path} as a patch: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise PatchError(f"{path} is a safetensors file, but not a patch of neuronwise.")
    if not metadata.get("version", "").isdecimal() or int(metadata["version"]) > VERSION:
        raise PatchError(
            f"{path} is a patch of version {metadata.get('version')!r}, and this neuronwise reads up to version "
            f"{VERSION}. Install a newer one."
        )
    try:
        return {
            "changes": tuple(
                _change(entry, number, tensors)
                for number, entry in enumerate(json.loads(metadata["changes"]))
            ),
            "method": metadata["method"],
            "base": metadata["base"] or None,
            "parameters": json.loads(metadata["parameters"]),
            "facts": tuple(json.loads(metadata["facts"])),
        }
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, NeuronwiseError) as error:
        raise PatchError(f"{path} is not a whole patch: {type(error).__name__}: {error}.") from error


def _change(entry: dict[str, Any], number: int, tensors: dict[str, Tensor]) -> Change | LowRank:
    named = {name: tensors.get(f"{number}.{name}") for name in ("old", "new", "index")}
    if entry["kind"] == "low_rank":
        left, right = tensors[f"{number}.left"], tensors[f"{number}.right"]
        return LowRank(entry["parameter"], left, right, entry["base"])
    if entry["kind"] != "values" or named["old"] is None or named["new"] is None:
        raise PatchError(f"change {number} is incomplete")
    return Change(entry["parameter"], named["old"], named["new"], named["index"], int(entry["axis"]))
