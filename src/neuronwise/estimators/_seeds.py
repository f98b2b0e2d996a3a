"""One whole number from what scikit-learn calls a random state."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from neuronwise.errors import InvalidArgumentError

__all__ = ["seed_of"]


def seed_of(random_state: Any) -> int:
    """Return a seed; the global random state is neither read nor changed.

    Args:
        random_state: A whole number; a ``numpy.random.RandomState`` or ``Generator``, which moves on by one draw;
            or None for another seed every time.

    Raises:
        InvalidArgumentError: If it is anything else.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral) and int(random_state) >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    raise InvalidArgumentError(
        f"random_state must be a whole number from 0, a RandomState, a Generator or None, not {random_state!r}."
    )
