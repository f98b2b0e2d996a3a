"""The same statistics through neuronwise, TransformerLens and nnsight: overhead and peak memory.

One model (GPT-2 of random weights), one corpus (random tokens), five statistics of every FFN neuron: mean, variance,
minimum, maximum, fraction active. The peers are used in the two usual ways:

- *collect*: keep the activations of the whole corpus, then compute; what most notebooks do. Memory grows with it.
- *running*: after every batch, add to running sums; what a careful user writes.

Every figure of memory comes from a process of its own.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version

import torch
from harness import interleaved, overhead, write
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

LAYERS, WIDTH, VOCABULARY = 6, 512, 1000
SEQUENCES, LENGTH = 16, 64  # 1,024 tokens a call
TIMED_CALLS = 4
TIMED_REPEATS = 5
MEMORY_TOKENS = (4096, 16384, 32768)
VARIANTS = (
    "neuronwise",
    "neuronwise whole",
    "transformer_lens running",
    "transformer_lens collect",
    "nnsight running",
    "nnsight collect",
)

Forward = Callable[[Tensor], object]
Activations = Iterator[list[Tensor]]


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=8,
        n_positions=256,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def token_batches(calls: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=generator) for _ in range(calls)]


class Running:
    """Five statistics as running sums, in plain torch."""

    def __init__(self) -> None:
        self.n = 0
        self.parts: list[Tensor] = []

    def update(self, activations: Tensor) -> None:
        rows = activations.flatten(0, -2)
        self.n += len(rows)
        double = rows.double()
        new = [double.sum(0), (double * double).sum(0), rows.amin(0), rows.amax(0), (rows > 0).sum(0)]
        if not self.parts:
            self.parts = new
            return
        total, squares, low, high, active = self.parts
        self.parts = [
            total + new[0],
            squares + new[1],
            torch.minimum(low, new[2]),
            torch.maximum(high, new[3]),
            active + new[4],
        ]

    def result(self) -> list[Tensor]:
        total, squares, low, high, active = self.parts
        mean = total / self.n
        return [mean, squares / self.n - mean**2, low, high, active / self.n]


def running(activations: Activations) -> list[list[Tensor]]:
    sums = [Running() for _ in range(LAYERS)]
    for batch in activations:
        for state, layer in zip(sums, batch, strict=True):
            state.update(layer)
    return [state.result() for state in sums]


def collect(activations: Activations) -> list[list[Tensor]]:
    kept = [[layer.flatten(0, -2) for layer in batch] for batch in activations]
    results = []
    for number in range(LAYERS):
        rows = torch.cat([batch[number] for batch in kept])
        results.append([rows.mean(0), rows.var(0), rows.amin(0), rows.amax(0), (rows > 0).float().mean(0)])
    return results


def neuronwise_way(batches: list[Tensor], how: str) -> tuple[Forward, Callable[[], object]]:
    import neuronwise as nw
    from neuronwise.observe import ActiveFraction, BatchInfo, Extremes, Moments, Observer

    model = gpt2()
    sites = nw.find_sites(model)
    corpus = nw.corpus(torch.cat(batches))
    reducers = [Moments(order=2), Extremes(), ActiveFraction()]

    def whole() -> object:
        observer = Observer(sites, reducers)
        with observer.attached(model):
            for number, ids in enumerate(batches):
                first = number * SEQUENCES
                observer.expect(
                    BatchInfo(torch.arange(first, first + SEQUENCES), token_ids=ids, number=number)
                )
                model(ids)
        return [reducer.result() for each in observer.reducers.values() for reducer in each.values()]

    def observe() -> object:
        return nw.observe(model, corpus, sites, reducers=reducers, batch_size=SEQUENCES, promoted=False)

    return model, whole if how == "whole" else observe


def transformer_lens_way(batches: list[Tensor], how: str) -> tuple[Forward, Callable[[], object]]:
    from tokenizers import Tokenizer, models
    from transformer_lens import TransformerBridge

    words = {str(number): number for number in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")),
        unk_token="0",
        bos_token="0",
        eos_token="0",
        pad_token="0",
    )
    with tempfile.TemporaryDirectory() as folder:  # it loads models by name or folder only
        gpt2().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        bridge = TransformerBridge.boot_transformers(folder, device="cpu")
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(LAYERS)]

    def activations() -> Activations:
        for ids in batches:
            _, cache = bridge.run_with_cache(ids, names_filter=names)
            yield [cache[name] for name in names]

    return bridge, lambda: (running if how == "running" else collect)(activations())


def nnsight_way(batches: list[Tensor], how: str) -> tuple[Forward, Callable[[], object]]:
    import nnsight

    model = gpt2()
    traced = nnsight.NNsight(model)

    def activations() -> Activations:
        for ids in batches:
            with traced.trace(ids):
                layers = nnsight.save([layer.mlp.act.output for layer in traced.transformer.h])
            yield layers

    return model, lambda: (running if how == "running" else collect)(activations())


def way(variant: str, batches: list[Tensor]) -> tuple[Forward, Callable[[], object]]:
    """The plain forward and the statistics of one variant over the batches."""
    library, _, how = variant.partition(" ")
    ways = {"neuronwise": neuronwise_way, "transformer_lens": transformer_lens_way, "nnsight": nnsight_way}
    return ways[library](batches, how)


def peak_memory() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_variant(variant: str, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    batches = token_batches(TIMED_CALLS)
    forward, statistics_of = way(variant, batches)

    def plain() -> None:
        for ids in batches:
            forward(ids)

    return overhead(interleaved({"plain": plain, "all": statistics_of}, repeats=TIMED_REPEATS), "all")


def memory_of_variant(variant: str, tokens: int) -> dict[str, float]:
    torch.set_num_threads(2)
    forward, statistics_of = way(variant, token_batches(tokens // (SEQUENCES * LENGTH)))
    for ids in token_batches(4):
        forward(ids)
    before = peak_memory()
    statistics_of()
    return {"mebibytes": peak_memory() - before}


def child(*arguments: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(*arguments, figures, flush=True)
    return figures


def run_child(what: str, variant: str, number: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    hf_logging.disable_progress_bar()
    with torch.no_grad():
        figures = time_variant(variant, number) if what == "time" else memory_of_variant(variant, number)
    print(json.dumps(figures))


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    versions = {name: version(name) for name in ("torch", "transformers", "transformer-lens", "nnsight")}
    figures = {"versions": versions, "tokens": list(MEMORY_TOKENS), "time": {}, "memory": {}}
    runs = [("time", variant, 1) for variant in VARIANTS]
    runs += [("memory", variant, tokens) for tokens in MEMORY_TOKENS for variant in VARIANTS]
    runs += [("time", variant, 2) for variant in VARIANTS]
    for what, variant, number in runs:  # written after each: it takes long, and what is there is worth having
        figures[what][f"{variant} {number}"] = child(what, variant, str(number))
        write("peers", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "VARIANT", "NUMBER"), help="run one measurement")
    chosen = parser.parse_args().child
    if chosen:
        run_child(chosen[0], chosen[1], int(chosen[2]))
    else:
        main()
