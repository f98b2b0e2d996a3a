"""Answers as token ids, in the place where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neuronwise.errors import FactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["answers_in_context", "special_frame", "token_ids"]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = False
) -> list[list[int]]:
    """Return the token ids of each text, however long it is."""
    # A text over the tokenizer's limit is an error of ours, which says more than the warning would.
    found = tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in found["input_ids"]]


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text.

    Raises:
        FactError: If it does something else with a text than framing it.
    """
    (plain,), (whole,) = (token_ids(tokenizer, ["a"], special=special) for special in (False, True))
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise FactError(
        f"{type(tokenizer).__name__} changes a text's tokens when it adds special ones ({plain} becomes {whole}), so "
        "the place of the slot is not known."
    )


def answers_in_context(
    tokenizer: PreTrainedTokenizerBase,
    befores: Sequence[str],
    answers: Sequence[str],
    *,
    several: bool,
    advice: str,
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ids of the texts before the slots and those of the answers that follow them, without special tokens.

    An answer is tokenised where it stands: the space in front of it belongs to its first token, as most tokenizers
    have it.

    Args:
        tokenizer: A transformers tokenizer.
        befores: The text before each slot.
        answers: One a text.
        several: Whether an answer may have several tokens.
        advice: What to do about one that has several; ends the message.

    Raises:
        FactError: If an answer is unknown, has several tokens, or changes the tokens before it.
    """
    pairs = list(zip(befores, answers, strict=True))
    prefixes = token_ids(tokenizer, [before.rstrip() for before in befores])
    joined = token_ids(tokenizer, [before + answer for before, answer in pairs])
    found, unknown = [], tokenizer.unk_token_id
    for (before, answer), prefix, whole in zip(pairs, prefixes, joined, strict=True):
        ids = whole[len(prefix) :]
        if whole[: len(prefix)] != prefix or not ids:
            raise FactError(
                f"The answer {answer!r} cannot be told apart from the text before it, {before!r}: alone that is "
                f"{_tokens(tokenizer, prefix)}, with the answer {_tokens(tokenizer, whole)}."
                + ("" if not before or before[-1].isspace() else " A space before the slot may help.")
            )
        if unknown is not None and unknown in ids:
            raise FactError(
                f"The tokenizer does not know the answer {answer!r}: it becomes {_tokens(tokenizer, ids)}. "
                "Choose a word of its vocabulary."
            )
        if len(ids) > 1 and not several:
            raise FactError(_several(tokenizer, before, answer, ids, advice))
        found.append(ids)
    return prefixes, found


def _several(
    tokenizer: PreTrainedTokenizerBase, before: str, answer: str, ids: list[int], advice: str
) -> str:
    text = f"The answer {answer!r} is {len(ids)} tokens, {_tokens(tokenizer, ids)}, not one."
    for other, where in ((answer, "at the start of a text"), (f" {answer}", "after a space")):
        (alone,) = token_ids(tokenizer, [other])
        if len(alone) == 1:
            here = "after a space" if before[-1:].isspace() else f"after {before[-10:]!r}"
            text += f" It is one token, {_tokens(tokenizer, alone)}, {where}, but here it stands {here}."
            break
    return f"{text} {advice}"


def _tokens(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.convert_ids_to_tokens(ids))
