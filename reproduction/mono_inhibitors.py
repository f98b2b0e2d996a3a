"""Inhibitors in every area, by ``nw.train.audit``: held-out tails, the task, random controls, other bases, one step.

Strengths are chosen on a seed of their own (100) and on the validation part: of each penalty that which brings the
share of phi above 9 to 0.45 of what it is without, interpolated between the strengths tried; where none tried does, the
strongest whose loss stays within 0.5 %. Each case is one seed of one group of inhibitors, with its own run of none.

The penalty on the excess was added when that rule had been seen to fail, and has another: of all strengths and
beginnings tried on three seeds (100 to 102), the least validation loss among those that keep at most 0.45 of the share.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common import RESULTS, arguments, folder_of, work_through
from mono_areas import Area, area_of
from mono_train import audited

from neuronwise.train import (
    L2E,
    ClassSelectivity,
    Decorrelation,
    ExcessPenalty,
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
ONE_STEP = 2  # batches that single steps are looked at, of the first two seeds
PENALTIES: dict[str, Any] = {"tail": TailPenalty, "kurtosis": KurtosisPenalty, "l2e": L2E}
EXCESS = (1.0, 2.0, 4.0, 8.0, 16.0)  # strengths of the penalty on the excess
BEGINS = (0.0, 0.25, 0.5)  # shares of the run after which it may begin
TUNED_EXCESS = (100, 101, 102)  # the seeds that it is chosen with
CHOSEN = {"ours": ("tail",), "penalties": ("kurtosis", "l2e")}  # the penalties of each group


def choose(area: Area, penalties: Sequence[str]) -> dict[str, Any]:
    """Return the strengths of penalties, and all that was tried."""
    tried: dict[str, dict[str, dict[str, float]]] = {name: {} for name in penalties}
    none: dict[str, float] = {}

    def attempt(strengths: dict[str, Sequence[float]]) -> None:
        named = {f"{name} {one:g}": (name, one) for name, some in strengths.items() for one in some}
        methods = {key: PENALTIES[name](strength=one) for key, (name, one) in named.items()}
        rows = audited(area, methods, TUNED, part="valid", controls=False)["rows"]
        none.update((figure, rows["none"][figure]) for figure in ("loss", "phi_above_9"))
        for key, (name, one) in named.items():
            tried[name][f"{one:g}"] = {figure: rows[key][figure] for figure in ("loss", "phi_above_9")}

    attempt(dict.fromkeys(penalties, STRENGTHS[1:3]))
    more: dict[str, Sequence[float]] = {}
    for name in penalties:
        weak, strong = (
            tried[name][f"{one:g}"]["phi_above_9"] / none["phi_above_9"] for one in STRENGTHS[1:3]
        )
        if weak <= WANTED:
            more[name] = STRENGTHS[:1]
        elif strong > WANTED:
            more[name] = STRENGTHS[3:]
    if more:
        attempt(more)
    chosen = {name: settled(rows, none) for name, rows in tried.items()}
    return {"area": area.name, "strengths": chosen, "none": none, "tried": tried}


def settled(rows: dict[str, dict[str, float]], none: dict[str, float]) -> float:
    """Return the strength that the rule at the top of this file gives."""
    ratios = {
        one: rows[f"{one:g}"]["phi_above_9"] / none["phi_above_9"] for one in STRENGTHS if f"{one:g}" in rows
    }
    enough = [strength for strength, ratio in ratios.items() if ratio <= WANTED]
    if not enough:
        held = [one for one in ratios if rows[f"{one:g}"]["loss"] <= 1.005 * none["loss"]]
        return max(held, default=min(STRENGTHS))
    above = enough[0]
    weaker = [strength for strength in ratios if strength < above]
    if not weaker:
        return above
    below = weaker[-1]
    ends = [math.log(max(ratios[strength], 1e-3)) for strength in (below, above)]
    way = (ends[0] - math.log(WANTED)) / (ends[0] - ends[1])
    return float(f"{below * (above / below) ** way:.2g}")


def choose_excess(area: Area) -> dict[str, Any]:
    """Return strength and beginning of the penalty on the excess, and all that was tried: means over the seeds."""
    tried: dict[tuple[float, float], dict[str, float]] = {}
    for begin in BEGINS:
        methods = {f"{one:g}": ExcessPenalty(strength=one) for one in EXCESS}
        found = [
            audited(area, methods, seed, part="valid", controls=False, begin=begin)["rows"]
            for seed in TUNED_EXCESS
        ]
        for one in EXCESS:
            tried[one, begin] = {
                figure: fmean(rows[f"{one:g}"][figure] / rows["none"][figure] for rows in found)
                for figure in ("loss", "phi_above_9")
            }
    enough = [key for key, row in tried.items() if row["phi_above_9"] <= WANTED]
    strength, begin = (
        min(enough, key=lambda key: tried[key]["loss"])
        if enough
        else min(tried, key=lambda key: tried[key]["phi_above_9"])
    )
    return {
        "area": area.name,
        "strengths": {"excess": strength},
        "begin": begin,
        "tried": [{"strength": one, "begin": start, **row} for (one, start), row in tried.items()],
    }


def groups(area: Area, strengths: dict[str, float], begin: float = 0.0) -> dict[str, dict[str, Any]]:
    """Return the groups of inhibitors: arguments of an audit."""
    found: dict[str, dict[str, Any]] = {
        group: {"inhibitors": {one: PENALTIES[one](strength=strengths.get(one, 0.01)) for one in names}}
        for group, names in CHOSEN.items()
    }
    found["excess"] = {
        "inhibitors": {"excess": ExcessPenalty(strength=strengths.get("excess", EXCESS[0]))},
        "begin": begin,
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
        found["more"] = {"inhibitors": more, "controls": False}
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


def tune(name: str, folder: Path, longer: float, group: str) -> dict[str, Any]:
    here = area_of(name, folder, longer)
    return choose_excess(here) if group == "excess" else choose(here, CHOSEN[group])


def measure(
    name: str, folder: Path, longer: float, group: str, seed: int, tuned: dict[str, Any]
) -> dict[str, Any]:
    here = area_of(name, folder, longer)
    chosen = groups(here, tuned.get("strengths", {}), tuned.get("begin", 0.0))
    settings = {"one_step": ONE_STEP if seed < 2 else 0} | chosen[group]
    return {"area": name, "group": group, **audited(here, seed=seed, **settings)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--areas", nargs="*", default=AREAS, help="Only these areas.")
    parser.add_argument("--groups", nargs="*", help="Only these groups.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--longer", type=float, default=1.0, help="Train for so many times the steps.")
    asked = parser.parse_args()
    folder, longer = folder_of(asked), asked.longer
    tail = "" if longer == 1 else f" x{longer:g}"
    known = {LIKE.get(name, name) for name in asked.areas}
    cases = [
        (f"{name} {group} strengths{tail}", tune, (name, folder, longer, group))
        for group in (*CHOSEN, "excess")
        for name in TUNED_AREAS
        if name in known and group in (asked.groups or (*CHOSEN, "excess"))
    ]
    chosen = work_through("mono_strengths", cases, asked.jobs)
    todo = []
    for seed in range(asked.seeds):
        for name in asked.areas:
            like = LIKE.get(name, name)
            for group in groups(area_of(name, folder, longer), {}):
                if not asked.groups or group in asked.groups:
                    tuned = chosen.get(f"{like} {group} strengths{tail}", {})
                    values = (name, folder, longer, group, seed, tuned)
                    todo.append((f"{name} {group} {seed}{tail}", measure, values))
    todo = [case for case in todo if not asked.only or case[0] in asked.only]
    work_through("mono_inhibitors", todo, asked.jobs)
    print(json.dumps({"cases": len(todo), "results": str(RESULTS)}))


if __name__ == "__main__":
    main()
