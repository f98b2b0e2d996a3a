"""One evaluator for all editing methods: did it work, does it generalise, and what else has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from torch import nn

from neuronwise.data import Fact, Facts, model_card, token_strings
from neuronwise.edit._intervals import interval
from neuronwise.edit._probes import KEPT, WRITTEN, Figures, Sheet, questions
from neuronwise.edit._text import Text
from neuronwise.edit.evaluation import EditEvaluation
from neuronwise.edit.patch import Patch
from neuronwise.errors import InvalidArgumentError, NeuronwiseError
from neuronwise.store import Manifest
from neuronwise.store.schema import table_schema

__all__ = ["Edit", "evaluate_edit"]

#: A fact (or, with ``together=True``, the list of all) to the patch that edits it.
Edit = Callable[[Any], Patch]

#: The same with a seed, for a random control of the user's own.
Control = Callable[[Any, int], Patch]

_METRICS = {"edit": "reliability", "held_out": "generality", "paraphrase": "generality"}


def evaluate_edit(
    model: nn.Module,
    tokenizer: Any,
    facts: Iterable[Fact],
    edit: Edit | Mapping[str, Edit],
    *,
    corpus: Any = None,
    controls: int = 3,
    control: Control | Mapping[str, Control] | None = None,
    together: bool = False,
    pool: Iterable[Fact] | None = None,
    per_kind: int = 4,
    batch_size: int = 64,
    model_name: str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> EditEvaluation:
    """Edit every fact with every method, each beside random controls, and measure what has changed.

    Each edit is made on the untouched model, measured and undone; the model is bit-identical afterwards. A fact that
    cannot be edited or asked is listed in the table ``edit_problems``, and the rest goes on.

    Metrics. *reliability*: the fact's own prompts, *generality*: its held-out prompts and paraphrases; the argmax is
    the new answer (of an erased fact, whose ``new_answer`` is None: no longer the old one), and, by probability,
    P(new) > P(old) (P(old) fell). *neighbour*, *sister*, *unrelated*, *attribute*: the argmax is what it was, and, by
    probability, the right answer is more likely than the edit's (after erasing: at least half as likely as before).
    *portability*, *symmetry*, *synonymy*: the argmax is the probe's answer, and it is more likely than the fact's old
    one. *nll*, *perplexity* = exp(mean nll) and *kl* = KL(base || edited), a token in nats: plain text. A figure is
    the mean over facts of each fact's mean over its prompts (and seeds), with the 95 % interval over facts.

    Args:
        model: A language model.
        tokenizer: Its tokenizer.
        facts: The facts; those with ``new_answer`` are updated, the others erased.
        edit: A function of a fact that returns its patch, or several by name.
        corpus: Plain text: a corpus, or texts. Without it there are no figures for text.
        controls: Random controls a patch.
        control: A function of a fact and a seed, or several by name; default: :meth:`Patch.control`.
        together: Edit all facts by one patch; ``edit`` is then called with the list of them.
        pool: Facts that further probes are drawn from for facts without any of a kind; default: the facts themselves.
        per_kind: How many neighbours, sisters and unrelated prompts are drawn; 0 for none.
        batch_size: Most prompts or texts a batch.
        model_name: Name for the record.
        progress: Show a progress bar on standard error; default: if that is a terminal.
        seed: Seed of the controls (``seed``, ``seed + 1``, ...), of the probes drawn, of masks and of the bootstrap.

    Returns:
        An :class:`EditEvaluation`.

    Raises:
        InvalidArgumentError: If there is no fact or no method, or the model is not a language model.
    """
    asked = facts if isinstance(facts, Facts) else Facts(facts)
    methods = (
        dict(edit) if isinstance(edit, Mapping) else {getattr(edit, "__name__", "edit").strip("<>"): edit}
    )
    _check(asked, methods, controls, batch_size)
    own = (
        dict(control) if isinstance(control, Mapping) else dict.fromkeys(methods, control) if control else {}
    )
    near = asked if pool is None else pool if isinstance(pool, Facts) else Facts(pool)
    run = _Run(model, tokenizer, batch_size)
    card = model_card(model, model_name)
    run.text = None if corpus is None else Text(model, tokenizer, corpus, batch_size=batch_size, seed=seed)
    groups = [list(asked)] if together else [[fact] for fact in asked]
    with _bar(progress, len(groups) * len(methods)) as advance:
        for group in groups:
            sheets = run.sheets(group, near, per_kind=per_kind, seed=seed)
            name = group[0].id if not together else ""
            for method, function in methods.items():
                if sheets:
                    remaining = [sheet.fact for sheet in sheets]
                    given: Any = remaining if together else remaining[0]
                    run.trials(
                        name, method, function, own.get(method), given, sheets, range(seed, seed + controls)
                    )
                advance()
    action = {
        "name": "evaluate_edit",
        "parameters": {
            "methods": list(methods),
            "controls": controls,
            "together": together,
            "per_kind": per_kind,
            "batch_size": batch_size,
            "corpus": None if run.text is None else run.text.corpus.describe(),
            "pool": near.describe(),
        },
    }
    return EditEvaluation(run.tables(seed), Manifest("edit", action, seed, card, asked.describe()))


def _check(facts: Facts, methods: Mapping[str, Edit], controls: int, batch_size: int) -> None:
    if not len(facts) or not methods:
        raise InvalidArgumentError(f"There is no {'method to use' if len(facts) else 'fact to edit'}.")
    if "none" in methods:
        raise InvalidArgumentError("'none' is the name of the unedited model; give the method another one.")
    if controls < 0 or batch_size < 1:
        raise InvalidArgumentError(
            f"controls must be 0 or more and batch_size at least 1, not {controls} and {batch_size}."
        )


@dataclass
class _Run:
    """The work and what it has brought so far."""

    model: nn.Module
    tokenizer: Any
    batch_size: int
    text: Text | None = None
    prompts: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, Figures] = field(default_factory=dict)

    def sheets(self, group: Sequence[Fact], pool: Facts, *, per_kind: int, seed: int) -> list[Sheet]:
        """Return the questions about the facts that can be asked, and ask the unedited model."""
        self.before = {}
        found = []
        without = {fact.id for fact in group}
        for fact in group:
            asked = questions(fact, pool, per_kind=per_kind, without=without, seed=seed)
            sheet = Sheet(self.model, self.tokenizer, fact, asked)
            for problem in sheet.problems:
                self.problem(fact.id, "none", "none", None, problem)
            if not sheet.editable:
                continue
            self.before[fact.id] = sheet.ask(self.model, self.batch_size)
            self.add(sheet, "none", "none", None, self.before[fact.id])
            found.append(sheet)
        if found and self.text is not None and not self.texts:
            self.add_text("", "none", "none", None, None)
        return found

    def trials(
        self,
        name: str,
        method: str,
        function: Edit,
        control: Control | None,
        given: Any,
        sheets: Sequence[Sheet],
        seeds: Iterable[int],
    ) -> None:
        """Make one edit and its controls, and ask the model under each."""
        kind, number = "edit", None
        try:
            patch = function(given)
            self.trial(name, method, kind, number, patch, sheets)
            for one in seeds:
                kind, number = "random", one
                drawn = patch.control(self.model, seed=one) if control is None else control(given, one)
                self.trial(name, method, kind, number, drawn, sheets)
        except NeuronwiseError as error:
            self.problem(name, method, kind, number, f"{type(error).__name__}: {error}")

    def trial(
        self, name: str, method: str, kind: str, seed: int | None, patch: Patch, sheets: Sequence[Sheet]
    ) -> None:
        """Ask everything under one patch."""
        with patch.applied(self.model):
            figures = [sheet.ask(self.model, self.batch_size) for sheet in sheets]
        for sheet, after in zip(sheets, figures, strict=True):
            self.add(sheet, method, kind, seed, after)
        if self.text is not None:
            self.add_text(name, method, kind, seed, patch)

    def add(self, sheet: Sheet, method: str, kind: str, seed: int | None, after: Figures) -> None:
        """Note what a model says to the questions of a sheet."""
        before = self.before[sheet.fact.id]
        success, prefers = _judged(sheet, before, after)
        ids = _each_once(before.top.tolist() + after.top.tolist())
        shown = dict(zip(ids, token_strings(self.tokenizer, ids), strict=True))
        numbers: dict[str, int] = {}
        for row, question in enumerate(sheet.questions):
            number = numbers[question.kind] = numbers.get(question.kind, -1) + 1
            self.prompts.append(
                {
                    "method": method,
                    "control": kind,
                    "seed": seed,
                    "fact": sheet.fact.id,
                    "relation": sheet.fact.relation,
                    "probe": question.kind,
                    "number": number,
                    "prompt": question.prompt,
                    "answer": question.answer,
                    "other": question.other,
                    "log_p_answer_before": float(before.answer[row]),
                    "log_p_answer": float(after.answer[row]),
                    "log_p_other_before": float(before.other[row]),
                    "log_p_other": float(after.other[row]),
                    "top_before": shown[int(before.top[row])],
                    "top": shown[int(after.top[row])],
                    "success": success[row],
                    "prefers": prefers[row],
                }
            )

    def add_text(self, name: str, method: str, kind: str, seed: int | None, patch: Patch | None) -> None:
        """Note what a patch does to plain text."""
        assert self.text is not None
        found = self.text.measure(patch)
        self.texts.append(
            {
                "method": method,
                "control": kind,
                "seed": seed,
                "fact": name,
                "tokens": found.tokens,
                "nll_before": found.nll_before,
                "nll": found.nll_after,
                "kl": found.kl,
            }
        )

    def problem(self, fact: str, method: str, kind: str, seed: int | None, text: str) -> None:
        """Note what went wrong."""
        self.problems.append(
            {
                "number": len(self.problems),
                "fact": fact,
                "method": method,
                "control": kind,
                "seed": seed,
                "problem": text,
            }
        )

    def tables(self, seed: int) -> dict[str, pd.DataFrame]:
        """Return everything as the tables of the schema."""
        frames = {
            "edit_prompts": _frame("edit_prompts", self.prompts),
            "edit_text": _frame("edit_text", self.texts),
            "edit_problems": _frame("edit_problems", self.problems),
        }
        rows = [*_prompt_rows(frames["edit_prompts"], seed), *_text_rows(frames["edit_text"], seed)]
        return {"edit_summary": _frame("edit_summary", rows), **frames}


def _each_once(ids: Sequence[int]) -> list[int]:
    """Return token ids, each once, sorted."""
    return sorted(set(ids))


def _judged(sheet: Sheet, before: Figures, after: Figures) -> tuple[list[bool], list[float]]:
    """Return for every question whether its aim is reached by argmax, and by probability (NaN: cannot be said)."""
    success, prefers = [], []
    erased = sheet.fact.new_answer is None
    for row, question in enumerate(sheet.questions):
        old, now, other = float(before.answer[row]), float(after.answer[row]), float(after.other[row])
        if question.kind in KEPT:
            success.append(bool(before.top[row] == after.top[row]))
            fine = now >= old - np.log(2.0) if erased else now > other
        elif question.kind in WRITTEN and erased:
            success.append(not bool(after.right[row]))
            fine = now < old
        else:
            success.append(bool(after.right[row]))
            fine = now > other
        known = bool(question.other) or (erased and question.kind in (*KEPT, *WRITTEN))
        prefers.append(float(fine) if known else np.nan)
    return success, prefers


def _frame(table: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=list(table_schema(table).column_names))
    if "seed" in frame:
        frame["seed"] = frame["seed"].astype("Int32")
    return frame


def _prompt_rows(frame: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    """Return the summary of the prompts: one row a method, control, metric and measure."""
    metrics = frame["probe"].map(lambda kind: _METRICS.get(kind, kind))
    for (method, control, metric), rows in frame.groupby(["method", "control", metrics], sort=False):
        for measure, column in (("argmax", "success"), ("probability", "prefers")):
            values = rows[["fact", column]].astype({column: "float64"}).dropna()
            each = values.groupby("fact", sort=False)[column].mean().to_numpy(dtype=np.float64)
            if len(each):
                low, high = interval(each, share=True, seed=seed)
                yield {
                    "method": method,
                    "control": control,
                    "metric": metric,
                    "measure": measure,
                    "value": each.mean(),
                    "low": low,
                    "high": high,
                    "facts": len(each),
                    "n": len(values),
                }


def _text_rows(frame: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    """Return the summary of plain text."""
    for (method, control), rows in frame.groupby(["method", "control"], sort=False):
        each = rows.groupby("fact", sort=False)[["nll", "kl"]].mean()
        for metric in ("nll", "perplexity", "kl"):
            values = each["kl" if metric == "kl" else "nll"].to_numpy(dtype=np.float64)
            found = (values.mean(), *interval(values, share=False, seed=seed))
            value, low, high = np.exp(found) if metric == "perplexity" else found
            yield {
                "method": method,
                "control": control,
                "metric": metric,
                "measure": "text",
                "value": value,
                "low": low,
                "high": high,
                "facts": len(values),
                "n": int(rows["tokens"].sum()),
            }


@contextmanager
def _bar(wanted: bool | None, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar over facts and methods, unless standard error is no terminal."""
    console = Console(stderr=True)
    shown = console.is_terminal if wanted is None else wanted
    with Progress(console=console, disable=not shown, transient=True) as progress:
        task = progress.add_task("Editing", total=total)
        yield lambda: progress.advance(task)
