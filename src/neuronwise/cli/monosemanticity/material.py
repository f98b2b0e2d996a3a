"""What an audit on the command line trains: perceptrons on tables, language models on texts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuronwise.cli.options import open_corpus, open_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from neuronwise.data import TableData

__all__ = ["Copies", "Perceptron", "table_and_perceptron", "texts_and_model"]


@dataclass(frozen=True)
class Perceptron:
    """Makes a perceptron of rectified linear units.

    Args:
        inputs: Number of inputs.
        hidden: Widths of the hidden layers.
        outputs: Number of outputs.
        device: Where it is.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    device: str = "cpu"

    def __call__(self, seed: int) -> nn.Module:
        """Return a new one; the seed is already that of torch's random state."""
        from torch import nn

        layers: list[nn.Module] = []
        width = self.inputs
        for wide in self.hidden:
            layers += [nn.Linear(width, wide), nn.ReLU()]
            width = wide
        return nn.Sequential(*layers, nn.Linear(width, self.outputs)).to(self.device)


@dataclass(frozen=True)
class Copies:
    """Makes copies of a trained model, to be trained further."""

    model: nn.Module

    def __call__(self, seed: int) -> nn.Module:
        """Return a copy, the same for every seed."""
        return copy.deepcopy(self.model)


def table_and_perceptron(
    table: TableData, hidden: tuple[int, ...], limit: int | None, device: str
) -> tuple[Perceptron, tuple[torch.Tensor, torch.Tensor], str]:
    """Return a perceptron's maker and a table as standardised inputs and targets."""
    import numpy as np
    import torch
    from sklearn.preprocessing import LabelEncoder, StandardScaler

    from neuronwise.discover import make_problem

    problem = make_problem(table.X, table.y, bases="x", scale="none")
    x, y = problem.X[:limit], problem.y[:limit]
    x = StandardScaler().fit_transform(x).astype(np.float32)
    if problem.task == "classification":
        y = LabelEncoder().fit_transform(y).astype(np.int64)
        outputs = int(y.max()) + 1
    else:
        y = StandardScaler().fit_transform(y[:, None])[:, 0].astype(np.float32)
        outputs = 1
    name = f"perceptron {'-'.join(map(str, hidden))} on {table.name}"
    return Perceptron(x.shape[1], hidden, outputs, device), (torch.from_numpy(x), torch.from_numpy(y)), name


def texts_and_model(
    source: str, model: str, *, length: int, limit: int | None, device: str
) -> tuple[Copies, torch.Tensor, str]:
    """Return a language model's maker, and the texts run together and cut into examples of one length."""
    import torch

    from neuronwise.errors import DataError

    loaded = open_model(model, device=device, dtype=None)
    corpus = open_corpus(source, loaded, limit=limit)
    found = [ids for example in corpus if (ids := example.token_ids) is not None]
    ids = torch.cat(found) if found else torch.zeros(0)
    if len(ids) < 8 * length:
        raise DataError(
            f"{source} has {len(ids)} tokens, too few for examples of {length}. Give a corpus of texts, more of it, "
            "or a smaller --length."
        )
    whole = len(ids) // length * length
    return Copies(loaded.model), ids[:whole].reshape(-1, length), loaded.name
