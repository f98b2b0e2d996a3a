"""Facts in a model: the neurons that hold them, how they are laid out, and what they do."""

from neuronwise.knowledge.agreement import jaccard, r1_squared
from neuronwise.knowledge.editors import EDITORS, editors
from neuronwise.knowledge.effect import Effect, amplify, measure_effect, suppress
from neuronwise.knowledge.locate import locate
from neuronwise.knowledge.located import KnowledgeNeurons
from neuronwise.knowledge.map import KnowledgeMap, knowledge_map
from neuronwise.knowledge.noise import noise_level, smoothed
from neuronwise.knowledge.redundancy import Redundancy, redundancy
from neuronwise.knowledge.selection import Refinement, coarse

__all__ = [
    "EDITORS",
    "Effect",
    "KnowledgeMap",
    "KnowledgeNeurons",
    "Redundancy",
    "Refinement",
    "amplify",
    "coarse",
    "editors",
    "jaccard",
    "knowledge_map",
    "locate",
    "measure_effect",
    "noise_level",
    "r1_squared",
    "redundancy",
    "smoothed",
    "suppress",
]
