"""How many threads each worker gets."""

from __future__ import annotations

import os

__all__ = ["threads_each"]


def threads_each(workers: int) -> int:
    """Return this machine's cores divided by the workers, at least 1."""
    return max(1, (os.cpu_count() or 1) // workers)
