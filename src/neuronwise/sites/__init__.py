"""Where the neurons of a model are."""

from neuronwise.sites.collection import Sites
from neuronwise.sites.find import find_sites, require_module
from neuronwise.sites.neurons import NeuronSet
from neuronwise.sites.site import Site, WeightSlice
from neuronwise.sites.tokens import token_strings
from neuronwise.sites.unembedding import promoted_tokens, unembedding, unembedding_layer

__all__ = [
    "NeuronSet",
    "Site",
    "Sites",
    "WeightSlice",
    "find_sites",
    "promoted_tokens",
    "require_module",
    "token_strings",
    "unembedding",
    "unembedding_layer",
]
