"""Blocks on local worker processes, through loky, which also carries models defined in a notebook or a script."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from neuronwise.engine.job import Block, Job
from neuronwise.errors import require

__all__ = ["run_blocks"]

S = TypeVar("S")

# The job of a worker process, set once when the process starts; the parent process never sets it.
_worker_job: Job[Any] | None = None


def run_blocks(job: Job[S], blocks: Iterator[Block], workers: int, threads: int) -> Iterator[tuple[Block, S]]:
    """Yield each block with its state, in order."""
    loky = require("loky", "processes", 'engine="processes"')
    executor = loky.ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(job, threads))
    try:
        listed = list(blocks)
        yield from zip(listed, executor.map(_run, listed), strict=True)
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def _start_worker(job: Job[Any], threads: int) -> None:
    global _worker_job
    # Ctrl-C reaches the workers too; the parent process hears it and ends them, so they need not say anything.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _worker_job = job


def _run(block: Block) -> Any:
    assert _worker_job is not None
    state = _worker_job.start()
    _worker_job.run(state, block)
    return state
