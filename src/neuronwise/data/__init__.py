"""What a model is shown and how it is loaded: corpora, batches, facts, prompts, models by name or folder."""

from neuronwise.data.corpus import Batch, Corpus, Example, batches
from neuronwise.data.factory import corpus
from neuronwise.data.facts import (
    PROBE_KINDS,
    SLOT,
    Fact,
    Facts,
    Probe,
    Relation,
    facts,
    read_counterfact,
    read_fact_model,
    read_facts,
    read_pararel,
    read_relations,
    write_facts,
)
from neuronwise.data.models import LoadedModel, load_model
from neuronwise.data.prompts import Prompts, Style, answer_id, encode
from neuronwise.data.samples import bundled
from neuronwise.data.table import BUNDLED_TABLES, TableData, inputs_like, read_table, split_target
from neuronwise.data.tokens import token_strings
from neuronwise.data.weights import hash_model, load_weights, model_card

__all__ = [
    "BUNDLED_TABLES",
    "PROBE_KINDS",
    "SLOT",
    "Batch",
    "Corpus",
    "Example",
    "Fact",
    "Facts",
    "LoadedModel",
    "Probe",
    "Prompts",
    "Relation",
    "Style",
    "TableData",
    "answer_id",
    "batches",
    "bundled",
    "corpus",
    "encode",
    "facts",
    "hash_model",
    "inputs_like",
    "load_model",
    "load_weights",
    "model_card",
    "read_counterfact",
    "read_fact_model",
    "read_facts",
    "read_pararel",
    "read_relations",
    "read_table",
    "split_target",
    "token_strings",
    "write_facts",
]
