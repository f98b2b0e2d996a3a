"""What a model is shown and how it is loaded: corpora, batches, models by name or folder."""

from neuronwise.data.corpus import Batch, Corpus, Example, batches
from neuronwise.data.factory import corpus
from neuronwise.data.models import LoadedModel, load_model
from neuronwise.data.samples import bundled
from neuronwise.data.tokens import token_strings
from neuronwise.data.weights import hash_model, load_weights, model_card

__all__ = [
    "Batch",
    "Corpus",
    "Example",
    "LoadedModel",
    "batches",
    "bundled",
    "corpus",
    "hash_model",
    "load_model",
    "load_weights",
    "model_card",
    "token_strings",
]
