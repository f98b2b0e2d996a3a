"""How well attribution scores agree with what ablation does, to single neurons and to groups.

For every prompt all neurons get scores for log P(answer) at the position that predicts the answer. *Single neurons*:
Spearman correlation, and overlap of the 20 neurons with the highest scores, with exact ablation of every neuron alone.
*Groups*: what is left of P(answer) when the 5, 20 and 60 neurons with the highest scores are set to 0 together, beside
random neurons. Needs nothing but the package; about five minutes on one core.
"""

import argparse
import sys
import time
from collections.abc import Mapping

import numpy as np
import torch
from harness import write
from scipy.stats import spearmanr

from neuronwise.attribute import (
    METHODS,
    Ablation,
    FusionGrad,
    Group,
    IntegratedGradients,
    LogProbability,
    NoiseGrad,
    Problem,
    SmoothGrad,
    attribute,
)
from neuronwise.data import Prompts, bundled, encode, load_model
from neuronwise.data.facts import read_fact_model
from neuronwise.hooks import frozen_parameters, untouched
from neuronwise.sites import Sites, find_sites

SIZES = (5, 20, 60)
RANDOM_SETS = 10
STORIES = (
    ("Once upon a time, there was a little girl named [Y]", "Lily"),
    ("There was a little girl named [Y]", "Lily"),
    ("One day, a girl named [Y]", "Lily"),
    ("She was a little girl. Her name was [Y]", "Lily"),
    ("Once upon a time, there was a little boy named [Y]", "Tim"),
    ("There was a boy named [Y]", "Tim"),
    ("They played all [Y]", "day"),
    ("Once upon a [Y]", "time"),
)
NAMES = {
    "activation": METHODS["activation"],
    "gradient x activation": METHODS["gradient_x_activation"],
    "integrated gradients": METHODS["integrated_gradients"],
    "integrated gradients, joint path": METHODS["joint_integrated_gradients"],
    "conductance": METHODS["conductance"],
    "internal influence": METHODS["internal_influence"],
    "direct logit": METHODS["direct_logit"],
    "log-probability increase": METHODS["log_probability_increase"],
    "NoiseGrad of integrated gradients, 0.05": lambda: NoiseGrad(
        IntegratedGradients(nodes=5), samples=10, std=0.05
    ),
    "SmoothGrad of integrated gradients, 0.1": lambda: SmoothGrad(
        IntegratedGradients(nodes=5), samples=10, std=0.1
    ),
    "FusionGrad of integrated gradients": lambda: FusionGrad(
        IntegratedGradients(nodes=5), samples=10, std=0.05, input_std=0.1
    ),
    "exact ablation": Ablation,
}
NOT_FOR_MASKED = ("direct logit", "log-probability increase")


def prompts_of(name: str, count: int) -> tuple[torch.nn.Module, list[Prompts]]:
    """Return a bundled model and its prompts, one at a time."""
    loaded = load_model(name)
    if name == "stories260k":
        pairs = list(STORIES)
    else:
        facts = list(read_fact_model(bundled(name)))
        pairs = [(fact.prompts[0], fact.answer) for fact in facts[:: max(1, len(facts) // count)][:count]]
    return loaded.model, [
        encode(loaded.tokenizer, loaded.model, [prompt], [answer]) for prompt, answer in pairs
    ]


def left_of_p(problem: Problem, sites: Sites, chosen: np.ndarray) -> np.ndarray:
    """Return what is left of P with some neurons at 0, for sets of neurons ``(set, neuron of all sites)``."""
    ends = np.cumsum([site.width for site in sites])[:-1]
    rows = torch.zeros(len(chosen), dtype=torch.long)
    masks = np.split(chosen, ends, axis=1)
    values = {
        site: problem.activations[site] * torch.from_numpy(~mask).unsqueeze(1)
        for site, mask in zip(sites, masks, strict=True)
    }
    (found,) = problem.evaluate([Group(rows, values)], gradients=False)
    return np.exp((found.value - problem.value).double().numpy())


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Return a mask of the k highest scores."""
    mask = np.zeros(len(scores), dtype=bool)
    mask[np.argsort(-scores, kind="stable")[:k]] = True
    return mask


def of_prompt(
    model: torch.nn.Module, prompts: Prompts, names: Mapping[str, object]
) -> dict[str, dict[str, float]]:
    """Return the figures of every method on one prompt."""
    sites = find_sites(model)
    target = LogProbability(prompts)
    found, seconds = {}, {}
    for name in names:
        start = time.perf_counter()
        result = attribute(model, prompts.inputs, target, sites=sites, method=NAMES[name]())
        seconds[name] = time.perf_counter() - start
        found[name] = np.concatenate([result.scores[site][0, 0] for site in sites])
    exact = found["exact ablation"]
    rng = np.random.default_rng(0)
    figures: dict[str, dict[str, float]] = {}
    with untouched(model), frozen_parameters(model):
        problem = Problem(model, prompts.inputs, target, sites)
        for name, scores in found.items():
            left = left_of_p(problem, sites, np.stack([top(scores, k) for k in SIZES]))
            overlap = float((top(scores, 20) & top(exact, 20)).sum()) / 20
            figures[name] = {
                "spearman": float(spearmanr(scores, exact).statistic),
                "overlap": overlap,
                "seconds": seconds[name],
                **{f"left_{k}": float(value) for k, value in zip(SIZES, left, strict=True)},
            }
        drawn = [[top(rng.random(len(exact)), k) for _ in range(RANDOM_SETS)] for k in SIZES]
        figures["random"] = {
            f"left_{k}": float(left_of_p(problem, sites, np.stack(sets)).mean())
            for k, sets in zip(SIZES, drawn, strict=True)
        }
    figures["random"]["p"] = float(problem.value.exp())
    return figures


def main() -> None:
    """Measure on the bundled models and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=24, help="facts of each fact model")
    count = parser.parse_args().facts
    torch.set_num_threads(1)
    results = {}
    for name in ("stories260k", "fact-gpt", "fact-bert"):
        model, prompts = prompts_of(name, count)
        names = [method for method in NAMES if name != "fact-bert" or method not in NOT_FOR_MASKED]
        every = [of_prompt(model, one, dict.fromkeys(names)) for one in prompts]
        results[name] = {
            "prompts": len(every),
            "neurons": sum(site.width for site in find_sites(model)),
            "methods": {
                method: {
                    key: {
                        "mean": float(np.mean(values)),
                        "se": float(np.std(values, ddof=1) / len(values) ** 0.5),
                    }
                    for key in every[0][method]
                    for values in [[one[method][key] for one in every]]
                }
                for method in every[0]
            },
        }
        sys.stderr.write(f"{name} done\n")
    write("attribution_agreement", {"models": results})


if __name__ == "__main__":
    main()
