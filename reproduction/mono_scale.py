"""Scale: phi and the False Killing Rate of networks of several widths, trained alike without an inhibitor.

As the figures of both papers: mean phi of each neuron's own feature (l*), the Kolmogorov-Smirnov distance between phi
on that feature and on everything, and the False Killing Rate at several levels. Features are word classes of WikiText-2
and the classes of CIFAR-10; another partition may say otherwise. Wider networks also fit better in the same number of
steps, so width and how far training went are not told apart.
"""

from pathlib import Path
from typing import Any

import torch
from common import arguments, folder_of, work_through
from mono_areas import area_of
from mono_models import sites_of
from mono_train import EXAMPLES, SAMPLES, held_out, train
from scipy.stats import ks_2samp
from torch import Tensor, nn

from neuronwise.hooks import capture
from neuronwise.observe.measures import false_killing_rate, feature_phi, liveness, monosemantic_feature, phi

WIDTHS = {"language": (16, 32, 64, 128), "image_cnn": (4, 8, 16, 32)}
SHARES = (
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
)  # of all entries, at which the False Killing Rate is taken
UNITS = 64  # of a site, whose distributions are compared


def rows_of(model: nn.Module, inputs: Tensor, labels: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Return activations ``(sample, neuron)`` of each site, drawn at random, and the class of each sample."""
    found: list[tuple[Tensor, Tensor | None]] = []
    with torch.no_grad(), capture(model, sites_of(model)) as seen:
        model(inputs)
    for site in sites_of(model):
        values = seen[site].movedim(site.axis, -1).reshape(len(inputs), -1, site.width)
        some = torch.randperm(values.shape[0] * values.shape[1], generator=torch.Generator().manual_seed(0))[
            :SAMPLES
        ]
        each = (
            None
            if labels is None
            else labels.reshape(len(labels), -1).expand(-1, values.shape[1]).flatten()[some]
        )
        found.append((values.flatten(0, 1)[some], each))
    return found


def feature_figures(reference: Tensor, values: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what says how a site's live neurons go with the features."""
    live = liveness(values).live & (labels >= 0).any()
    known = labels >= 0
    values, labels = values[known][:, live], labels[known]
    mean, variance = reference.mean(0)[live], reference.var(0)[live]
    own, _ = monosemantic_feature(values, labels, mean, variance)
    scores = phi(values, mean, variance)
    distances = [
        float(
            ks_2samp(
                scores[labels == feature, unit].numpy(), scores[:, unit].numpy(), method="asymp"
            ).statistic
        )
        for unit, feature in enumerate(own[:UNITS].tolist())
    ]
    found = {
        "feature_phi": float(feature_phi(values, labels, mean, variance).amax(0).mean()),
        "ks": sum(distances) / len(distances),
        "classes": float(len(labels.unique())),
    }
    for share in SHARES:
        found[f"fkr {share:g}"] = false_killing_rate(values, labels, mean, variance, share=share, floor=0.01)
    return found


def measure(name: str, folder: Path, longer: float, width: int, seed: int) -> dict[str, Any]:
    here = area_of(name, folder, longer, width=width)
    model, _ = train(here, None, seed)
    assert here.probe is not None
    reference = rows_of(model, here.train[0][:EXAMPLES], None)
    shown = rows_of(model, *(part[:EXAMPLES] for part in here.probe))
    sites = [
        feature_figures(known, values, labels)
        for (known, _), (values, labels) in zip(reference, shown, strict=True)
        if labels is not None
    ]
    figures = {name: sum(site[name] for site in sites) / len(sites) for name in sites[0]}
    return {
        "area": name,
        "width": width,
        "seed": seed,
        "sites": sites,
        "figures": held_out(here, model, seed) | figures,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--longer", type=float, default=1.0, help="Train for so many times the steps.")
    asked = parser.parse_args()
    folder, longer = folder_of(asked), asked.longer
    tail = "" if longer == 1 else f" x{longer:g}"
    todo = [
        (f"{name} {width} {seed}{tail}", measure, (name, folder, longer, width, seed))
        for seed in range(asked.seeds)
        for name, widths in WIDTHS.items()
        for width in widths
    ]
    todo = [case for case in todo if not asked.only or case[0] in asked.only]
    work_through("mono_scale", todo, asked.jobs)


if __name__ == "__main__":
    main()
