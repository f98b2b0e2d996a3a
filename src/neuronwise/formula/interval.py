"""Intervals of the real line: where a function is defined, and which values it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from neuronwise.errors import InvalidArgumentError

__all__ = ["REALS", "Interval"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of numbers; each end may be in or out.

    Args:
        low: The lower end.
        high: The upper end.
        low_in: Whether the lower end belongs to it.
        high_in: Whether the upper end belongs to it.

    Example:
        >>> Interval.parse("[0, inf)")
        Interval(low=0.0, high=inf, low_in=True, high_in=False)
        >>> 0 in Interval.parse("(0, inf)")
        False
        >>> low, high = Interval.parse("[-1, 1]")
    """

    low: float = -math.inf
    high: float = math.inf
    low_in: bool = False
    high_in: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InvalidArgumentError(f"An interval goes up: from {self.low} to {self.high} is none.")

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read ``"(0, inf)"`` or ``"[-1, 1]"``: a square bracket says that the end is in.

        Raises:
            InvalidArgumentError: If the text is no interval.
        """
        inner = text.strip()
        ends = inner[1:-1].split(",")
        try:
            if inner[0] not in "([" or inner[-1] not in ")]" or len(ends) != 2:
                raise ValueError
            return cls(float(ends[0]), float(ends[1]), inner[0] == "[", inner[-1] == "]")
        except (ValueError, IndexError):
            raise InvalidArgumentError(
                f"{text!r} is no interval: write '(0, inf)', '[-1, 1]' or '[0, 1)'."
            ) from None

    def __contains__(self, value: float) -> bool:
        return (self.low < value or (self.low_in and value == self.low)) and (
            value < self.high or (self.high_in and value == self.high)
        )

    def __iter__(self) -> Iterator[float]:
        return iter((self.low, self.high))

    def __str__(self) -> str:
        left, right = "[" if self.low_in else "(", "]" if self.high_in else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"

    @property
    def finite(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


#: Every number.
REALS = Interval()
