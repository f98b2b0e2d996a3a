"""Tiny language models of four families with a tokenizer of whole words, and what must not change about a model."""

import pytest
import torch

from neuronwise.data import Fact, hash_model
from tests.sites import families

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<extra_id_0>"]
TEXT = """
the capital of France Spain Italy is Paris Madrid Rome Berlin New York a city people in speak French Spanish work
big old river town .
"""
WORDS = TEXT.split()

LANGUAGE_MODELS = ("bert", "gpt2", "llama")

FACT = Fact(
    ("the capital of France is [Y]", "in France the capital is [Y]"),
    "Paris",
    subject="France",
    relation="capital",
    id="france",
    held_out=("the big capital of France is [Y]",),
    new_answer="Rome",
)


def tokenizer(family):
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: n for n, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if family == "bert":
        backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    if family == "t5":
        del names["mask_token"]
    else:
        names["bos_token"] = "[CLS]"
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=24, **names)
    made.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    return made


def language_model(family):
    """The tiny model of a family, with some flags set so that it shows if they are not put back."""
    model = families.build(family)
    if family == "t5":
        model.config.decoder_start_token_id = 0
    model.train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    return model, tokenizer(family)


def trace(model):
    """Everything that an edit must leave as it was."""
    return (
        hash_model(model),
        [
            (name, parameter.requires_grad, parameter.grad is None)
            for name, parameter in model.named_parameters()
        ],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [sorted(module.__dict__) for module in model.modules()],
        torch.get_rng_state().tolist(),
    )
