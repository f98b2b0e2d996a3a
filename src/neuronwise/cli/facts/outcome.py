"""What came of an edit: prompts before and after, and the patch or the model saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronwise.cli.facts.options import show_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neuronwise.cli.screen import Screen
    from neuronwise.data import Fact, Facts, LoadedModel
    from neuronwise.edit import Patch

__all__ = ["finish"]

# Prompts that are shown: of what was edited, and of other facts.
_SHOWN = 12
_OTHERS = 3


def finish(
    screen: Screen,
    loaded: LoadedModel,
    made: Patch,
    edited: list[Fact],
    known: Facts,
    patch: Path | None,
    model_out: Path | None,
    overwrite: bool,
) -> None:
    """Show what a patch does to a fact and to some others, and save it."""
    import pandas as pd

    from neuronwise.edit import save_model

    fact = edited[0]
    asked = _asked(loaded, edited, known)
    before = _predictions(loaded, asked)
    with made.applied(loaded.model):
        after = _predictions(loaded, asked)
    rows = [
        {
            "prompt": prompt,
            "right_before": one.answer,
            "says_before": said,
            "p_before": p,
            "says_after": says,
            "p_after": p_after,
        }
        for (prompt, one), (said, p), (says, p_after) in zip(asked, before, after, strict=True)
    ]
    if patch is not None:
        made.save(patch)
    if model_out is not None:
        save_model(loaded.model, model_out, tokenizer=loaded.tokenizer, patch=made, overwrite=overwrite)
    screen.document(
        {
            "method": made.method,
            "facts": [one.to_dict() for one in edited],
            "changes": made.to_frame(),
            "prompts": rows,
            "patch": None if patch is None else str(patch),
            "model": None if model_out is None else str(model_out),
            "skipped_lines": known.skipped,
        }
    )
    show_problems(screen, known, [])
    if len(edited) == 1:
        screen.line(f"{fact.subject or fact.id}: {fact.answer} -> {fact.new_answer or '(erased)'}")
    else:
        screen.line(f"{fact.relation}, {len(edited)} facts -> (erased)")
    screen.table(pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " ")).round(3))
    for what, where in (("Patch", patch), ("Edited model", model_out)):
        if where is not None:
            screen.line(f"{what} saved in {where}.")


def _asked(loaded: LoadedModel, edited: list[Fact], known: Facts) -> list[tuple[str, Fact]]:
    """Return the prompts to show, with their facts: of the edited ones, and of some others that shall stay.

    A prompt that the model cannot be asked is left out.
    """
    from itertools import islice

    fact, relations = edited[0], known.by_relation()
    if len(edited) == 1:
        own = [(prompt, fact) for prompt in (*fact.prompts, *fact.held_out)]
        near = [other for other in relations[fact.relation] if other.answer != fact.answer]
    else:
        own = [(one.prompts[0], one) for one in edited]
        near = [facts[0] for relation, facts in relations.items() if relation != fact.relation]
    others = [(one.prompts[0], one) for one in near]
    return [*islice(_possible(loaded, own), _SHOWN), *islice(_possible(loaded, others), _OTHERS)]


def _possible(loaded: LoadedModel, texts: list[tuple[str, Fact]]) -> Iterator[tuple[str, Fact]]:
    from neuronwise.data import encode
    from neuronwise.errors import DataError

    tokenizer: Any = loaded.tokenizer
    for prompt, fact in texts:
        try:
            encode(tokenizer, loaded.model, [prompt], [fact.answer], multi_token=True)
        except DataError:
            continue
        yield prompt, fact


def _predictions(loaded: LoadedModel, texts: list[tuple[str, Fact]]) -> list[tuple[str, float]]:
    """Return the most probable token in each prompt's slot, and its probability."""
    import torch

    from neuronwise.data import encode
    from neuronwise.hooks import call_model, untouched

    if not texts:
        return []
    tokenizer: Any = loaded.tokenizer
    answers = [fact.answer for _, fact in texts]
    prompts = encode(tokenizer, loaded.model, [prompt for prompt, _ in texts], answers, multi_token=True)
    prompts = prompts.to(next(loaded.model.parameters()).device)
    with torch.no_grad(), untouched(loaded.model):
        output: Any = call_model(loaded.model, prompts.inputs)
    logits = output if isinstance(output, torch.Tensor) else output.logits
    at = logits[torch.arange(len(texts)), prompts.positions[:, 0]].float().softmax(-1)
    best = at.max(-1)
    words = [str(tokenizer.decode([token])).strip() for token in best.indices.tolist()]
    return list(zip(words, best.values.tolist(), strict=True))
