"""Saving an edited model as a model folder."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from neuronwise.data import hash_model
from neuronwise.edit.patch import Patch, applied_patches
from neuronwise.errors import InvalidArgumentError
from neuronwise.files import atomic_folder

__all__ = ["save_model"]

#: The note beside the weights: which patches are in them.
NOTE = "neuronwise_edit.json"


def save_model(
    model: nn.Module,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    patch: Patch | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a model with its edits as a folder that transformers loads, with a note of the patches in it.

    The note, ``neuronwise_edit.json``, gives each patch's method, settings, facts and base model, and the SHA-256 of
    the edited model. Weights are written as safetensors.

    Args:
        model: A transformers model. It is not changed.
        folder: The folder to make.
        tokenizer: Saved beside the model.
        patch: Applied while the model is saved; patches that are on the model already are part of it anyway.
        overwrite: Replace a folder that is there.

    Raises:
        InvalidArgumentError: If the model cannot save itself.
        PatchError: If the patch does not fit the model.
        WriteError: If the folder exists or cannot be written.
    """
    save: Any = getattr(model, "save_pretrained", None)
    if not callable(save):
        raise InvalidArgumentError(
            f"{type(model).__name__} has no save_pretrained(), so there is no standard folder for it. Save its weights "
            "inside the patch's block: with patch.applied(model): safetensors.torch.save_model(model, path)."
        )
    with nullcontext() if patch is None else patch.applied(model):
        patches = applied_patches(model)
        note = {
            "sha256": hash_model(model),
            "patches": [
                {
                    "method": one.method,
                    "base": one.base,
                    "parameters": dict(one.parameters),
                    "facts": [dict(fact) for fact in one.facts],
                }
                for one in patches
            ],
        }
        with atomic_folder(folder, overwrite=overwrite) as temporary, _config_kept(model):
            save(temporary)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
            text = json.dumps(note, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
            (temporary / NOTE).write_text(text, encoding="utf-8")
    return Path(folder)


@contextmanager
def _config_kept(model: nn.Module) -> Iterator[None]:
    """Put the configuration back, into which transformers writes the model's class and type when it saves."""
    config: Any = getattr(model, "config", None)
    kept = None if config is None else copy.deepcopy(config.__dict__)
    try:
        yield
    finally:
        if kept is not None:
            config.__dict__.clear()
            config.__dict__.update(kept)
