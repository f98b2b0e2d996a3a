"""What `import neuronwise` adds to `import torch`, and how long find_sites takes on a model of 7B parameters."""

import json
import statistics
import subprocess
import sys
import time

import torch
from harness import write
from transformers import LlamaConfig, LlamaForCausalLM

import neuronwise as nw

REPEATS = 9
# In one process one after the other, so that each line is what it adds to those before.
TIMED_IMPORTS = """
import json, time
marks = [time.perf_counter()]
import torch
marks.append(time.perf_counter())
import neuronwise
marks.append(time.perf_counter())
neuronwise.find_sites
marks.append(time.perf_counter())
neuronwise.observe
marks.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""


def import_seconds() -> dict[str, float]:
    """Median time that each import adds, in fresh processes."""
    rounds = []
    for number in range(REPEATS + 1):
        done = subprocess.run(
            [sys.executable, "-c", TIMED_IMPORTS], capture_output=True, text=True, check=True
        )
        if number:  # the first round only fills the file cache
            rounds.append(json.loads(done.stdout))
    names = ("torch", "neuronwise", "find_sites", "observe")
    return {
        name: statistics.median(column) for name, column in zip(names, zip(*rounds, strict=True), strict=True)
    }


def find_sites_seconds() -> dict[str, float]:
    """Median time of find_sites on a Llama of 7B parameters on the meta device."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        sites = nw.find_sites(model)
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": parameters,
        "sites": len(sites),
        "neurons": sites.width,
        "seconds": statistics.median(seconds),
        "first_seconds": seconds[0],
    }


if __name__ == "__main__":
    write(
        "import_time",
        {"torch": torch.__version__, "imports": import_seconds(), "find_sites": find_sites_seconds()},
    )
