"""How rows share work: where they can join a batch, and the prefix of a causal model that all of them have."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.errors import HookError
from neuronwise.hooks import Growth, call_model, replicated
from neuronwise.sites import Site

__all__ = ["Form", "Prefix", "entry_of", "prefix_of", "select_rows", "shareable"]

Form = Literal["auto", "prefix", "growing", "wide"]
"""``wide``: every row goes through all layers. ``growing``: a row joins at the first layer in which it differs.
``prefix``: a growing batch of one token a row, after the keys and values of the tokens before it (causal models)."""

_ALONG_TOKENS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


def entry_of(model: nn.Module, site: Site) -> str:
    """Return the path of the block that a site lies in, where rows that differ there can join; "" for the start.

    Rows join where a block of a list of layers begins. A module that runs several times in a pass is no such place, nor
    is an encoder: its decoder has counted the rows before.
    """
    if site.call is not None or site.layer is None or not site.stack:
        return ""
    coded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    path = f"{site.stack}.{site.layer}"
    if not f"{site.path}.".startswith(f"{path}.") or (coded and "encoder" in site.path.split(".")):
        return ""
    return path if isinstance(model.get_submodule(site.stack), nn.ModuleList) else ""


def select_rows(inputs: Any, examples: Tensor, count: int) -> Any:
    """Return a batch whose rows are the given examples of a batch of ``count``."""
    if len(examples) == count and torch.equal(examples, torch.arange(count)):
        return inputs
    if isinstance(inputs, Tensor):
        return replicated(inputs, examples) if inputs.dim() and inputs.shape[0] == count else inputs
    if isinstance(inputs, Mapping):
        return {name: select_rows(value, examples, count) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(select_rows(value, examples, count) for value in inputs)
    return inputs


def shareable(model: nn.Module, inputs: Any) -> bool:
    """Return whether the tokens before the last can be run once for all rows: a causal model of Hugging Face's."""
    config = getattr(model, "config", None)
    if config is None or not isinstance(inputs, Mapping) or getattr(config, "is_encoder_decoder", False):
        return False
    causal = re.search(r"(ForCausalLM|LMHeadModel)$", type(model).__name__) is not None
    tensors = {name for name, value in inputs.items() if isinstance(value, Tensor)}
    if not causal or (not getattr(config, "is_decoder", True) and "bert" in str(config.model_type)):
        return False
    return (
        "input_ids" in tensors
        and tensors <= set(_ALONG_TOKENS)
        and getattr(config, "sliding_window", None) is None
    )


@dataclass
class Prefix:
    """The last token of every prompt, and the keys and values of those before it.

    Args:
        inputs: The batch for the model.
        cache: The cache in it, whose layers ask which rows there are.
    """

    inputs: dict[str, Any]
    cache: Any

    def follow(self, growth: Growth) -> None:
        """Give every row the keys and values of its example."""
        for layer in self.cache.layers:
            layer.growth = growth


def _shared(layer: Any, plain: Any) -> Any:
    """Return a layer of the cache that keeps one row an example and shows them to however many rows there are."""
    if type(layer) is not plain:
        raise HookError(f"The cache has a {type(layer).__name__}, whose rows cannot be shared.")

    def update(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        examples = self.growth.examples
        earlier = replicated(self.keys, examples), replicated(self.values, examples)
        return torch.cat([earlier[0], keys], dim=-2), torch.cat([earlier[1], values], dim=-2)

    shared = type("Shared", (plain,), {"update": update})()
    shared.lazy_initialization(layer.keys, layer.values)
    shared.keys, shared.values = layer.keys, layer.values
    return shared


def prefix_of(model: nn.Module, inputs: Mapping[str, Any], end: int) -> Prefix:
    """Run the tokens before position ``end``, which no intervention at ``end`` can change, and keep what they leave.

    Args:
        model: A causal language model of Hugging Face's.
        inputs: Its batch, ``(example, position)``.
        end: The position of the last token, the same in all examples.

    Raises:
        HookError: If the model keeps something else than keys and values.
    """
    cache_utils: Any = importlib.import_module("transformers.cache_utils")
    length = inputs["input_ids"].shape[1]
    along = {
        name: value
        for name, value in inputs.items()
        if name in _ALONG_TOKENS and isinstance(value, Tensor) and value.shape[-1] == length
    }
    rest = {name: value for name, value in inputs.items() if name not in along and name != "use_cache"}
    before = {name: value[..., :end] for name, value in along.items()}
    cache = cache_utils.DynamicCache()
    call_model(model, {**rest, **before, "past_key_values": cache, "use_cache": True})
    cache.layers[:] = [_shared(layer, cache_utils.DynamicLayer) for layer in cache.layers]
    last = {name: value[..., end : end + 1] for name, value in along.items() if name != "attention_mask"}
    if "attention_mask" in along:
        last["attention_mask"] = along["attention_mask"][..., : end + 1]
    if "position_ids" not in last:
        rows = inputs["input_ids"].shape[0]
        last["position_ids"] = torch.full((rows, 1), end, device=inputs["input_ids"].device)
    return Prefix({**rest, **last, "past_key_values": cache, "use_cache": True}, cache)
