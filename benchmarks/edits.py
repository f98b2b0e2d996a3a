"""What each way to edit does to facts, paraphrases, other facts and text: on 100 facts of each bundled fact model."""

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch
from harness import RESULTS, write

from neuronwise.data import Fact, Facts, corpus, facts, load_model
from neuronwise.edit import evaluate_edit
from neuronwise.knowledge import editors, locate

#: Swept on other facts without their held-out prompts; see docs/howto/edit.md. The rest are the published defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "rome": {"prefixes": 0, "ridge": 0.01},
    "memit": {"prefixes": 0, "ridge": 0.01},
}
SETTINGS["memit"] |= {"position": "answer", "weight": 20.0, "clamp": 4.0, "weight_decay": 0.0}
METHODS = ("update_slots", "erase_slots", "fine", "rome", "memit")
LAYERS = {"rome": [0], "memit": [1, 2, 3]}
NEURONS = {"update_slots": 5, "erase_slots": 75, "fine": 150}


def requests(known: Facts, each: int) -> Facts:
    """Give each of some facts the answer of the next fact of its relation that has another."""
    made: list[Fact] = []
    for _, mine in known.by_relation().items():
        for fact in list(mine)[:each]:
            other = next((one for one in known.sisters(fact, 1, seed=0)), None)
            if other is not None:
                made.append(replace(fact, new_answer=other.answer))
    return Facts(made, name=known.name)


def measure(name: str, each: int, controls: int, methods: list[str]) -> None:
    loaded = load_model(name)
    model, tokenizer = loaded.model, loaded.tokenizer
    pool = facts(name)
    wanted = requests(pool, each)
    text = [prompt.replace("[Y]", fact.answer) for fact in pool[::4] for prompt in fact.prompts[:1]]
    keys = corpus(text[::2], tokenizer=tokenizer)
    located = locate(model, tokenizer, wanted, method="elimination", k=max(NEURONS.values()), progress=False)
    figures: dict[str, Any] = {"facts": len(wanted), "methods": {}}
    if len(methods) < len(METHODS):
        figures = json.loads((RESULTS / f"edits_{name}.json").read_text(encoding="utf-8"))
        figures.pop("machine")
    for method in methods:
        asked = (
            wanted if method != "erase_slots" else Facts([replace(fact, new_answer=None) for fact in wanted])
        )
        ways = editors(
            model,
            tokenizer,
            [method],
            located=located,
            k=NEURONS.get(method),
            layers=LAYERS.get(method),
            corpus=keys if method in LAYERS else None,
            settings={method: SETTINGS.get(method, {})},
        )
        start = time.perf_counter()
        found = evaluate_edit(
            model,
            tokenizer,
            asked,
            ways,
            corpus=text[1::2][:60],
            controls=controls,
            pool=pool,
            progress=False,
        )
        seconds = (time.perf_counter() - start) / len(asked)
        rows = found.to_frame()
        rows = rows[rows["measure"].isin(["argmax", "text"])]
        figures["methods"][method] = {
            "seconds_a_fact": seconds,
            "problems": len(found.problems),
            "figures": [[row.control, row.metric, row.value, row.low, row.high] for row in rows.itertuples()],
        }
        print(name, method, f"{seconds:.1f} s a fact", len(found.problems), "problems", flush=True)
        print(found.side_by_side().round(3).to_string(), flush=True)
        write(f"edits_{name}", figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10, help="facts of each of the ten relations")
    parser.add_argument("--controls", type=int, default=1, help="random edits for each edit")
    parser.add_argument("--model", action="append", help="fact-gpt or fact-bert; default: both")
    parser.add_argument("--method", action="append", help="measure only these anew; default: all")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.model or ("fact-gpt", "fact-bert"):
        measure(name, chosen.each, chosen.controls, chosen.method or list(METHODS))


if __name__ == "__main__":
    main()
