"""Where the neurons of a model are."""

from neuronwise.sites.collection import Sites
from neuronwise.sites.find import find_sites
from neuronwise.sites.neurons import NeuronSet
from neuronwise.sites.site import Site, WeightSlice
from neuronwise.sites.unembedding import promoted_tokens, unembedding

__all__ = [
    "NeuronSet",
    "Site",
    "Sites",
    "WeightSlice",
    "find_sites",
    "promoted_tokens",
    "unembedding",
]
