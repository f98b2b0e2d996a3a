"""Run a job over blocks, in this process, in local processes or on Ray, and merge in block order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from neuronwise.engine._threads import threads_each
from neuronwise.engine.checkpoint import Checkpoint
from neuronwise.engine.job import Block, Job
from neuronwise.errors import InvalidArgumentError

__all__ = ["ENGINES", "blocks_of", "check_engine", "map_reduce"]

S = TypeVar("S")


def map_reduce(
    job: Job[S],
    blocks: Iterable[Block],
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    on_block: Callable[[Block], None] | None = None,
) -> S:
    """Fold a job over blocks and return the state.

    Every engine takes the blocks in the same order and merges in that order, so the result depends on the engine only
    through the rounding of a merge.

    Args:
        job: What is to be done.
        blocks: The blocks, in order; may be an endless iterator, which the job ends with an empty block
            (``"local"`` only).
        engine: ``"local"`` (this process), ``"processes"`` (local worker processes, each with a copy of the job) or
            ``"ray"`` (actors on a Ray cluster, or on this machine if none is running).
        workers: Number of workers; default: the cores of this machine, or of the Ray cluster.
        threads: Torch threads of each worker; default: this machine's cores divided by the workers.
        checkpoint: A file to write the state to now and then, and to go on from if it is there. Removed at the end.
        checkpoint_every: Seconds between two writes.
        on_block: Called after each block, for a progress display.

    Returns:
        The job's state after all blocks.

    Raises:
        InvalidArgumentError: If the engine is unknown or ``workers`` is less than 1.
        ResultError: If the checkpoint belongs to another pass.
        MissingExtraError: If the engine's package is not installed.
    """
    check_engine(engine, workers)
    saved = None if checkpoint is None else Checkpoint(checkpoint, job.fingerprint(), every=checkpoint_every)
    done, state = 0, job.start()
    if saved is not None and (found := saved.read()) is not None:
        done, state = found[0], job.restore(found[1])
    for block in ENGINES[engine](job, state, islice(blocks, done, None), workers, threads):
        done += 1
        if on_block is not None:
            on_block(block)
        if saved is not None and saved.due():
            saved.write(done, job.dump(state))
    if saved is not None:
        saved.remove()
    return state


def check_engine(engine: str, workers: int | None) -> None:
    """Refuse an engine that there is not, for callers with work to do before the engine's.

    Raises:
        InvalidArgumentError: If the engine is unknown or ``workers`` is less than 1.
    """
    if engine not in ENGINES:
        raise InvalidArgumentError(f"Unknown engine {engine!r}. There are: {', '.join(ENGINES)}.")
    if workers is not None and workers < 1:
        raise InvalidArgumentError(f"workers must be at least 1, not {workers}.")


def blocks_of(total: int | None, size: int | None = None) -> Iterator[Block]:
    """Cut ``total`` examples into blocks; without an end where the total is not known.

    Args:
        total: Number of examples, or None.
        size: Examples a block; default: about sixteen blocks, of 32 to 4,096 examples. It never depends on the number
            of workers, so that the result does not either.
    """
    if size is not None and size < 1:
        raise InvalidArgumentError(f"A block needs at least 1 example, not {size}.")
    return _cut(total, size)


def _cut(total: int | None, size: int | None) -> Iterator[Block]:
    if size is None:
        size = 512 if total is None else min(4096, max(32, -(-total // 16)))
    number, start = 0, 0
    while total is None or start < total:
        stop = start + size if total is None else min(total, start + size)
        yield number, start, stop
        number, start = number + 1, stop


def _local(
    job: Job[S], state: S, blocks: Iterator[Block], workers: int | None, threads: int | None
) -> Iterator[Block]:
    for block in blocks:
        if not job.run(state, block):
            return
        yield block


def _processes(
    job: Job[S], state: S, blocks: Iterator[Block], workers: int | None, threads: int | None
) -> Iterator[Block]:
    from neuronwise.engine.processes import run_blocks

    count = workers or os.cpu_count() or 1
    yield from _merged(job, state, run_blocks(job, blocks, count, threads or threads_each(count)))


def _ray(
    job: Job[S], state: S, blocks: Iterator[Block], workers: int | None, threads: int | None
) -> Iterator[Block]:
    from neuronwise.engine.cluster import run_blocks

    yield from _merged(job, state, run_blocks(job, blocks, workers, threads))


def _merged(job: Job[S], state: S, results: Iterator[tuple[Block, S]]) -> Iterator[Block]:
    for block, part in results:
        job.merge(state, part)
        yield block


#: The engines by name. A new one is a function here and, if it needs a package, a file of its own.
ENGINES: dict[str, Callable[..., Iterator[Block]]] = {"local": _local, "processes": _processes, "ray": _ray}
