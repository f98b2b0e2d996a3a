"""What an audit has no place for, in a plain loop of the same optimiser and measures: MEmeL as published, and one knob.

MEmeL's units are elements (position and channel), while neurons are measured as features, like everything else here.
Models, batches and measures are those of an audit with the same seed, so its runs without an inhibitor are the ones to
compare with; the first seed is trained without one here too, to show that figures agree.

The controller steers our penalty, beginning about the strength that ``mono_inhibitors.py`` chose, to a level of the
top 1 % of phi, asked below and above the untouched one: 0.7 and 1.4 of what seed 100 shows without it, online, in the
last tenth of its steps. The level reached is a mean over the last tenth too, of other seeds.

``tail held`` is our penalty by another rule: the strongest that was tried whose validation loss stayed within 0.5 % on
seed 100, whatever it did to phi; areas where none did have no such row.
"""

from pathlib import Path
from typing import Any

from common import arguments, folder_of, read_results, work_through
from mono_areas import area_of
from mono_train import held_out, train

from neuronwise.observe.statistics import Unit
from neuronwise.train import Controller, MEmeL, Method, TailPenalty

AREAS = ("language", "image_cnn", "physics", "tagging", "stories", "image_swin", "image_fashion")
STEERED = AREAS[:3]
TUNED = 100
LEVELS = {"down": 0.7, "up": 1.4}
WAYS: dict[str, tuple[Method | None, Unit]] = {
    "none": (None, "feature"),
    "memel": (MEmeL(), "element"),
    "memel random": (MEmeL(selection="random"), "element"),
}


def untouched(name: str, folder: Path, longer: float) -> dict[str, Any]:
    return {"area": name, "online": train(area_of(name, folder, longer), None, TUNED)[1]}


def held(tuned: dict[str, Any]) -> float | None:
    """Return the strongest tail penalty tried that held the validation loss, if there is one."""
    most = 1.005 * tuned["none"]["loss"]
    return max(
        (float(one) for one, row in tuned["tried"]["tail"].items() if row["loss"] <= most), default=None
    )


def measure(
    name: str, folder: Path, longer: float, way: str, level: float, tuned: dict[str, Any], seed: int
) -> dict[str, Any]:
    here = area_of(name, folder, longer)
    target = level * LEVELS.get(way, 1.0)
    method, unit = WAYS.get(way, (None, "feature"))
    if way == "tail held":
        strength = held(tuned)
        assert strength is not None
        method = TailPenalty(strength=strength)
    elif way in LEVELS:
        method = Controller("top", target, method=TailPenalty(strength=tuned["strengths"]["tail"]))
    model, online = train(here, method, seed, unit=unit)
    found = {
        "area": name,
        "row": way,
        "seed": seed,
        "online": online,
        "held_out": held_out(here, model, seed),
    }
    return found | ({"asked": target} if way in LEVELS else {})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--areas", nargs="*", default=AREAS, help="Only these areas.")
    parser.add_argument("--ways", nargs="*", help="Only these rows.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--longer", type=float, default=1.0, help="Train for so many times the steps.")
    asked = parser.parse_args()
    folder, longer = folder_of(asked), asked.longer
    tail = "" if longer == 1 else f" x{longer:g}"
    cases = [
        (f"{name} untouched{tail}", untouched, (name, folder, longer))
        for name in asked.areas
        if name in STEERED
    ]
    seen = work_through("mono_levels", cases, asked.jobs)
    levels = {
        name: seen[f"{name} untouched{tail}"]["online"]["top"] for name in asked.areas if name in STEERED
    }
    found = read_results("mono_strengths")
    todo = []
    for seed in range(asked.seeds):
        for name in asked.areas:
            tuned = found.get(f"{name} ours strengths{tail}", {})
            ways = ["none"] if seed == 0 else []
            if name in STEERED:
                if not tuned:
                    raise SystemExit("Run mono_inhibitors.py first: it chooses the strengths.")
                ways += [*(["tail held"] if held(tuned) else []), "memel", *LEVELS, "memel random"]
            else:
                ways += ["memel", "memel random"]
            for way in [one for one in ways if not asked.ways or one in asked.ways]:
                values = (name, folder, longer, way, levels.get(name, 0.0), tuned, seed)
                todo.append((f"{name} {way} {seed}{tail}", measure, values))
    todo = [case for case in todo if not asked.only or case[0] in asked.only]
    work_through("mono_loop", todo, asked.jobs)


if __name__ == "__main__":
    main()
