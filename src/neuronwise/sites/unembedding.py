"""What neurons write towards: their value vectors read through the model's unembedding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites._parts import Indices
from neuronwise.sites.architectures import Match, match_families
from neuronwise.sites.collection import Sites
from neuronwise.sites.find import find_sites
from neuronwise.sites.neurons import NeuronSet
from neuronwise.sites.site import Site
from neuronwise.sites.tokens import token_strings

__all__ = ["promoted_tokens", "unembedding", "unembedding_layer"]

# How many logits are held at once when no batch size is given: 64 MiB of float32.
_LOGITS_AT_ONCE = 2**24


def unembedding_layer(model: nn.Module) -> nn.Module | None:
    """Return the module that turns the last hidden state into logits, or None if there is none.

    It is found by the method ``get_output_embeddings`` of Hugging Face's models, of the model or a module inside it.
    """
    for module in model.modules():
        method = getattr(module, "get_output_embeddings", None)
        layer = method() if callable(method) else None
        if isinstance(layer, nn.Module) and isinstance(getattr(layer, "weight", None), Tensor):
            return layer
    return None


def unembedding(model: nn.Module) -> Tensor | None:
    """Return the weight ``(token, width)`` that turns the last hidden state into logits, or None if there is none."""
    layer = unembedding_layer(model)
    return None if layer is None else layer.get_parameter("weight").detach()


def promoted_tokens(
    model: nn.Module,
    neurons: NeuronSet | Site | Iterable[Site],
    tokenizer: Any = None,
    *,
    k: int = 10,
    batch: int | None = None,
) -> pd.DataFrame:
    """Return the tokens that each neuron promotes and demotes most when it is active.

    A neuron of activation a adds a * v to the residual stream, where v is its value vector. Its effect on the
    logits, as far as it goes there directly, is ``logit = W_U (gamma * (v - mean v))``: the weight gamma of the final
    norm is folded into the unembedding ``W_U``, and v is centred if that norm is a LayerNorm (Geva et al. 2022,
    https://arxiv.org/abs/2203.14680; nostalgebraist's logit lens, 2020). The scale of the norm depends on the input
    and is left out, so logits of one neuron can be compared with each other, not with those of the model. A norm
    between the down projection and the stream (Gemma 2 and 3) and a projection behind the final norm (OPT) are
    followed.

    The final norm is known from the table of architectures; for other models the product is plain. Models of the
    BERT kind transform the hidden state once more before the unembedding: that transformation is not linear and left
    out. Encoders of encoder-decoder models do not write to the unembedding's stream; their rows say what their
    values would mean there.

    Args:
        model: A model with an unembedding.
        neurons: Neurons, or sites for all their neurons. Sites that were read from a table are looked up in the model.
        tokenizer: Gives each token's text: a transformers tokenizer, or anything that has ``decode``; None leaves it
            missing.
        k: How many tokens on each side.
        batch: Neurons per matrix product; None chooses it so that about 16 million logits are held at once.

    Returns:
        One row per neuron, side and rank: site, layer, neuron, side (``"promotes"`` or ``"demotes"``), rank (from 0),
        token_id, token, logit.

    Raises:
        InvalidArgumentError: If the model has no unembedding, is on the meta device, or the widths do not fit.
        SiteNotFoundError: If a site does not know the weight that it writes through.
    """
    weight = unembedding(model)
    if weight is None:
        raise InvalidArgumentError(
            f"{type(model).__name__} has no unembedding: neither it nor a module inside it gives one by "
            "get_output_embeddings(). Load the model with its language-model head."
        )
    if k < 1 or (batch is not None and batch < 1):
        raise InvalidArgumentError(f"k and batch must be at least 1, not {k} and {batch}.")
    if weight.is_meta:
        raise InvalidArgumentError(
            "The model is on the meta device and has no numbers. Load its weights first."
        )
    chosen = neurons if isinstance(neurons, NeuronSet) else NeuronSet.of(Sites.of(neurons))
    known = _sites_with_weights(model, chosen)
    matches = {match.path: match for match in match_families(model)}
    size = batch or max(1, _LOGITS_AT_ONCE // weight.shape[0])
    parts = []
    for site in chosen.sites:
        match = matches.get(site.path)
        for indices in _chunks(chosen.indices(site), size):
            vectors = _into_unembedding(model, known[site.name], match, indices)
            if vectors.shape[1] != weight.shape[1]:
                raise InvalidArgumentError(
                    f"{site.name} writes vectors of {vectors.shape[1]} numbers, but the unembedding reads "
                    f"{weight.shape[1]}: the model transforms its hidden state before, and not linearly."
                )
            logits = vectors.to(weight.device) @ weight.to(vectors.dtype).T
            parts.append(_rows(site, indices, logits, min(k, weight.shape[0])))
    return _table(parts, tokenizer)


def _sites_with_weights(model: nn.Module, chosen: NeuronSet) -> dict[str, Site]:
    """Return the set's sites by name; those read from a table, which are addresses only, as the model has them."""
    sites = {site.name: site for site in chosen.sites}
    if any(site.writes is None for site in sites.values()):
        sites |= {
            site.name: site for site in find_sites(model) if site.name in sites and site.writes is not None
        }
    return sites


def _chunks(indices: Indices, size: int) -> list[Indices]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _into_unembedding(model: nn.Module, site: Site, match: Match | None, indices: Indices) -> Tensor:
    """Return what the unembedding reads of each neuron's value vector, ``(neurons, width)``."""
    values = site.value_vectors(model).detach()
    if values.ndim != 2:
        raise InvalidArgumentError(f"{site.name} writes through a convolution, which no unembedding reads.")
    if values.is_meta:
        raise InvalidArgumentError(f"The weights of {site.name} are on the meta device and have no numbers.")
    picked = values[torch.tensor(indices, device=values.device)]
    vectors = picked if picked.dtype == torch.float64 else picked.float()
    if match is None:
        return vectors
    family = match.family
    vectors = _through_norm(model, match, family.output_norm, vectors)
    vectors = _through_norm(model, match, family.final_norm, vectors)
    project = None if family.project_out is None else _sibling(model, match, family.project_out)
    if project is not None:
        vectors = vectors @ project.get_parameter("weight").detach().to(vectors).T
    return vectors


def _sibling(model: nn.Module, match: Match, pattern: str) -> nn.Module | None:
    try:
        return model.get_submodule(match.sibling(pattern))
    except AttributeError:
        return None


def _through_norm(model: nn.Module, match: Match, pattern: str | None, vectors: Tensor) -> Tensor:
    """Apply what is linear in a norm: subtracting the mean, and its weight."""
    norm = None if pattern is None else _sibling(model, match, pattern)
    if norm is None:
        return vectors
    if isinstance(norm, nn.LayerNorm) or match.family.norm_centred:
        vectors = vectors - vectors.mean(dim=1, keepdim=True)
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor) or weight.shape != vectors.shape[1:]:
        return vectors
    return vectors * (weight.detach().to(vectors) + match.family.norm_offset)


