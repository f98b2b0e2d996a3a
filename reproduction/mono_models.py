"""The networks of the reproduction: small ones of the kinds that the papers use, each with its neurons' sites."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.sites import Site, Sites, find_sites


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a new model with this seed, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


class Outputs(nn.Module):
    """A transformers model called with one tensor, returning its first output."""

    def __init__(self, model: nn.Module, argument: str) -> None:
        super().__init__()
        self.model, self.argument = model, argument

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(**{self.argument: inputs})[0]


def gpt(vocabulary: int, width: int, layers: int, context: int, tags: int = 0) -> nn.Module:
    """Return a GPT-2 for the next word, or with ``tags`` for a tag of each word."""
    from transformers import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary, n_positions=context, n_embd=width, n_layer=layers, n_head=4, num_labels=max(tags, 2),
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, classifier_dropout=0.0, use_cache=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return Outputs(GPT2ForTokenClassification(config) if tags else GPT2LMHeadModel(config), "input_ids")


def swin(width: int, classes: int) -> nn.Module:
    """Return a Swin transformer of two stages for images of 32 x 32."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=width, depths=[2, 2], num_heads=[2, 4], window_size=4, mlp_ratio=4.0,
        num_labels=classes, drop_path_rate=0.0,
    )  # fmt: skip
    return Outputs(SwinForImageClassification(config), "pixel_values")


def cnn(channels: int, width: int, classes: int) -> nn.Module:
    """Return three convolutions of stride 2 with batch normalisation, and a mean over positions."""
    layers: list[nn.Module] = []
    for before, after in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


class Cell(nn.Module):
    """A ConvGRU cell with periodic borders; the candidate state has a module of its own, so that it is a site."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(before + width, 2 * width, 3, padding=1, padding_mode="circular")
        self.new = nn.Conv2d(before + width, width, 3, padding=1, padding_mode="circular")
        self.candidate = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        reset, update = self.gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
        return (1 - update) * h + update * self.candidate(self.new(torch.cat([x, reset * h], 1)))


class ConvGRU(nn.Module):
    """Predicts the next field of a sequence ``(batch, time, 1, y, x)`` at every moment, as a change of the last."""

    def __init__(self, width: int, layers: int = 1) -> None:
        super().__init__()
        self.width = width
        self.cells = nn.ModuleList(Cell(width if i else 1, width) for i in range(layers))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, fields: Tensor) -> Tensor:
        batch, _, _, *grid = fields.shape
        states = [fields.new_zeros(batch, self.width, *grid) for _ in self.cells]
        found = []
        for x in fields.unbind(1):
            below = x
            for i, cell in enumerate(self.cells):
                states[i] = below = cell(below, states[i])
            found.append(x + self.head(below))
        return torch.stack(found, 1)


def sites_of(model: nn.Module) -> Sites:
    """Return the neurons: feed-forward ones of transformers, channels after their non-linearity elsewhere."""
    if isinstance(model, ConvGRU):
        return Sites(
            [
                Site(f"cells.{i}.candidate", "output", width=model.width, axis=1)
                for i in range(len(model.cells))
            ]
        )
    if isinstance(model, nn.Sequential):
        widths = [one.num_features for one in model if isinstance(one, nn.BatchNorm2d)]
        places = [number for number, one in enumerate(model) if isinstance(one, nn.ReLU)]
        return Sites(
            [Site(str(n), "output", width=width, axis=1) for n, width in zip(places, widths, strict=True)]
        )
    return Sites([site for site in find_sites(model) if "patch_embeddings" not in site.path])


def blocks_of(model: nn.Module) -> list[str]:
    """Return the transformer's blocks by name: the published inhibitor sits on their outputs."""
    names: list[Any] = [
        name for name, one in model.named_modules() if type(one).__name__ in ("GPT2Block", "SwinLayer")
    ]
    return names
