"""Facts in a model: the neurons that hold them, how they are laid out, and what they do."""

from neuronwise.knowledge.agreement import jaccard, r1_squared
from neuronwise.knowledge.locate import locate
from neuronwise.knowledge.located import KnowledgeNeurons
from neuronwise.knowledge.selection import Refinement, coarse

__all__ = ["KnowledgeNeurons", "Refinement", "coarse", "jaccard", "locate", "r1_squared"]
