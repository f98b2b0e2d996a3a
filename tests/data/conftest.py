"""Tokenizers and texts of the data tests."""

import pytest

from neuronwise.data import load_model


@pytest.fixture(scope="session")
def small():
    """The bundled language model with its tokenizer."""
    pytest.importorskip("transformers")
    return load_model("stories260k")


@pytest.fixture(scope="session")
def tokenizer(small):
    return small.tokenizer


@pytest.fixture(scope="session")
def wordpiece():
    """A WordPiece tokenizer in the manner of BERT, of a handful of words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "cat", "##s", "sleep", ",", "##ing"]
    backend = Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **names)


@pytest.fixture(scope="session")
def bytelevel():
    """A byte-level tokenizer in the manner of GPT-2, without merges beyond two words."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: n for n, piece in enumerate([*letters, "hi", "Ġhi"])}
    merges = [("h", "i"), ("Ġ", "hi")]
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
