"""Streams of activations, and the statistics that NumPy takes of them in float64."""

import numpy as np
import torch

from neuronwise.observe import Activations, BatchInfo
from neuronwise.sites import Site

SIZES = [(1, 1), (3, 17), (8, 64), (2, 300), (5, 2), (7, 31)]


def mixed(generator, sizes=SIZES):
    """Batches of uneven sizes of neurons with very different means, spreads and shapes."""

    def draw(batch, position):
        x = torch.randn(batch, position, 6, generator=generator)
        x[..., 1] = x[..., 1] + 1e4
        x[..., 2] = torch.relu(x[..., 2])
        x[..., 3] = x[..., 3].exp() * 1e-3
        x[..., 4] = 7.25
        x[..., 5] = (x[..., 5] > 1.5).float() * x[..., 5] - 3e3
        return x

    return [draw(batch, position) for batch, position in sizes]


def activations(values, *, first=0, number=0, mask=None, labels=None, tokens=True):
    """Wrap a (batch, position, neuron) tensor as a reducer gets it."""
    values = torch.as_tensor(values)
    ids = torch.arange(values.shape[0] * values.shape[1]).reshape(values.shape[:2]) if tokens else None
    info = BatchInfo(
        examples=torch.arange(first, first + values.shape[0]),
        mask=mask,
        token_ids=ids,
        labels=labels or {},
        number=number,
    )
    return Activations(Site("ffn", "input", width=values.shape[-1]), values, info)


def rows(stream):
    """All positions of all batches, float64 (row, neuron)."""
    return np.concatenate([batch.reshape(-1, batch.shape[-1]).double().numpy() for batch in stream])


def feed(reducer, stream, start=0, stop=None):
    """A fresh reducer that has seen the batches ``start`` to ``stop - 1`` of a stream."""
    fresh = reducer.fresh()
    first = sum(len(batch) for batch in stream[:start])
    for number, batch in enumerate(stream[start:stop], start):
        fresh.update(activations(batch, first=first, number=number))
        first += len(batch)
    return fresh
