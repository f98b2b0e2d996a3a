"""Kinds that every test of the room goes through: the named ones, and formulas of every shape."""

from neuronwise.nn import KINDS

SUMS = ("sin(x)", "2*x**2 - 3*x + 1", "x + x**2 + x**4 + sin(2*x) + abs(x)", "x + sqrt(abs(x)) + 1/x")
PRODUCTS = ("<w1, x>*<w2, x>*<w3, x> + <w4, x**2> + <w5, sin(x)>", "<w1, x>**3 + <w2, x>*<w1, x>")
EXPRESSIONS = (
    "sin(<w1, x> + b1) + <w2, x>",
    "<w1, x>/(1 + <w2, x>**2)",
    "(<w1, x> + b1)*<w2, x> + <w1, x>",
    "c1*<w1, x>**2 + <w2, x>",
)
INPUTS = (
    "<w1, x> + <w1, sin(x)>",
    "c1*max(x) + <w2, sin(w1*x)> + c2*x[1]",
    "x[0]*x[1] - norm(x) + mean(x**2)",
)

WINDOWED = (*KINDS, *SUMS, *PRODUCTS, *EXPRESSIONS)
EVERY = (*WINDOWED, *INPUTS)
