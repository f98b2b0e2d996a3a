"""Prompts with a slot as a batch for a language model, and where in its output the answers are predicted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.data._facts_answers import answers_in_context
from neuronwise.data._facts_rows import Row, RowMaker
from neuronwise.data._facts_types import SLOT, check_answer, check_prompt
from neuronwise.errors import InvalidArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prompts", "Style", "answer_id", "encode"]

Style = Literal["masked", "causal", "seq2seq"]

# Tokenizers without a limit state a very large number as theirs.
_NO_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Prompts as a model takes them, with the place and the tokens of their answers.

    Args:
        inputs: Keyword inputs of the model, each ``(batch, position)``.
        positions: ``(batch, answer token)``: the position of the output (``logits[:, position]``) at which each token
            of the answer is predicted; -1 where an answer is shorter than the longest.
        answers: ``(batch, answer token)``: the token ids of the answers; -1 where shorter.
        texts: The prompts as they were given.
        masked: Whether the model fills in a mask, rather than writing on.
    """

    inputs: dict[str, Tensor]
    positions: Tensor
    answers: Tensor
    texts: tuple[str, ...]
    masked: bool

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        style = "masked" if self.masked else "written on"
        lengths = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.inputs.items())
        return f"<Prompts: {len(self)} prompts, {style}, {lengths}>"

    def to(self, device: str | torch.device) -> Prompts:
        """Return the prompts on another device."""
        return self._map(lambda tensor: tensor.to(device), self.texts)

    def select(self, rows: Sequence[int] | slice | Tensor) -> Prompts:
        """Return some of the prompts, padded as they are.

        Args:
            rows: Numbers of prompts, in any order and as often as wanted, a slice, or a mask.
        """
        index = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]
        texts = tuple(self.texts[row] for row in index.tolist())
        return self._map(lambda tensor: tensor[index.to(tensor.device)], texts)

    def _map(self, change: Callable[[Tensor], Tensor], texts: tuple[str, ...]) -> Prompts:
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        return Prompts(inputs, change(self.positions), change(self.answers), texts, self.masked)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    model: nn.Module,
    prompts: Sequence[str],
    answers: Sequence[str] | str,
    *,
    multi_token: bool = False,
    max_length: int | None = None,
    style: Style | None = None,
    padding_side: Literal["right", "left"] = "right",
) -> Prompts:
    """Make a batch of prompts with a slot, and say where and as which tokens their answers are predicted.

    What is done depends on the kind of model. A masked one gets its mask token in the slot. A causal one gets the text
    before the slot; after it only punctuation may follow, which is dropped. An encoder-decoder with sentinels (T5)
    gets one in the slot, and the decoder starts with it; any other gets the text before the slot. Special tokens are
    those that the tokenizer adds by itself, but nothing ends a text that is to be written on. An answer is tokenised
    where it stands, so the space before it belongs to it. Of an answer of several tokens all but the last are given
    to the model (teacher forcing): the answer's log probability is the sum over its tokens.

    Padding is on the right and masked; neither causal nor masked models then need position ids.

    Args:
        tokenizer: The model's tokenizer.
        model: The language model; only its class and its configuration are looked at.
        prompts: Texts with one slot, ``[Y]``.
        answers: One a prompt, or one for all.
        multi_token: Allow answers of several tokens; not for masked models, which fill in one token.
        max_length: The most tokens of a prompt; None takes the least limit of tokenizer and model. What comes after
            the slot of a longer one is cut off; if that is not enough it is an error.
        style: ``"masked"``, ``"causal"`` or ``"seq2seq"``; None tells it from the model's class and configuration.
        padding_side: ``"left"``, for causal models, pads in front and adds ``position_ids`` where the model takes
            them.

    Raises:
        FactError: If a prompt has not exactly one slot, or loses it by truncation, or an answer is unknown, has several
            tokens, or cannot be told apart from the text before it.
        InvalidArgumentError: If the numbers of prompts and answers differ, or an option is not one of those above.

    Example:
        >>> from neuronwise.data import load_model
        >>> loaded = load_model("stories260k")
        >>> prompts = encode(loaded.tokenizer, loaded.model, ["There was a girl named [Y]."], "Lily")
        >>> prompts.positions.tolist(), loaded.tokenizer.convert_ids_to_tokens(prompts.answers[0].tolist())
        ([[8]], ['▁Lily'])
    """
    texts, wanted = _arguments(prompts, answers, padding_side)
    kind = _style(tokenizer, model) if style is None else style
    if kind not in ("masked", "causal", "seq2seq"):
        raise InvalidArgumentError(f"style must be 'masked', 'causal' or 'seq2seq', not {style!r}.")
    if padding_side == "left" and kind != "causal":
        raise InvalidArgumentError(
            "padding_side='left' is for causal models; this one is padded on the right."
        )
    if kind == "masked":
        advice = "A masked model fills in one token; choose an answer that is one."
    else:
        advice = "multi_token=True takes it as it is, the sum of its log probabilities counts."
    befores = [text.partition(SLOT)[0] for text in texts]
    several = multi_token and kind != "masked"
    prefixes, ids = answers_in_context(tokenizer, befores, wanted, several=several, advice=advice)
    rows = RowMaker(tokenizer, model, _limit(tokenizer, model, max_length))
    if kind == "masked":
        made = rows.masked(texts)
    elif kind == "causal":
        made = rows.causal(texts, prefixes, ids)
    else:
        made = rows.seq2seq(texts, prefixes, ids)
    inputs = _stack(made, rows.pad, padding_side, model)
    length = inputs["input_ids"].shape[1]
    starts = [
        row.first + (length - len(row.inputs["input_ids"]) if padding_side == "left" else 0) for row in made
    ]
    positions = [list(range(start, start + len(answer))) for start, answer in zip(starts, ids, strict=True)]
    return Prompts(
        inputs,
        _padded(positions, -1),
        _padded(ids, -1),
        tuple(texts),
        kind == "masked",
    )


