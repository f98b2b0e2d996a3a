"""The search for a neuron: a formula for the data at hand, with how sure one can be of each of its terms."""

from neuronwise.discover.candidate import Candidate
from neuronwise.discover.method import Method
from neuronwise.discover.problem import SearchProblem, make_problem

__all__ = ["Candidate", "Method", "SearchProblem", "make_problem"]
