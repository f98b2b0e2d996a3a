"""How tokens are shown to a reader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["token_strings"]


def token_strings(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int] | torch.Tensor) -> tuple[str, ...]:
    """Return one string a token, such that the strings one after the other read as the text.

    Each token is decoded behind a letter, which is then taken off: every kind of tokenizer (SentencePiece,
    byte-level, WordPiece) then shows the space in front of a word by its own rules, which it hides at the start of
    a text. Special tokens are shown by name; part of a character of several bytes is shown as U+FFFD.

    Args:
        tokenizer: A transformers tokenizer.
        ids: Token ids.

    Example:
        >>> from neuronwise.data import load_model
        >>> tokenizer = load_model("stories260k").tokenizer
        >>> token_strings(tokenizer, tokenizer("Once upon a time").input_ids)
        ('<s>', ' Once', ' upon', ' a', ' time')
    """
    numbers = [int(i) for i in ids]
    distinct = list(dict.fromkeys(numbers))
    special = set(tokenizer.all_special_ids)
    letter = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    start = _decode(tokenizer, letter)
    shown: dict[int, str] = {}
    for number in distinct:
        text = _decode(tokenizer, [*letter, number])
        if number in special or not 0 <= number < len(tokenizer):
            shown[number] = str(tokenizer.convert_ids_to_tokens(number) or f"<{number}>")
        elif start and text.startswith(start):
            shown[number] = text.removeprefix(start)
        else:
            shown[number] = _decode(tokenizer, [number])
    return tuple(shown[number] for number in numbers)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