def answer_id(tokenizer: PreTrainedTokenizerBase, answer: str, *, before: str = "a ") -> int:
    """Return the id of an answer's one token.

    Args:
        tokenizer: The model's tokenizer.
        answer: A word, without the space before it.
        before: The text that it follows; ends with a space where there is to be one.

    Raises:
        FactError: If the answer is not one token, or is unknown.

    Example:
        >>> from neuronwise.data import load_model
        >>> answer_id(load_model("fact-gpt").tokenizer, "Berlin")
        194
    """
    check_answer(answer)
    advice = "Choose an answer that is one token."
    _, ((number,),) = answers_in_context(tokenizer, [before], [answer], several=False, advice=advice)
    return number


def _arguments(
    prompts: Sequence[str], answers: Sequence[str] | str, padding_side: str
) -> tuple[list[str], list[str]]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    wanted = [answers] * len(texts) if isinstance(answers, str) else list(answers)
    if not texts:
        raise InvalidArgumentError("There is no prompt.")
    if len(texts) != len(wanted):
        raise InvalidArgumentError(f"There are {len(texts)} prompts, but {len(wanted)} answers.")
    if padding_side not in ("right", "left"):
        raise InvalidArgumentError(f"padding_side must be 'right' or 'left', not {padding_side!r}.")
    for text, answer in zip(texts, wanted, strict=True):
        check_prompt(text)
        check_answer(answer)
    return texts, wanted


def _style(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Style:
    name, config = type(model).__name__, getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    if name.endswith("ForMaskedLM"):
        return "masked"
    if "CausalLM" in name or "LMHead" in name or getattr(config, "is_decoder", False):
        return "causal"
    return "causal" if tokenizer.mask_token is None else "masked"


def _limit(tokenizer: PreTrainedTokenizerBase, model: nn.Module, max_length: int | None) -> int | None:
    if max_length is not None and max_length < 1:
        raise InvalidArgumentError(f"max_length must be 1 or more, not {max_length}.")
    stated = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    limits = [max_length, getattr(tokenizer, "model_max_length", None), stated]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    return min(known, default=None)


def _stack(
    rows: Sequence[Row], pad: int, side: Literal["right", "left"], model: nn.Module
) -> dict[str, Tensor]:
    inputs = {name: _padded([row.inputs[name] for row in rows], pad, side) for name in rows[0].inputs}
    mask = _padded([[1] * len(row.inputs["input_ids"]) for row in rows], 0, side)
    found = {"input_ids": inputs.pop("input_ids"), "attention_mask": mask, **inputs}
    forward: Any = model.forward
    if side == "left" and "position_ids" in inspect.signature(forward).parameters:
        found["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return found


def _padded(lists: Sequence[list[int]], value: int, side: Literal["right", "left"] = "right") -> Tensor:
    # One tensor of padded lists is several times as quick as padding many small tensors.
    width = max(map(len, lists))
    filled = [[value] * (width - len(ids)) for ids in lists]
    pairs = zip(lists, filled, strict=True)
    return torch.tensor(
        [more + ids if side == "left" else ids + more for ids, more in pairs], dtype=torch.int64
    )
