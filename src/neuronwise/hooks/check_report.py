"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from neuronwise.errors import HookError

__all__ = ["CheckReport", "CheckRow"]


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One check.

    Args:
        name: What was checked.
        passed: Whether it held; true also for a check that was skipped, which the detail then says.
        detail: What was measured, or went wrong.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The checks of one model with one batch.

    Args:
        rows: One row per check, in the order in which they were made.
    """

    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(row.passed for row in self.rows)

    def raise_if_failed(self) -> None:
        """Turn failed checks into an error.

        Raises:
            HookError: If a check failed; the message has the details of each.
        """
        failed = [row for row in self.rows if not row.passed]
        if failed:
            listed = "\n".join(f"- {row.name}: {row.detail}" for row in failed)
            raise HookError(f"{len(failed)} of {len(self.rows)} checks failed:\n{listed}")

    def to_frame(self) -> pd.DataFrame:
        """Return one row per check: name, passed, detail."""
        return pd.DataFrame(
            {
                "name": [row.name for row in self.rows],
                "passed": [row.passed for row in self.rows],
                "detail": [row.detail for row in self.rows],
            }
        )

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        return "\n".join(
            f"{'ok  ' if row.passed else 'FAIL'}  {row.name.ljust(width)}  {row.detail}" for row in self.rows
        )

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False)
