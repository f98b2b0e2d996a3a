"""The figures in results/mono_*.jsonl as the tables need them: by area, group, row and seed."""

import numpy as np
from common import read_results

from neuronwise.intervals import resampled_interval

AREAS = {
    "language": "Language: next word, WikiText-2, transformer",
    "image_cnn": "Image: CIFAR-10, convolutional network",
    "physics": "Physics: advection and diffusion, ConvGRU",
    "tagging": "Language, fine-tuned: tags of UD English EWT",
    "stories": "Language, fine-tuned: the bundled stories260k on Shakespeare",
    "image_swin": "Image: CIFAR-10, Swin transformer",
    "image_fashion": "Image: Fashion-MNIST (350 images), convolutional network",
}
MAIN = ("language", "image_cnn", "physics")
Figures = dict[str, dict[int, dict[str, float]]]  # by row and seed


def collected(area: str) -> dict[str, Figures]:
    """Return the figures of an area by group; the plain loop is one too, beside the audits' runs of none."""
    found: dict[str, Figures] = {}
    for case in read_results("mono_inhibitors").values():
        if case["area"] == area and " x" not in case["key"]:
            for name, figures in case["rows"].items():
                found.setdefault(case["group"], {}).setdefault(name, {})[case["seed"]] = figures
    for case in read_results("mono_loop").values():
        if case["area"] == area and " x" not in case["key"]:
            name = {"down": "controller down", "up": "controller up"}.get(case["row"], case["row"])
            if name != "none":
                found.setdefault("loop", {}).setdefault(name, {})[case["seed"]] = case["held_out"]
    if "loop" in found and "ours" in found:
        found["loop"]["none"] = found["ours"]["none"]
    return {group: rows for group, rows in found.items() if "none" in rows}


def values(rows: Figures, name: str, figure: str) -> np.ndarray:
    return np.array([one[figure] for one in rows[name].values() if figure in one])


def paired(rows: Figures, name: str, other: str, figure: str) -> np.ndarray:
    """Return the differences of two rows over the seeds that both have."""
    seeds = [seed for seed in rows[name] if seed in rows.get(other, {}) and figure in rows[name][seed]]
    return np.array([rows[name][seed][figure] - rows[other][seed][figure] for seed in seeds])


def told(differences: np.ndarray, factor: float = 1.0, digits: int = 3) -> str:
    """Return the mean of paired differences and its 95 % interval, bold where that leaves out 0."""
    if len(differences) < 2 or not np.isfinite(differences).all():
        return ""
    mean, low, high, _ = (factor * value for value in resampled_interval(differences))
    text = f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def mean_of(rows: Figures, name: str, figure: str, factor: float = 1.0, digits: int = 2) -> str:
    found = values(rows, name, figure)
    return f"{factor * found.mean():.{digits}f}" if len(found) and np.isfinite(found).all() else ""
