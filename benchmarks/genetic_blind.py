"""A blind list of targets for the genetic search: data only.

The list was written before its author had seen the search, its catalogue of starting forms or its other task lists, and
has not been changed since. Every target lies outside the base library of 25 functions. The formulas are in the
library's own semantics: a term in the vector `x` stands for the sum of its elements. `low` and `high` bound the uniform
inputs, `d` is their number, `noise` the standard deviation of the added normal noise in units of the target's own.
"""

from typing import NamedTuple


class BlindTask(NamedTuple):
    """One target: its formula, the number of inputs, their range, the relative noise and the rows."""

    name: str
    formula: str
    d: int
    low: float
    high: float
    noise: float
    n: int = 1000


BLIND = (
    # Shared curves: sum_i f(x_i).
    BlindTask("ricker", "x*exp(-0.8*x)", 5, 0.0, 5.0, 0.0),
    BlindTask("growing wave", "x**2*cos(1.5*x)", 4, -3.0, 3.0, 0.05),
    BlindTask("sinc", "sin(2.2*x)/x", 3, 0.5, 8.0, 0.0),
    BlindTask("saturation", "3.2*x/(1.7 + x)", 6, 0.0, 8.0, 0.05),
    BlindTask("logistic", "4/(1 + exp(-2.5*(x - 0.8)))", 4, -3.0, 3.0, 0.1),
    BlindTask("damped wave", "exp(-0.6*x)*sin(3.4*x)", 4, 0.0, 5.0, 0.05),
    BlindTask("entropy", "-x*log(x)", 8, 0.2, 5.0, 0.0),
    BlindTask("chirp", "sin(x**2 + 0.9*x)", 5, -2.0, 2.0, 0.1),
    # Functions of sums.
    BlindTask("log of a radius", "log(1.5 + sum(x**2))", 5, -3.0, 3.0, 0.05),
    BlindTask("product of sums", "sum(x**2)*cos(sum(x))", 3, -2.0, 2.0, 0.0),
    # Several terms.
    BlindTask("wave, bump and cube", "sin(4.2*x) - 2.5*x*exp(-x**2) + 0.3*x**3", 3, -2.0, 2.0, 0.05),
    BlindTask("log, wave and power", "1.4*log(x + 0.6) + cos(1.7*x) + 0.9*x**1.5", 6, 0.1, 5.0, 0.0),
)
