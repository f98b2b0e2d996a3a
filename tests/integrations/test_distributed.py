"""Two local processes (gloo) that train through the callbacks do what one does."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.utils.data import DataLoader, DistributedSampler

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("lightning")

from lightning import pytorch as package

from neuronwise.integrations.huggingface import MonosemanticityCallback as TrainerCallback
from neuronwise.integrations.lightning import MonosemanticityCallback as LightningCallback
from tests.integrations import test_huggingface as trainers
from tests.integrations import test_lightning as fits

pytestmark = [*fits.pytestmark, pytest.mark.slow]
HEALTH = {"every": 1, "window": 2, "rows": 8}


def in_a_trainer(folder, method, processes):
    callback = TrainerCallback(None, method, start=1, health=HEALTH)
    settings = {"save_strategy": "steps", "save_steps": 5}
    if processes > 1:
        settings["ddp_backend"] = "gloo"
    trainer = trainers.run(folder, callback, per_device_train_batch_size=8 // processes, **settings)
    trainer.train()
    return trainers.state(trainer.model) | trainers.found(callback)


def in_lightning(folder, method, processes):
    callback = LightningCallback(fits.SITES, method, start=1, health=HEALTH)
    model = fits.module(package)
    data, strategy, sampler = fits.loader().dataset, "auto", None
    if processes > 1:  # Lightning's own sampler would shuffle
        strategy, sampler = "ddp", DistributedSampler(data, shuffle=False)
    trainer = fits.trainer(package, folder, callback, strategy=strategy, devices=processes)
    trainer.fit(model, DataLoader(data, batch_size=8 // processes, sampler=sampler))
    return fits.state(model) | fits.found(callback)


LOOPS = {"transformers": in_a_trainer, "lightning": in_lightning}
METHODS = ("reversed", "tail")


def work(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "TORCHELASTIC_RUN_ID": "test",  # so that Lightning starts no processes of its own
    }
    dist.init_process_group("gloo")
    try:
        found = {
            (name, method): train(f"{folder}/{name}-{method}", method, 2)
            for name, train in LOOPS.items()
            for method in METHODS
        }
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(work, args=(port, str(folder)), nprocs=2, start_method="spawn")
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOOPS)
def test_two_processes_end_with_the_same_weights_and_state(name, method, ranks):
    first, second = (part[name, method] for part in ranks[1])
    assert first.keys() == second.keys()
    assert any(key.startswith("mono.") for key in first) and any(key.startswith("health.") for key in first)
    for key, value in first.items():
        assert torch.equal(value.nan_to_num(), second[key].nan_to_num()), key


@pytest.mark.parametrize("name", LOOPS)
def test_two_processes_equal_one(name, ranks, tmp_path):
    """Not so a penalty by the moments of a batch, of which each process has a part."""
    expected = LOOPS[name](tmp_path, "reversed", 1)
    found = ranks[1][0][name, "reversed"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if not key.startswith("health."):  # whose rows come in another order
            assert torch.allclose(found[key].double(), value.double(), atol=1e-5, equal_nan=True), key


def test_one_of_them_writes_the_state(ranks):
    folder, _ = ranks
    files = sorted(folder.glob("transformers-reversed/*/*.safetensors"))
    assert [f"{file.parent.name}/{file.name}" for file in files if "neuronwise" in file.name] == [
        "checkpoint-10/neuronwise-mono.safetensors",
        "checkpoint-5/neuronwise-mono.safetensors",
    ]
