"""Where an edit reads and writes: prompts behind prefixes, and the last token of the subject in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from neuronwise.data import SLOT
from neuronwise.edit._logits import logits_of
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import call_model, untouched
from neuronwise.sites import Site

if TYPE_CHECKING:
    from neuronwise.data import Prompts

__all__ = [
    "behind_prefixes",
    "edit_positions",
    "is_causal",
    "last_subject_token",
    "position_limit",
    "resolve_prefixes",
]

_TOP = 5  # ROME samples its prefixes from the five most likely next tokens


def is_causal(model: nn.Module) -> bool:
    """Return whether a model continues a text: neither a masked language model nor an encoder-decoder."""
    config: Any = getattr(model, "config", None)
    return not getattr(config, "is_encoder_decoder", False) and "Masked" not in type(model).__name__


def behind_prefixes(prompts: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """Return the prompts as they are, then each behind every prefix."""
    return [*prompts, *(f"{prefix}. {prompt}" for prefix in prefixes for prompt in prompts)]


def resolve_prefixes(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    prefixes: int | Sequence[str],
    *,
    tokens: int,
    seed: int,
) -> list[str]:
    """Return the prefixes to use: those given, or sampled from the model itself.

    Only a causal model can sample; for others a number gives none. Sampled prefixes are kept so short that prefix and
    prompt fit into the model; where fewer than two tokens fit, there are none.
    """
    if not isinstance(prefixes, int):
        if isinstance(prefixes, str):
            raise InvalidArgumentError(
                f"prefixes must be a number or a list of texts, such as [{prefixes!r}]."
            )
        return list(prefixes)
    if prefixes < 0:
        raise InvalidArgumentError(f"prefixes must be 0 or more, not {prefixes}.")
    if not prefixes or not is_causal(model):
        return []
    longest = max(len(tokenizer(prompt.replace(SLOT, ""))["input_ids"]) for prompt in prompts)
    # A full stop joins them, and the answer needs room too.
    room = min(tokens, position_limit(model, tokenizer) - longest - 4)
    return _sample(model, tokenizer, prefixes, room, seed) if room >= 2 else []


def position_limit(model: nn.Module, tokenizer: Any) -> int:
    """Return the most tokens that model and tokenizer take."""
    config: Any = getattr(model, "config", None)
    names = ("max_position_embeddings", "n_positions")
    limits = [getattr(config, name, None) for name in names] + [getattr(tokenizer, "model_max_length", None)]
    return min([int(limit) for limit in limits if isinstance(limit, int | float)], default=1 << 20)


@torch.no_grad()
def _sample(model: nn.Module, tokenizer: Any, count: int, tokens: int, seed: int) -> list[str]:
    """Sample texts from the model; empty ones are dropped."""
    generator = torch.Generator().manual_seed(seed)
    start = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)
    device = next(model.parameters()).device
    ids = torch.full((count, 1), start, device=device)
    forbidden = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.int64, device=device)
    with untouched(model):
        for _ in range(tokens):
            logits = logits_of(call_model(model, {"input_ids": ids}))[:, -1].float()
            logits[:, forbidden] = -torch.inf
            best = logits.topk(min(_TOP, logits.shape[-1]))
            drawn = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator).to(device)
            ids = torch.cat([ids, best.indices.gather(1, drawn)], 1)
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids[:, 1:]]
    return [text.replace(SLOT, "") for text in texts if text]


def edit_positions(
    tokenizer: Any, prompts: Prompts, texts: Sequence[str], subject: str, site: Site
) -> Tensor:
    """Return the position in the site's tensor where each prompt is edited, int64 ``(row,)``.

    The last token of the subject; where the subject is empty or not in the prompt, or the site is in a decoder that
    does not see it, the position from which the answer is predicted (the mask, or the last token of the prompt).
    """
    fallback = prompts.positions[:, 0]
    decoder = "decoder_input_ids" in prompts.inputs
    if decoder and "encoder" not in site.path.split("."):
        return fallback
    ids = prompts.inputs["input_ids"]
    if decoder:
        mask = prompts.inputs.get("attention_mask")
        fallback = torch.full_like(fallback, ids.shape[1] - 1) if mask is None else mask.sum(1) - 1
    found = [
        last_subject_token(tokenizer, text, subject, row.tolist())
        for text, row in zip(texts, ids, strict=True)
    ]
    return torch.tensor([int(other) if at is None else at for at, other in zip(found, fallback, strict=True)])


def last_subject_token(tokenizer: Any, prompt: str, subject: str, row: Sequence[int]) -> int | None:
    """Return where the subject's last token is among the token ids of a prompt, or None if it is not in it."""
    start = prompt.rfind(subject) if subject else -1
    if start < 0:
        return None
    before = prompt[: start + len(subject)]
    if SLOT in before:
        before = before.replace(SLOT, tokenizer.mask_token or "<extra_id_0>")
    whole = list(tokenizer(before)["input_ids"])
    bare = list(tokenizer(before, add_special_tokens=False)["input_ids"])
    # What the tokenizer adds behind the text does not belong to it.
    head = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
    ids = whole[: head + len(bare)]
    same = next((n for n, (one, two) in enumerate(zip(ids, row, strict=False)) if one != two), len(ids))
    # Where a token goes on behind the subject, the first that differs is the one that holds its end.
    return max(min(same, len(ids) - 1), 0) if ids else None
