"""What all benchmarks share: fair timing, the machine's description, and where results go."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Time every variant once per round, so that a slow moment of the machine hits all of them alike.

    Every second round runs in the opposite order. Returns the seconds of every round, by variant.
    """
    for _ in range(warm_up):
        for call in variants.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(repeats):
        order = list(variants.items())
        for name, call in order if number % 2 == 0 else reversed(order):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def overhead(seconds: Mapping[str, list[float]], name: str, plain: str = "plain") -> dict[str, float]:
    """Compare a variant with the plain forward, round by round: median ratio minus one, and its quartiles."""
    ratios = [a / b - 1 for a, b in zip(seconds[name], seconds[plain], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"overhead": middle, "low": low, "high": high, "seconds": statistics.median(seconds[name])}


def machine() -> dict[str, str]:
    """Describe the machine in words that mean something elsewhere."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": datetime.now(tz=UTC).strftime("%Y-%m-%d"),
    }


def write(name: str, figures: Mapping[str, Any]) -> None:
    """Write one benchmark's figures to ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {name}.json")
