"""Draw the pictures of README and docs from the results of the demo: ``python docs/pictures.py demo-output``."""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import neuronwise as nw
from neuronwise.report import activity, audit, discovery, knowledge_map

IMAGES = Path(__file__).parent / "images"
DPI = 110


def curves(found: Any) -> Figure:
    """Draw what the formula makes of each input."""
    figure, axes = plt.subplots(1, len(found.inputs), figsize=(2.6 * len(found.inputs), 2.4), sharey=True)
    for ax, name in zip(axes, found.inputs, strict=True):
        discovery.plot(found, ax, name=name)
    figure.tight_layout()
    return figure


#: File name: the demo's result, and what draws it.
PICTURES = {
    "layers": ("activity", lambda found: activity.plot(found).figure),
    "ablation": ("ablation", lambda found: found.plot().figure),
    "knowledge_map": ("map", lambda found: knowledge_map.plot(found).figure),
    "curves": ("formula", curves),
    "audit": ("audit", lambda found: audit.plot(found).figure),
}


def main(folder: Path) -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, (result, draw) in PICTURES.items():
        draw(nw.load(folder / result)).savefig(
            IMAGES / f"{name}.png", dpi=DPI, bbox_inches="tight", metadata={"Software": None}
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))
