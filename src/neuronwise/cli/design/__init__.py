"""``neuronwise design``: find the neuron that suits a table, build a network of it, see whether it is worth it."""

from neuronwise.cli.design.compare import EXAMPLES as COMPARE_EXAMPLES
from neuronwise.cli.design.compare import compare
from neuronwise.cli.design.discover import EXAMPLES as DISCOVER_EXAMPLES
from neuronwise.cli.design.discover import discover
from neuronwise.cli.design.fit import FIT_EXAMPLES, PREDICT_EXAMPLES, fit, predict

__all__ = ["COMMANDS"]

#: Name, function and examples of every command.
COMMANDS = (
    ("discover", discover, DISCOVER_EXAMPLES),
    ("fit", fit, FIT_EXAMPLES),
    ("predict", predict, PREDICT_EXAMPLES),
    ("compare", compare, COMPARE_EXAMPLES),
)
