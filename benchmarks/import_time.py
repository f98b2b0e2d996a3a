"""What `import neuronwise` adds to `import torch`, and how long find_sites takes on a model of 7B parameters."""

import statistics
import subprocess
import sys
import time

import torch
from harness import write
from transformers import LlamaConfig, LlamaForCausalLM

import neuronwise as nw

REPEATS = 9
IMPORTS = {
    "torch": "import torch",
    "torch_and_neuronwise": "import torch, neuronwise",
    "torch_and_observe": "import torch, neuronwise; neuronwise.find_sites; neuronwise.observe",
}


def import_seconds() -> dict[str, float]:
    """Median time of each import in a fresh process, without the interpreter's own start."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for number in range(REPEATS + 1):
        for name, code in IMPORTS.items():
            timed = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
            done = subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True)
            if number:  # the first round only fills the file cache
                seconds[name].append(float(done.stdout))
    return {name: statistics.median(values) for name, values in seconds.items()}


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
