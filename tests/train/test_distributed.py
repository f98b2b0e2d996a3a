"""Two local processes (gloo) merge their statistics exactly, and train as one."""

import socket

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from neuronwise.sites import Site, Sites
from neuronwise.train import Controller, Monosemanticity, NeuronHealth, ReversedDeactivation

SITES = Sites([Site("1", "output", width=8), Site("3", "output", width=7)])
METHODS = {
    "reversed": ReversedDeactivation(top=0.1, per="threshold"),
    "controller": Controller("share", 0.02),
    "watching": None,
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3)).double()


def run(name, rank, processes):
    """Train on this process's half of each batch; return what all processes should have in common."""
    model = network()
    method = METHODS[name]
    mono = Monosemanticity(model, SITES, method, start=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    with mono.attached():
        for _ in range(6):
            x = torch.randn(24, 5, generator=generator, dtype=torch.float64) ** 3 + 2
            mine = x[rank::processes]
            optimizer.zero_grad()
            loss = model(mine).square().mean()
            # A penalty by the batch's own moments sees the process's part of it: here only its strength is compared.
            (loss + 0 * mono.loss()).backward()
            if processes > 1:
                for parameter in model.parameters():
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= processes
            optimizer.step()
            mono.step()
    found = {"strength": torch.tensor(mono.strength or 0.0)}
    found |= {f"model.{key}": value for key, value in model.state_dict().items()}
    return found | {
        f"{site.name}.{key}": value
        for site in SITES
        for key, value in mono.statistics[site.name].state_dict().items()
        if key != "_extra_state" and "histogram" not in key
    }


def healthy(rank, processes):
    """Look at this process's half of each batch; return what is found of the neurons."""
    model = network()
    health = NeuronHealth(model, SITES, every=2, window=3, rows=24)
    generator = torch.Generator().manual_seed(1)
    with health.attached():
        for _ in range(12):
            model(torch.randn(24, 5, generator=generator, dtype=torch.float64)[rank::processes])
            health.step()
    return health.state_dict()


def work(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        found = {name: run(name, rank, 2) for name in METHODS} | {"health": healthy(rank, 2)}
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(work, args=(port, str(folder)), nprocs=2, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one(name, parts):
    with torch.random.fork_rng(devices=[]):
        expected = run(name, 0, 1)
    first, second = (part[name] for part in parts)
    for key, value in expected.items():
        assert torch.equal(first[key], second[key]), key
        if value.is_floating_point():
            scale = max(1.0, value.abs().max().item())
            assert (first[key] - value).abs().max() < 1e-6 * scale, key
        else:
            assert torch.equal(first[key], value), key


def test_the_health_of_neurons_is_judged_by_the_rows_of_both(parts):
    with torch.random.fork_rng(devices=[]):
        expected = healthy(0, 1)
    first, second = (part["health"] for part in parts)
    for key, value in first.items():
        assert torch.equal(value.nan_to_num(), second[key].nan_to_num()), key
    for name in ("mean", "variance"):
        key = f"states.0.{name}"
        assert torch.allclose(first[key], expected[key], atol=1e-5), key
