"""Display strings of tokens read as the text, whatever the tokenizer."""

import torch

from neuronwise.data import token_strings
from neuronwise.data.tokens import tokenizer_hash


def test_sentencepiece_shows_spaces_line_ends_and_special_tokens(tokenizer):
    ids = tokenizer("Once upon\nthe cats")["input_ids"]
    shown = token_strings(tokenizer, ids)
    assert shown[:4] == ("<s>", " Once", " upon", "\n")
    assert "".join(shown[1:]) == " Once upon\nthe cats"


def test_wordpiece_shows_word_starts_with_a_space(wordpiece):
    ids = wordpiece("the cats , sleeping")["input_ids"]
    assert token_strings(wordpiece, ids) == ("[CLS]", " the", " cat", "s", ",", " sleep", "ing", "[SEP]")


def test_byte_level_shows_spaces_and_parts_of_characters(bytelevel):
    ids = bytelevel("hi hi\né")["input_ids"]
    assert token_strings(bytelevel, ids) == ("hi", " hi", "\n", "\ufffd", "\ufffd")


def test_ids_can_be_a_tensor_or_unknown(tokenizer):
    assert token_strings(tokenizer, torch.tensor([403, 403])) == (" Once", " Once")
    assert token_strings(tokenizer, []) == ()
    assert token_strings(tokenizer, [100_000]) == ("<100000>",)


def test_the_hash_is_of_the_rules_not_of_the_last_call(tokenizer, wordpiece):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a long text that is cut", "a"], truncation=True, max_length=3, padding=False)
    assert tokenizer_hash(tokenizer) == before != tokenizer_hash(wordpiece)
