"""What all reproductions share: where the data lies, work on all cores that can be resumed, and where results go."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

RESULTS = Path(__file__).parent / "results"


def arguments(description: str, *, data: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    if data:
        parser.add_argument(
            "--data",
            type=Path,
            default=os.environ.get("NEURONWISE_DATA"),
            help="Folder of the data sets (default: the variable NEURONWISE_DATA); see reproduction/README.md.",
        )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="Processes.")
    parser.add_argument("--only", nargs="*", help="Only these cases, by name.")
    return parser


def folder_of(arguments: argparse.Namespace) -> Path:
    if arguments.data is None:
        raise SystemExit(
            "Say where the data lies: --data FOLDER, or NEURONWISE_DATA; see reproduction/README.md."
        )
    return Path(arguments.data)


def read_results(name: str) -> dict[str, Any]:
    """Return the rows of ``results/<name>.jsonl`` by key; none where it does not exist."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def work_through(
    name: str, cases: Iterable[tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]]], jobs: int
) -> dict[str, Any]:
    """Run cases ``(key, function, arguments)`` in processes; those already in ``results/<name>.jsonl`` are kept."""
    RESULTS.mkdir(exist_ok=True)
    done = read_results(name)
    todo = [case for case in cases if case[0] not in done]
    found = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_one)(key, function, values) for key, function, values in todo
    )
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        for row in found:
            done[row["key"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row["key"], f"{row['seconds']:.0f} s", flush=True)
    return done


def _one(key: str, function: Callable[..., dict[str, Any]], values: tuple[Any, ...]) -> dict[str, Any]:
    import time

    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    found = function(*values)
    return {"key": key, **found, "seconds": time.perf_counter() - start}


def machine() -> dict[str, str]:
    return {
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
    }
