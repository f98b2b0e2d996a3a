"""The covariance of a layer's keys over a corpus: which directions are in use, and must be left alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.data import Corpus, batches
from neuronwise.data import corpus as make_corpus
from neuronwise.errors import EmptyCorpusError, InvalidArgumentError
from neuronwise.hooks import batch_mismatch, capture, refuse_uncatchable, untouched
from neuronwise.sites import Site, Sites

__all__ = ["key_covariance", "key_covariances"]

_READ = 256


def key_covariance(
    model: nn.Module,
    corpus: Any,
    site: Site,
    *,
    tokenizer: Any = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> Tensor:
    """Return the second moment C = E[k kᵀ] of a site's neurons over a corpus, float64 ``(neuron, neuron)``.

    One forward pass a batch, that ends after the site; memory does not grow with the corpus. ROME takes 100,000
    samples of text; there must be clearly more tokens than neurons for C to be of full rank.

    Args:
        model: Any model. It is bit-identical afterwards.
        corpus: A corpus, or what :func:`neuronwise.corpus` takes.
        site: The site: the input of a layer's down projection.
        tokenizer: Needed for texts.
        batch_size: Most examples a batch.
        max_tokens: Most positions a batch.

    Raises:
        EmptyCorpusError: If the corpus has no example.
        InvalidArgumentError: If the site's tensor does not have the corpus's positions.
    """
    return key_covariances(
        model, corpus, [site], tokenizer=tokenizer, batch_size=batch_size, max_tokens=max_tokens
    )[site]


def key_covariances(
    model: nn.Module,
    corpus: Any,
    sites: Iterable[Site],
    *,
    tokenizer: Any = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> dict[Site, Tensor]:
    """Return the second moment of several sites' neurons, all from one pass; see :func:`key_covariance`."""
    refuse_uncatchable(model)
    places = Sites.of(sites)
    data = corpus if isinstance(corpus, Corpus) else make_corpus(corpus, tokenizer=tokenizer)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # Apple's GPUs have no float64.
    home = torch.device("cpu") if device.type == "mps" else device
    sums = {site: torch.zeros(site.width, site.width, dtype=torch.float64, device=home) for site in places}
    count, start = dict.fromkeys(places, 0), 0
    with torch.no_grad(), untouched(model), capture(model, places, stop=True) as cap:
        while examples := data.examples(start, start + _READ):
            start += len(examples)
            for batch in batches(examples, batch_size=batch_size, max_tokens=max_tokens, pad=data.pad):
                moved = batch.to(device)
                batch_mismatch(model, moved.inputs)
                cap.run(moved.inputs)
                for site in places:
                    keys = _real(cap[site], moved.mask, site).to(home).double()
                    sums[site].addmm_(keys.T, keys)
                    count[site] += len(keys)
    if not all(count.values()):
        raise EmptyCorpusError(f"The corpus {data.name!r} has no examples to take keys from.")
    return {site: (total / count[site]).cpu() for site, total in sums.items()}


def _real(tensor: Tensor, mask: Tensor | None, site: Site) -> Tensor:
    """Return the keys ``(position, neuron)`` at positions that are not padding."""
    keys = tensor.movedim(site.axis, -1)
    if mask is None:
        return keys.reshape(-1, site.width)
    if mask.shape != keys.shape[:-1]:
        raise InvalidArgumentError(
            f"{site.name} has values for {tuple(keys.shape[:-1])} positions, the corpus for {tuple(mask.shape)}, so it "
            "is not known which are padding. Use batch_size=1."
        )
    return keys[mask]
