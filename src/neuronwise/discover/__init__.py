"""The search for a neuron: a formula for the data at hand, with how sure one can be of each of its terms."""

from neuronwise.discover.candidate import Candidate
from neuronwise.discover.confidence import knockoff_filter, stability_selection
from neuronwise.discover.discover import discover
from neuronwise.discover.discovery import Discovery
from neuronwise.discover.genetic import Genetic
from neuronwise.discover.group import Group
from neuronwise.discover.interactions import Interactions
from neuronwise.discover.layerwise import LayerProposal, discover_layer
from neuronwise.discover.low_rank import Gates, LowRank
from neuronwise.discover.method import Method
from neuronwise.discover.methods import METHODS
from neuronwise.discover.problem import SearchProblem, make_problem
from neuronwise.discover.scales import Scales
from neuronwise.discover.shared import Shared

__all__ = [
    "METHODS",
    "Candidate",
    "Discovery",
    "Gates",
    "Genetic",
    "Group",
    "Interactions",
    "LayerProposal",
    "LowRank",
    "Method",
    "Scales",
    "SearchProblem",
    "Shared",
    "discover",
    "discover_layer",
    "knockoff_filter",
    "make_problem",
    "stability_selection",
]
