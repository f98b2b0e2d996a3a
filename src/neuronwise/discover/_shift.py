"""Base functions of a limited domain, moved so that they are defined on the data."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from neuronwise.formula import Base

__all__ = ["shifted"]

_ROOM = 0.1  # of the range of the data, so that values a little beyond it are still inside


def shifted(base: Base, X: NDArray[np.float64]) -> Base:
    """Return ``base`` of ``x + c`` with the smallest round ``c`` for which it is defined on the data with some room.

    Only a domain with a lower end (that of a logarithm or root) can be reached by adding a constant; any other base
    function, and one that is defined on the data already, is returned as it is.
    """
    low, high = (float(end) for end in base.domain)
    smallest, largest = float(X.min()), float(X.max())
    if not math.isfinite(low) or math.isfinite(high) or smallest > low or np.isfinite(base(X)).all():
        return base
    needed = low - smallest + _ROOM * max(largest - smallest, 1e-12)
    digits = 1 - math.floor(math.log10(needed))
    constant = round(math.ceil(needed * 10**digits) / 10**digits, max(digits, 0))
    return Base(re.sub(r"\bx\b", f"(x + {constant!r})", base.text))
