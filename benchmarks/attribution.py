"""Attribution maps beside the package `knowledge-neurons` 0.0.2: the same models, prompts and threads, in one run."""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import write
from torch import Tensor, nn
from transformers import BatchEncoding, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as hf_logging

from neuronwise.attribute import Answers, IntegratedGradients, Probability, Problem, score
from neuronwise.hooks import frozen_parameters, untouched
from neuronwise.sites import find_sites

MASK, ANSWER = 103, 2003
BUDGETS = (64, 256, 1024)  # MiB
SMALL = {"layers": 4, "width": 128, "tokens": 9}


class Ids:
    """As much of a tokenizer as the package asks for: every prompt is the same ids."""

    mask_token_id, unk_token_id = MASK, 100

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    def __call__(self, prompt: str, return_tensors: str) -> BatchEncoding:
        ones = torch.ones_like(self.ids)
        return BatchEncoding({"input_ids": self.ids, "attention_mask": ones, "token_type_ids": 0 * ones})

    def convert_tokens_to_ids(self, token: str) -> int:
        return ANSWER

    def encode(self, token: str) -> list[int]:
        return [ANSWER]


def bert(layers: int, width: int, tokens: int, vocabulary: int = 30522) -> tuple[nn.Module, Tensor, int]:
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )  # fmt: skip
    torch.manual_seed(0)
    ids = torch.randint(1000, vocabulary, (1, tokens))
    ids[0, tokens // 2] = MASK
    return BertForMaskedLM(config).eval(), ids, tokens // 2


def gpt(layers: int, width: int, tokens: int, vocabulary: int = 5000) -> tuple[nn.Module, Tensor, int]:
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=width // 64, n_positions=tokens
    )
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval(), torch.randint(1000, vocabulary, (1, tokens)), tokens - 1


def ours(
    model: nn.Module, ids: Tensor, position: int, method: IntegratedGradients, memory: int = 1 << 30
) -> tuple[Tensor, dict[str, float], float]:
    """Return the map, its cost in forward passes, and the largest gap."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with untouched(model), frozen_parameters(model):
        target = Probability(Answers(torch.tensor([ANSWER]), torch.tensor([position])))
        problem = Problem(model, inputs, target, find_sites(model), memory=memory)
        found = score(problem, method)
    scores = torch.stack([found.values[site][0, 0] for site in problem.sites])
    cost = {"forwards": problem.cost.forwards, "backwards": problem.cost.backwards}
    return scores, cost | {"nodes": int(found.nodes.max())}, float(found.gap.abs().max())


def theirs(model: nn.Module, ids: Tensor, kind: str, steps: int = 20) -> Tensor:
    from knowledge_neurons import KnowledgeNeurons

    scores = KnowledgeNeurons(model, Ids(ids), model_type=kind, device="cpu").get_scores(
        "", "", batch_size=10, steps=steps, pbar=False
    )
    return scores.detach()


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least of a few times, which a busy moment cannot make smaller, and what the call returned."""
    seconds, value = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), value


def error(scores: Tensor, exact: Tensor) -> float:
    return float((scores.double() - exact.double()).norm() / exact.double().norm())


def compare(
    name: str, model: nn.Module, ids: Tensor, position: int, kind: str, repeats: int
) -> dict[str, Any]:
    """Time the package and ours, turn about; measure the error of each against 48 Gauss-Legendre nodes."""
    exact = ours(model, ids, position, IntegratedGradients(nodes=48))[0]
    per_layer, joint = IntegratedGradients(tolerance=1e-3), IntegratedGradients(joint=True, tolerance=1e-3)
    first = timed(lambda: ours(model, ids, position, per_layer), repeats)
    package, scores = timed(lambda: theirs(model, ids, kind), max(1, repeats // 3))
    again = timed(lambda: ours(model, ids, position, per_layer), repeats)
    seconds, (mine, cost, gap) = min(first, again, key=lambda pair: pair[0])
    joint_seconds, (_, joint_cost, joint_gap) = timed(lambda: ours(model, ids, position, joint), repeats)
    forward = timed(lambda: _forward(model, ids), repeats + 2)[0]
    figures = {
        "package_seconds": package,
        "forward_seconds": forward,
        "seconds": seconds,
        "ratio": package / seconds,
        "joint_seconds": joint_seconds,
        "joint_ratio": package / joint_seconds,
        "cost": cost,
        "joint_cost": joint_cost,
        "gap": gap,
        "joint_gap": joint_gap,
        "error": error(mine, exact),
    }
    if kind == "bert":  # of GPT-2 the package scores pre-activations, which is something else
        figures["package_error"] = error(scores, exact)
        same = ours(model, ids, position, IntegratedGradients(rule="eleuther", nodes=20))[0]
        figures["difference_with_its_rule"] = float((same - scores).abs().max())
        figures["largest_score"] = float(scores.abs().max())
    print(name, {key: value for key, value in figures.items() if not isinstance(value, dict)}, flush=True)
    return figures


def _forward(model: nn.Module, ids: Tensor) -> None:
    with torch.no_grad():
        model(input_ids=ids)


def growth() -> list[dict[str, Any]]:
    """Return how seconds and forward passes grow with layers, width and tokens, one at a time."""
    varied = {"layers": (2, 4, 8), "width": (64, 128, 256), "tokens": (9, 36, 144)}
    shapes = [(key, SMALL | {key: value}) for key, values in varied.items() for value in values]
    return [
        {"model": kind, "varies": key, **shape, "joint": joint, **grown(make, shape, joint)}
        for key, shape in shapes
        for kind, make in (("bert", bert), ("gpt2", gpt))
        for joint in (False, True)
    ]


def grown(make: Callable[..., Any], shape: dict[str, int], joint: bool) -> dict[str, float]:
    model, ids, position = make(**shape, vocabulary=4000)
    method = IntegratedGradients(joint=joint, nodes=8)
    seconds, (_, cost, _) = timed(lambda: ours(model, ids, position, method), 3)
    return {"seconds": seconds, **cost}


def memory_of(budget: int) -> float:
    """Return the growth of peak memory, in MiB, over the forward pass of one prompt."""
    model, ids, position = bert(6, 512, 32)
    ours(model, ids[:, :4].clone(), 1, IntegratedGradients(nodes=2))
    before = peak()
    ours(model, ids, position, IntegratedGradients(nodes=32), memory=budget << 20)
    return peak() - before


def peak() -> float:
    """The largest resident memory of this process so far, in MiB; ru_maxrss would count the parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"torch": torch.__version__, "package": "knowledge-neurons 0.0.2", "threads": 1}
    figures["bert_small"] = compare("bert, 4 layers, width 128, 9 tokens", *bert(4, 128, 9), "bert", 6)
    figures["bert_base"] = compare("bert-base size, 9 tokens", *bert(12, 768, 9), "bert", 3)
    figures["gpt_130"] = compare("gpt2, 5 layers, width 256, 130 tokens", *gpt(5, 256, 130), "gpt2", 6)
    figures["growth"] = growth()
    figures["memory"] = {}
    for budget in BUDGETS:
        command = [sys.executable, __file__, "--memory", str(budget)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures["memory"][str(budget)] = json.loads(done.stdout.splitlines()[-1])
        print("memory", budget, figures["memory"][str(budget)], flush=True)
    write("attribution", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, metavar="MIB", help="measure peak memory under one budget")
    chosen = parser.parse_args()
    hf_logging.set_verbosity_error()
    if chosen.memory:
        torch.set_num_threads(1)
        print(memory_of(chosen.memory))
    else:
        main()
