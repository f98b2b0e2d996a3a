"""How few neurons must be silenced for a fact to be lost: ways to locate them, on the bundled fact models.

Neurons are found from the prompts that the models were trained on, switched off at all positions, and judged on a
paraphrase held out of training and on other facts of the same relation.
"""

import argparse
import time
from typing import Any

import torch
from harness import write

from neuronwise.attribute import GradientTimesActivation, IntegratedGradients
from neuronwise.data import Facts, facts, load_model
from neuronwise.knowledge import locate, measure_effect

SIZES = (20, 40, 60, 75, 100, 150)
METHODS: dict[str, dict[str, Any]] = {
    "activation": {"method": "activation"},
    "gradient x activation, log P": {"method": GradientTimesActivation(), "target": "log_probability"},
    "integrated gradients per layer, P": {"method": IntegratedGradients(rule="midpoint", nodes=10)},
    "integrated gradients, joint, P": {"method": IntegratedGradients(joint=True)},
    "elimination": {"method": "elimination"},
}
MEASURES = ("median_ratio", "ratio_of_means", "mean_of_ratios", "delta_log_p")


def measure(name: str, each: int) -> dict[str, Any]:
    loaded = load_model(name)
    known = facts(name, limit=each, seed=0)
    pool = facts(name)
    figures: dict[str, Any] = {"facts": len(known), "neurons": None, "methods": {}}
    for method, settings in METHODS.items():
        start = time.perf_counter()
        located = locate(
            loaded.model, loaded.tokenizer, known, positions="all", k=max(SIZES), progress=False, **settings
        )
        seconds = (time.perf_counter() - start) / len(known)
        figures["neurons"] = located.sites.width
        figures["methods"][method] = {
            "seconds_a_fact": seconds,
            "sizes": {
                str(k): effect_of(loaded, known, pool, located.sets(k=k, refined=False)) for k in SIZES
            },
        }
        held_out = {
            k: row["held_out"]["chosen"]["median_ratio"]
            for k, row in figures["methods"][method]["sizes"].items()
        }
        print(name, method, f"{seconds:.2f} s a fact,", "left on held-out paraphrases:", held_out, flush=True)
    return figures


def effect_of(loaded: Any, known: Facts, pool: Facts, sets: dict[str, Any]) -> dict[str, Any]:
    """Return what is left of the answer's probability, by kind of prompt, for chosen and random neurons."""
    effect = measure_effect(
        loaded.model, loaded.tokenizer, known, sets, factors=(0.0,), positions="all", sisters=4, others=4,
        controls=2, pool=pool, progress=False,
    )  # fmt: skip
    frame = effect.tables["effect_summary"]
    found: dict[str, Any] = {}
    for (probe, neurons), part in frame.groupby(["probe", "neurons"], observed=True):
        by_measure = part.set_index("measure")
        found.setdefault(str(probe), {})[str(neurons)] = {
            measure: [float(by_measure.loc[measure, column]) for column in ("value", "low", "high")]
            for measure in MEASURES
            if measure in by_measure.index
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10, help="facts of each of the ten relations")
    each = parser.parse_args().each
    torch.set_num_threads(1)
    write(
        "location",
        {
            "torch": torch.__version__,
            "models": {name: measure(name, each) for name in ("fact-gpt", "fact-bert")},
        },
    )


if __name__ == "__main__":
    main()
