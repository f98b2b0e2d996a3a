"""Weights: read from safetensors, hashed, and described."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuronwise.errors import DataError, UnsafeFileError

__all__ = ["CONVERT", "PICKLES", "hash_model", "load_weights", "model_card"]

# Endings of files that hold weights as pickles.
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

# What to do with one, for error messages.
CONVERT = (
    "Convert it once: safetensors.torch.save_file(torch.load(path, weights_only=True), '{out}.safetensors')."
)

# Bytes of a parameter that are hashed at a time.
_CHUNK = 1 << 24


def load_weights(model: nn.Module, path: str | Path, *, strict: bool = True) -> None:
    """Load the weights of a safetensors file into a model of the user's own.

    Nothing is changed unless everything fits.

    Args:
        model: The model; its weights are overwritten.
        path: The safetensors file.
        strict: Whether the names in the file and in the model must be the same; shapes must be in any case.

    Raises:
        UnsafeFileError: If the file is a pickle.
        DataError: If it cannot be read, or names or shapes do not match.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    if file.suffix.lower() in PICKLES:
        raise UnsafeFileError(
            f"{file} is a pickle, and loading it could run any code. {CONVERT.format(out=file.stem)} "
            "If you trust it, load it yourself with torch.load(path, weights_only=True)."
        )
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read {file} as safetensors: {error}.") from error
    _check_weights(model, weights, file, strict)
    # A model on the meta device has no memory to copy into, so it takes over the tensors.
    model.load_state_dict(weights, strict=False, assign=any(p.is_meta for p in model.parameters()))


def hash_model(model: nn.Module) -> str | None:
    """Return a SHA-256 over all parameters and buffers, or None when they have no values (meta device).

    Each is hashed by name, in order: name, type, shape and bytes, a few megabytes at a time; nothing is copied as a
    whole. Tied weights count once a name.

    Args:
        model: Any module.
    """
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        if tensor.is_meta:
            return None
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().reshape(-1)
        step = max(_CHUNK // max(flat.element_size(), 1), 1)
        for start in range(0, flat.numel(), step):
            piece = flat[start : start + step].contiguous().cpu()
            digest.update(piece.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_card(model: nn.Module, name: str | None = None) -> dict[str, Any]:
    """Return what identifies a model, ready for JSON.

    Args:
        model: Any module.
        name: A short name for reports; None takes the name of what it was loaded from, or the class's.

    Returns:
        ``name``, ``class``, ``parameters`` (their number; tied ones count once), ``dtypes``, ``devices``, ``config``
        (of transformers models, else None) and ``sha256`` (None on the meta device).

    Example:
        >>> card = model_card(nn.Linear(3, 2), "tiny")
        >>> card["name"], card["class"], card["parameters"]
        ('tiny', 'torch.nn.modules.linear.Linear', 8)
    """
    parameters = list(model.parameters())
    config: Any = getattr(model, "config", None)
    return {
        "name": name or Path(getattr(config, "_name_or_path", None) or "").name or type(model).__name__,
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(parameter.numel() for parameter in parameters),
        "dtypes": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}),
        "devices": sorted({str(parameter.device) for parameter in parameters}),
        "config": json.loads(config.to_json_string()) if hasattr(config, "to_json_string") else None,
        "sha256": hash_model(model),
    }


def _check_weights(model: nn.Module, weights: dict[str, torch.Tensor], file: Path, strict: bool) -> None:
    own = model.state_dict()
    missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if wrong:
        raise DataError(f"Shapes in {file} do not match the model: {'; '.join(wrong[:5])}.")
    # Weights under several names are written once by some libraries; the model ties them again.
    storages = {own[name].data_ptr() for name in own.keys() & weights.keys()}
    missing = [name for name in missing if own[name].data_ptr() not in storages or own[name].is_meta]
    # How many batches a norm has seen is not in older files, and changes nothing that the model computes.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if strict and (missing or surplus):
        raise DataError(
            f"The names in {file} do not match the model. Missing in the file: {_some(missing)}. "
            f"Not in the model: {_some(surplus)}. strict=False takes those that match."
        )
    if not own.keys() & weights.keys():
        raise DataError(f"No weight in {file} has a name that the model knows. It has: {_some(surplus)}.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) + more) or "none"
