"""Inhibitors in every area, by ``nw.train.audit``: held-out tails, the task, random controls, other bases, one step.

Strengths are chosen on a seed of their own (100) and on the validation part: of each penalty that which brings the
share of phi above 9 to 0.45 of what it is without, interpolated between the strengths tried; where none tried does, the
strongest whose loss stays within 0.5 %. Each case is one seed of one group of inhibitors, with its own run of none.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, arguments, folder_of, work_through
from mono_areas import Area, area_of
from mono_train import audited

from neuronwise.train import (
    L2E,
    ClassSelectivity,
    Decorrelation,
    GatedReversal,
    KurtosisPenalty,
    Method,
    NaiveDeactivation,
    ReversedDeactivation,
    TailPenalty,
)

AREAS = ("language", "image_cnn", "physics", "tagging", "stories", "image_swin", "image_fashion")
TUNED_AREAS = AREAS[:3]  # others take the strengths of the first area of their kind
LIKE = {"tagging": "language", "stories": "language", "image_swin": "image_cnn", "image_fashion": "image_cnn"}
TUNED = 100  # the seed that strengths are chosen with
STRENGTHS = (0.001, 0.01, 0.1, 0.3)  # that may be tried
WANTED = 0.45  # of the share without a penalty
PENALTIES: dict[str, Any] = {"tail": TailPenalty, "kurtosis": KurtosisPenalty, "l2e": L2E}


def choose(area: Area, penalty: str) -> dict[str, Any]:
    """Return the strength of a penalty, and all that was tried."""
    tried: dict[float, dict[str, float]] = {}
    none: dict[str, float] = {}

    def ratio(strength: float) -> float:
        nonlocal none
        if strength not in tried:
            method = PENALTIES[penalty](strength=strength)
            rows = audited(area, {penalty: method}, TUNED, part="valid", controls=False, one_step=0)["rows"]
            none, tried[strength] = (
                {name: rows[row][name] for name in ("loss", "phi_above_9")} for row in ("none", penalty)
            )
        return tried[strength]["phi_above_9"] / none["phi_above_9"]

    below, above = (STRENGTHS[0], STRENGTHS[1]) if ratio(STRENGTHS[1]) <= WANTED else STRENGTHS[1:3]
    if above == STRENGTHS[2] and ratio(above) > WANTED:
        below, above = STRENGTHS[2:]
    reached = ratio(above) <= WANTED
    if reached and ratio(below) <= WANTED:
        chosen = below
    elif reached:
        ends = [math.log(max(ratio(strength), 1e-3)) for strength in (below, above)]
        way = (ends[0] - math.log(WANTED)) / (ends[0] - ends[1])
        chosen = float(f"{below * (above / below) ** way:.2g}")
    else:
        held = [strength for strength, row in tried.items() if row["loss"] <= 1.005 * none["loss"]]
        chosen = max(held, default=STRENGTHS[0])
    rows = {f"{strength:g}": row for strength, row in tried.items()}
    return {
        "area": area.name,
        "penalty": penalty,
        "strength": chosen,
        "reached": reached,
        "none": none,
        "tried": rows,
    }


def groups(area: Area, strengths: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return the groups of inhibitors: arguments of an audit."""
    found: dict[str, dict[str, Any]] = {
        "ours": {"inhibitors": {name: PENALTIES[name](strength=value) for name, value in strengths.items()}}
    }
    if area.name in TUNED_AREAS:
        more: dict[str, Method] = {
            "reversed 2 %": ReversedDeactivation(top=0.02, per="threshold"),
            "reversed 2 % random": ReversedDeactivation(top=0.02, per="threshold", selection="random"),
            "gated 2 %": GatedReversal(top=0.02, per="threshold"),
            "naive a 2 %": NaiveDeactivation(variant="a", top=0.02, per="threshold"),
            "naive b 2 %": NaiveDeactivation(variant="b", top=0.02, per="threshold"),
            "decorrelation": Decorrelation(),
        }
        found["more"] = {"inhibitors": more, "controls": False, "one_step": 0}
    if area.classes is not None and area.name == "image_cnn":
        found["selectivity"] = {
            "inhibitors": {
                f"selectivity {alpha:+d}": ClassSelectivity(alpha=float(alpha), classes=area.classes)
                for alpha in (-1, 1)
            },
            "one_step": 0,
            "classes": True,
        }
    return found


@cache
def area(name: str, folder: Path) -> Area:
    return area_of(name, folder)


def tune(name: str, folder: Path, penalty: str) -> dict[str, Any]:
    return choose(area(name, folder), penalty)


def measure(name: str, folder: Path, group: str, seed: int, strengths: dict[str, float]) -> dict[str, Any]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    here = area(name, folder)
    return {"area": name, "group": group, **audited(here, seed=seed, **groups(here, strengths)[group])}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--areas", nargs="*", default=AREAS, help="Only these areas.")
    parser.add_argument("--groups", nargs="*", help="Only these groups.")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    folder = folder_of(asked)
    cases = [
        (f"{name} strength {one}", tune, (name, folder, one)) for name in TUNED_AREAS for one in PENALTIES
    ]
    chosen = work_through("mono_strengths", cases, asked.jobs)
    todo = []
    for seed in range(asked.seeds):
        for name in asked.areas:
            strengths = {
                one: chosen[f"{LIKE.get(name, name)} strength {one}"]["strength"] for one in PENALTIES
            }
            todo += [
                (f"{name} {group} {seed}", measure, (name, folder, group, seed, strengths))
                for group in groups(area(name, folder), strengths)
                if not asked.groups or group in asked.groups
            ]
    work_through("mono_inhibitors", todo, asked.jobs)
    print(json.dumps({"cases": len(todo), "results": str(RESULTS)}))


if __name__ == "__main__":
    main()
