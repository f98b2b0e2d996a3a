"""The reference setting: a perceptron on scikit-learn's digits, with the module after both hidden activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from neuronwise.sites import Site, Sites
from neuronwise.train import Monosemanticity

SITES = Sites([Site("1", "output", width=128), Site("3", "output", width=128)])


@dataclass(frozen=True)
class Digits:
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(seed: int) -> Digits:
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, train_size=1200, stratify=labels, random_state=seed)
    x, test_x, y, test_y = parts
    return Digits(
        torch.tensor(x, dtype=torch.float32), torch.tensor(y),
        torch.tensor(test_x, dtype=torch.float32), torch.tensor(test_y),
    )  # fmt: skip


def perceptron(seed: int = 0, width: int = 128) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )


def train(
    model, data: Digits, method, *, seed: int, epochs: int = 30, batch: int = 64, **options
) -> Monosemanticity:
    """Train for some epochs with Adam at 1e-3; options go to Monosemanticity."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    mono = Monosemanticity(model, SITES, method, unit="element", **options)
    model.train()
    with mono.attached():
        for _ in range(epochs):
            for rows in torch.randperm(len(data.x), generator=order).split(batch):
                mono.expect(labels=data.y[rows])
                loss = nn.functional.cross_entropy(model(data.x[rows]), data.y[rows]) + mono.loss()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                mono.step()
    model.eval()
    return mono


def held_out(model, data: Digits) -> dict[str, float]:
    """Measures of the test part with statistics of the training part, without units that hardly ever move."""
    figures: dict[str, list[float]] = {
        "share": [],
        "max": [],
        "top": [],
        "kurtosis": [],
        "selectivity": [],
        "near_dead": [],
    }
    with torch.no_grad():
        hidden = [(data.x, data.test_x)]
        for layer in (0, 2):
            hidden.append(tuple(torch.relu(model[layer](part)) for part in hidden[-1]))
        for train_values, values in hidden[1:]:
            live = ((values - values.median(0).values).abs() > 1e-6).float().mean(0) >= 0.02
            variance = train_values.var(0)
            phi = (values - train_values.mean(0)).square() / (variance + 0.01 * variance.mean())
            figures["near_dead"].append(1 - live.float().mean().item())
            phi, values = phi[:, live], values[:, live]
            figures["share"].append((phi > 9).float().mean().item() * 100)
            figures["max"].append(phi.amax(1).mean().item())
            figures["top"].append(phi.flatten().topk(max(1, phi.numel() // 100)).values.mean().item())
            figures["kurtosis"].append(phi.square().mean(0).median().item())
            means = torch.stack([values[data.test_y == label].mean(0) for label in range(10)])
            best = means.amax(0)
            rest = (means.sum(0) - best) / 9
            figures["selectivity"].append(((best - rest) / (best + rest + 1e-7)).mean().item())
        logits = model(data.test_x)
        figures["accuracy"] = [(logits.argmax(1) == data.test_y).float().mean().item() * 100]
        figures["loss"] = [nn.functional.cross_entropy(logits, data.test_y).item()]
    return {name: sum(values) / len(values) for name, values in figures.items()}
