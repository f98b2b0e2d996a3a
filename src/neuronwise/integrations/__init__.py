"""Integrations: monosemanticity and neuron health in the training loops of other libraries.

:mod:`neuronwise.integrations.huggingface` is for the Trainer of transformers,
:mod:`neuronwise.integrations.lightning` for Lightning; each is imported by its own name, as each needs its library.
"""

__all__: list[str] = []
