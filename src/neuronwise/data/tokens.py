"""How tokens are shown to a reader, and which tokenizer made them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from neuronwise.sites import token_strings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["token_strings", "tokenizer_hash"]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 of what a tokenizer does, not of where it was loaded from or how it was last called."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules = dict(tokenizer.get_vocab())
    else:
        rules = json.loads(backend.to_str())
        # The last call's truncation and padding are kept in there.
        rules.update(truncation=None, padding=None)
    text = json.dumps([type(tokenizer).__name__, rules], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
