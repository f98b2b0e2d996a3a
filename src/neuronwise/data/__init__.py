"""What a model is shown and how it is loaded: corpora, batches, models by name or folder."""

from neuronwise.data.corpus import Batch, Corpus, Example, batches

__all__ = ["Batch", "Corpus", "Example", "batches"]
