"""What layers of other neurons cost beside torch's own at the same operations: time and memory of a training step.

A neuron with K base functions is compared with one `nn.Linear` of K times the inputs, products with one of as many
times the outputs, convolutions alike. Of interleaved rounds the fastest of each is taken: what else runs on the machine
can only slow them. Memory is the most that a forward and backward pass holds above what was there before, tensors and
gradients, by torch's own account of allocations.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import interleaved, write
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from neuronwise.nn import NeuronConv2d, NeuronLinear

WIDTH, BATCH = 512, 1024
CHANNELS, SIDE, IMAGES = 64, 16, 32

# The kind, how many times the inputs and the outputs the layer of torch has, and the most that it may cost.
LINEAR = {
    "x + x**2": (2, 1, 1.2),
    "x + sin(x)": (2, 1, 1.2),
    "x + sin(x) + exp(x)": (3, 1, 1.2),
    "x + x**3 + tanh(x) + abs(x)": (4, 1, 1.2),
    "product": (1, 2, 1.1),
    "quadratic": (1, 3, 1.1),
    "quadratic_residual": (1, 2, 1.1),
    "quadratic_linear": (1, 3, 1.1),
    "polynomial": (3, 1, 1.1),
}
CONVOLUTIONS = {
    "x + sin(x)": (2, 1, 1.15),
    "product": (1, 2, 1.15),
    "quadratic": (1, 3, 1.15),
    "polynomial": (3, 1, 1.15),
}


@dataclass
class Step:
    """A forward and a backward pass of a layer."""

    layer: nn.Module
    x: Tensor
    grad: Tensor

    def __call__(self) -> None:
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        self.layer(self.x).backward(self.grad)


def linear_steps(kind: str, inputs: int, outputs: int) -> dict[str, Step]:
    torch.manual_seed(0)
    ours = Step(
        NeuronLinear(WIDTH, WIDTH, kind=kind),
        torch.randn(BATCH, WIDTH, requires_grad=True),
        torch.randn(BATCH, WIDTH),
    )
    theirs = Step(
        nn.Linear(inputs * WIDTH, outputs * WIDTH),
        torch.randn(BATCH, inputs * WIDTH, requires_grad=True),
        torch.randn(BATCH, outputs * WIDTH),
    )
    return {"neurons": ours, "plain": theirs}


def convolution_steps(kind: str, inputs: int, outputs: int) -> dict[str, Step]:
    torch.manual_seed(0)

    def images(times: int) -> Tensor:
        return torch.randn(IMAGES, times * CHANNELS, SIDE, SIDE)

    ours = NeuronConv2d(CHANNELS, CHANNELS, 3, padding=1, kind=kind)
    theirs = nn.Conv2d(inputs * CHANNELS, outputs * CHANNELS, 3, padding=1)
    return {
        "neurons": Step(ours, images(1).requires_grad_(), images(1)),
        "plain": Step(theirs, images(inputs).requires_grad_(), images(outputs)),
    }


def peak(step: Step) -> int:
    """Return the most bytes that a step holds at once, its inputs and weights included."""
    step()
    step.layer.zero_grad(set_to_none=True)
    step.x.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    before = [step.x, step.grad, *step.layer.parameters(), *step.layer.buffers()]
    return most + sum(tensor.numel() * tensor.element_size() for tensor in before)


def measured(
    make: Callable[[str, int, int], dict[str, Step]], kinds: dict[str, tuple[int, int, float]], repeats: int
):
    figures = {}
    for kind, (inputs, outputs, target) in kinds.items():
        steps = make(kind, inputs, outputs)
        seconds = interleaved(steps, repeats=repeats, warm_up=3)
        best = {name: min(times) for name, times in seconds.items()}
        memory = {name: peak(step) for name, step in steps.items()}
        figures[kind] = {
            "seconds": best["neurons"],
            "plain_seconds": best["plain"],
            "ratio": best["neurons"] / best["plain"],
            "memory_ratio": memory["neurons"] / memory["plain"],
            "memory": memory["neurons"],
            "plain_memory": memory["plain"],
            "target": target,
        }
        row = figures[kind]
        print(
            f"  {kind:30s} time {row['ratio']:.3f}  memory {row['memory_ratio']:.3f}  target {target}",
            flush=True,
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40, help="interleaved rounds")
    repeats = parser.parse_args().repeats
    threads = {}
    for number in (1, 2):
        torch.set_num_threads(number)
        print(f"{number} threads")
        threads[str(number)] = {
            "linear": measured(linear_steps, LINEAR, repeats),
            "convolution": measured(convolution_steps, CONVOLUTIONS, repeats),
        }
    write(
        "neuron_layers",
        {
            "torch": torch.__version__,
            "width": WIDTH,
            "batch": BATCH,
            "channels": CHANNELS,
            "side": SIDE,
            "images": IMAGES,
            "repeats": repeats,
            "threads": threads,
        },
    )


if __name__ == "__main__":
    main()
