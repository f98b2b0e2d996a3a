"""A small zoo of models that every room is tested on: each with a batch, and sites written down by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuronwise.sites import Site, Sites


@dataclass(frozen=True)
class Case:
    """A model in evaluation mode, a batch whose first axis counts examples, and some of the model's sites."""

    name: str
    model: nn.Module
    batch: Any
    sites: Sites


def linear() -> Case:
    return Case("linear", nn.Linear(5, 4), _normal(6, 5), Sites([Site("", "output", width=4)]))


def mlp() -> Case:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3))
    sites = [Site("2", "input", width=8, layer=0), Site("4", "input", width=7, layer=1)]
    return Case("mlp", model, _normal(6, 5), Sites(sites))


def cnn() -> Case:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    for norm in (model[1], model[4]):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
    sites = [
        Site("2", "output", width=6, axis=1, kind="conv", layer=0),
        Site("5", "output", width=4, axis=1, kind="conv", layer=1),
    ]
    return Case("cnn", model, _normal(3, 2, 8, 8), Sites(sites))


class Tagger(nn.Module):
    """An LSTM (whose output is a tuple that holds a tuple) with a linear layer on every position."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def rnn() -> Case:
    sites = [Site("lstm", "output", width=6, kind="rnn"), Site("head", "output", width=3)]
    return Case("rnn", Tagger(), _normal(3, 5, 4), Sites(sites))


class Block(nn.Module):
    """A pre-norm transformer layer with causal attention of two heads."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, 2, width // 2).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.act(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """A causal transformer; its unembedding is its embedding where ``tied``."""

    def __init__(self, *, tied: bool = False, vocabulary: int = 11, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width, 2 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def _language_model_sites() -> Sites:
    return Sites(Site(f"layers.{i}.down", "input", width=16, layer=i, kind="ffn") for i in range(2))


def transformer() -> Case:
    batch = {"input_ids": torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))}
    return Case("transformer", LanguageModel(), batch, _language_model_sites())


def encoder() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.1, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    sites = [Site(f"layers.{i}.linear2", "input", width=16, layer=i, kind="ffn") for i in range(2)]
    return Case("encoder", model, _normal(3, 6, 8), Sites(sites))


class Reused(nn.Module):
    """One layer that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(5, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.shared(x))
        return self.head(x)


def reused() -> Case:
    sites = [Site("shared", "output", width=5, call=1), Site("shared", "output", width=5, call=2)]
    return Case("reused", Reused(), _normal(4, 5), Sites(sites))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 6)

    def forward(self, x: Tensor, *, scale: Tensor) -> tuple[None, Tensor, dict[str, Tensor]]:
        hidden = self.lin(x) * scale
        return None, hidden, {"half": hidden / 2}


class TupleOutput(nn.Module):
    """A module that takes keyword arguments and returns a tuple in which the tensor does not come first."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, hidden, more = self.pair(x, scale=torch.full_like(x[:, :1], 2.0))
        return self.head(hidden) + more["half"].sum(1, keepdim=True)


def tuple_output() -> Case:
    return Case("tuple_output", TupleOutput(), _normal(4, 4), Sites([Site("pair", "output", width=6)]))


def inplace() -> Case:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    sites = [Site("1", "output", width=8), Site("2", "output", width=3)]
    return Case("inplace", model, _normal(6, 5), Sites(sites))


def tied() -> Case:
    batch = {"input_ids": torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(2))}
    return Case("tied", LanguageModel(tied=True), batch, _language_model_sites())


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


_FACTORIES: tuple[Callable[[], Case], ...] = (
    linear, mlp, cnn, rnn, transformer, encoder, reused, tuple_output, inplace, tied,
)  # fmt: skip

NAMES = tuple(factory.__name__ for factory in _FACTORIES)


def make(name: str, *, seed: int = 0) -> Case:
    """Build a case of the zoo, the same weights every time, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        case = next(factory for factory in _FACTORIES if factory.__name__ == name)()
    case.model.eval()
    return case


def make_all() -> list[Case]:
    """Build the whole zoo."""
    return [make(name) for name in NAMES]
