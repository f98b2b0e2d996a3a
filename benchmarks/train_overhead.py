"""What watching and inhibiting monosemanticity costs in a training step: a transformer, all feed-forward sites.

A step is forward, backward and AdamW on 1,024 tokens. Every variant has a model of its own, so that replacing does not
change another's; steps are interleaved. ``published`` is the published module from its equations (update, score, top-1
of each sample, `where`; statistics of each position and channel) at the same sites.

Neuron health looks at one step in ten, and a window ends after twenty looks. ``health_look`` looks at every step,
``health_end`` ends a window at every step too; ``health`` is what they make of a step on average, with the defaults.

    python benchmarks/train_overhead.py [--device cuda] [--widths 128 256 512 | 2048] [--repeats 12]
"""

import argparse
import time
from collections.abc import Callable

import torch
from harness import overhead, write
from overhead import LAYERS, LENGTH, SEQUENCES, VOCABULARY
from torch import Tensor, nn

from neuronwise.hooks import transform
from neuronwise.sites import Site, Sites
from neuronwise.train import L2E, Monosemanticity, NeuronHealth, ReversedDeactivation, TailPenalty

HORIZON = 10


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = max(1, x.shape[-1] // 64)
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(self.act(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Published:
    """Reversed Deactivation as the published module computes it, from its equations."""

    def __init__(self) -> None:
        self.steps = 0
        self.mean: dict[str, Tensor] = {}
        self.variance: dict[str, Tensor] = {}

    def __call__(self, site: Site, tensor: Tensor, given: Tensor | None, again: bool) -> Tensor:
        values = tensor.detach()
        mean, variance = values.mean(0, keepdim=True), values.var(0, correction=0, keepdim=True)
        if site.name in self.mean:
            n, b = HORIZON, values.shape[0]
            old = self.mean[site.name]
            self.mean[site.name] = (n * old + mean) / (n + 1)
            spread = n * (old - mean) ** 2 / ((n + 1 - 1 / b) * (n + 1))
            self.variance[site.name] = spread + (variance + (n - 1 / b) * self.variance[site.name]) / (
                n + 1 - 1 / b
            )
        else:
            self.mean[site.name], self.variance[site.name] = mean, variance
        mean, variance = self.mean[site.name], self.variance[site.name]
        phi = (values - mean) ** 2 / (variance + variance.mean() / 100)
        chosen = torch.zeros_like(phi, dtype=torch.bool).flatten(1)
        chosen.scatter_(1, phi.flatten(1).topk(1).indices, True)
        return torch.where(chosen.view_as(tensor), -tensor + (mean + tensor).detach(), tensor)


VARIANTS = {
    "plain": None,
    "statistics": {"method": None, "tail": False},
    "phi_and_tail": {"method": None},
    "reversed_threshold": {"method": ReversedDeactivation(top=0.02, per="threshold"), "tail": False},
    "reversed_top1": {"method": ReversedDeactivation(), "tail": False},
    "l2e": {"method": L2E(), "tail": False},
    "tail_penalty": {"method": TailPenalty(), "tail": False},
    "health_look": {"every": 1, "window": 1_000_000},
    "health_end": {"every": 1, "window": 1},
    "published": "published",
}
EVERY, WINDOW = 10, 20  # the defaults of NeuronHealth


def training_step(variant: str, width: int, device: str) -> Callable[[], None]:
    """Return one training step of one variant, warmed up."""
    torch.manual_seed(0)
    model = Transformer(width).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), device=device)
    sites = Sites(Site(f"blocks.{layer}.down", "input", width=4 * width) for layer in range(LAYERS))
    settings = VARIANTS[variant]
    mono = health = None
    if settings == "published":
        transform(model, sites, Published()).attach()
    elif variant.startswith("health"):
        health = NeuronHealth(model, sites, **settings)
        health.attach()
    elif settings is not None:
        mono = Monosemanticity(model, sites, start=1, **settings)
        mono.attach()

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        if mono is not None:
            loss = loss + mono.loss()
        loss.backward()
        optimizer.step()
        if mono is not None:
            mono.step()
        if health is not None:
            health.step()

    for _ in range(3):
        step()
    return step


def seconds_of(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(width: int, device: str, repeats: int, variants: list[str]) -> dict[str, dict[str, float]]:
    """Return every variant's overhead over the plain step: median of ratios, and the ratio of the fastest steps."""
    steps = {name: training_step(name, width, device) for name in variants}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats):
        order = list(steps) if number % 2 == 0 else list(reversed(steps))
        for name in order:
            seconds[name].append(seconds_of(steps[name], device))
    figures = {
        name: overhead(seconds, name) | {"fastest": min(seconds[name]) / min(seconds["plain"]) - 1}
        for name in steps
    }
    if {"health_look", "health_end"} <= figures.keys():
        look, end = figures["health_look"], figures["health_end"]
        figures["health"] = {
            key: (look[key] * (WINDOW - 1) + end[key]) / WINDOW / EVERY for key in ("overhead", "fastest")
        }
    return figures


def synchronisations(width: int) -> dict[str, int]:
    """Count for each variant how often a step on a GPU makes the host wait."""
    found = {}
    for name in VARIANTS:
        step = training_step(name, width, "cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
            found[name] = 0
        except RuntimeError:
            found[name] = 1
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--widths", type=int, nargs="+", default=None)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME"
    )
    options = parser.parse_args()
    widths = options.widths or ([128, 256, 512] if options.device == "cpu" else [512, 2048])
    figures = {}
    torch.set_num_threads(2)
    for width in widths:
        figures[str(width)] = measure(
            width, options.device, options.repeats, ["plain", *(v for v in options.variants if v != "plain")]
        )
        for name, figure in figures[str(width)].items():
            print(
                f"{width:5d} {name:20s} {figure['overhead']:+7.1%}  fastest {figure['fastest']:+7.1%}",
                flush=True,
            )
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    extra = {"host_waits": synchronisations(widths[-1])} if options.device == "cuda" else {}
    name = "train_overhead" if options.device == "cpu" else "train_overhead_gpu"
    tokens = SEQUENCES * LENGTH
    write(
        name,
        {"torch": torch.__version__, "device": device, "threads": 2, "layers": LAYERS, "tokens": tokens}
        | {"repeats": options.repeats, "widths": figures}
        | extra,
    )


if __name__ == "__main__":
    main()