def _rows(site: Site, indices: Indices, logits: Tensor, k: int) -> dict[str, Any]:
    """Return the columns of the strongest tokens of some neurons: for each, ``k`` promoted, then ``k`` demoted."""
    high, low = logits.topk(k, dim=1), logits.topk(k, dim=1, largest=False)
    ids = torch.stack([high.indices, low.indices], dim=1).cpu().numpy()
    values = torch.stack([high.values, low.values], dim=1).double().cpu().numpy()
    count = len(indices)
    return {
        "site": np.full(count * 2 * k, site.name, dtype=object),
        "layer": np.full(count * 2 * k, site.layer, dtype=object),
        "neuron": np.repeat(indices, 2 * k),
        "side": np.tile(np.repeat(np.array(["promotes", "demotes"], dtype=object), k), count),
        "rank": np.tile(np.arange(k), count * 2),
        "token_id": ids.reshape(-1),
        "logit": values.reshape(-1),
    }


def _table(parts: list[dict[str, Any]], tokenizer: Any) -> pd.DataFrame:
    types = {
        "site": "str",
        "layer": "Int64",
        "neuron": "int64",
        "side": "str",
        "rank": "int64",
        "token_id": "int64",
        "token": "str",
        "logit": "float64",
    }
    columns = {
        name: np.concatenate([np.empty(0, dtype=object), *(part[name] for part in parts)])
        for name in types
        if name != "token"
    }
    shown = _texts(tokenizer, np.unique(columns["token_id"].astype(np.int64)).tolist())
    columns["token"] = np.array([shown[int(i)] for i in columns["token_id"]], dtype=object)
    return pd.DataFrame({name: columns[name] for name in types}).astype(types)


def _texts(tokenizer: Any, ids: list[int]) -> dict[int, str | None]:
    """Return the text of each token."""
    if tokenizer is None:
        return dict.fromkeys(ids)
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return dict(zip(ids, token_strings(tokenizer, ids), strict=True))
    return {number: str(tokenizer.decode([number])) for number in ids}
