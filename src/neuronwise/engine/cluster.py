"""Blocks on Ray actors, each of which holds the job (and with it the model)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from neuronwise.engine._threads import threads_each
from neuronwise.engine.job import Block, Job
from neuronwise.errors import require

__all__ = ["run_blocks"]

S = TypeVar("S")


class _Worker:
    """The actor's class."""

    def __init__(self, job: Job[Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self._job = job

    def run(self, block: Block) -> Any:
        state = self._job.start()
        self._job.run(state, block)
        return state


def run_blocks(
    job: Job[S], blocks: Iterator[Block], workers: int | None, threads: int | None
) -> Iterator[tuple[Block, S]]:
    """Yield each block with its state, in order. Ray is started on this machine if it is not running, and stopped."""
    ray = require("ray", "ray", 'engine="ray"')
    require("ray.util", "ray", 'engine="ray"')
    started = not ray.is_initialized()
    if started:
        cores = workers or os.cpu_count() or 1
        ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        each = threads or threads_each(count)
        shared = ray.put(job)
        actor = ray.remote(_Worker)
        pool = ray.util.ActorPool([actor.options(num_cpus=1).remote(shared, each) for _ in range(count)])
        listed = list(blocks)
        yield from zip(listed, pool.map(lambda worker, block: worker.run.remote(block), listed), strict=True)
    finally:
        if started:
            ray.shutdown()
