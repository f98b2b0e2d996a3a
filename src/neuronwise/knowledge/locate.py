"""locate: find the neurons of facts, by the thousand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuronwise.attribute import (
    METHODS,
    LogProbability,
    Method,
    Probability,
    Problem,
    Scores,
    eliminate,
    score,
)
from neuronwise.data import Fact, Facts, Prompts, encode, model_card
from neuronwise.data import facts as read_facts
from neuronwise.engine import Block, blocks_of, map_reduce, progress_bar
from neuronwise.errors import FactError, InvalidArgumentError, closest
from neuronwise.hooks import call_model, device_of, frozen_parameters, refuse_uncatchable, untouched
from neuronwise.knowledge._tables import tables_of
from neuronwise.knowledge.agreement import jaccard, r1_squared
from neuronwise.knowledge.located import KnowledgeNeurons
from neuronwise.knowledge.selection import Refinement, coarse
from neuronwise.sites import Site, Sites, find_sites
from neuronwise.store import Manifest

__all__ = ["Found", "locate"]

TARGETS = {"probability": Probability, "log_probability": LogProbability}
_PROMPTS_AT_ONCE = 64


def locate(
    model: nn.Module,
    tokenizer: Any,
    facts: Any,
    *,
    sites: Site | Iterable[Site] | None = None,
    method: str | Method = "integrated_gradients",
    target: Literal["probability", "log_probability"] | None = None,
    positions: Literal["slot", "all"] | None = None,
    threshold: float = 0.2,
    refinement: Refinement | None = None,
    contrast: int = 0,
    k: int = 50,
    step: int = 5,
    multi_token: bool = False,
    engine: str = "local",
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    memory: int = 1 << 30,
    model_name: str | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> KnowledgeNeurons:
    """Find the neurons of each fact: those that its prompts share, of those that contribute most to its answer.

    With an attribution method it is the procedure of Dai et al. (2022, https://arxiv.org/abs/2104.08696): every prompt
    gives each neuron a signed score; the prompt's *coarse* neurons reach ``threshold`` times its largest score; the
    fact's *refined* neurons are coarse in enough of its prompts. The same is done for the scores below 0 (side
    ``"least"``: the neurons that work against the answer).

    With ``method="elimination"`` it is :func:`neuronwise.attribute.eliminate`: k neurons in the order in which they are
    switched off, all prompts together, always those that matter most by then. Neurons that cover for each other are
    found by it only; far fewer of its neurons have to be silenced for the answer to be lost.

    Args:
        model: A language model with its head. It is bit-identical afterwards.
        tokenizer: Its tokenizer.
        facts: Facts, or a file or folder that :func:`neuronwise.data.facts` reads.
        sites: Whose neurons; default: the feed-forward neurons.
        method: ``"elimination"``, or an attribution method: a name in ``neuronwise.attribute.METHODS`` or a ``Method``.
        target: What the neurons contribute to; default: ``"probability"`` as published, ``"log_probability"`` for
            elimination, since a probability near 1 has no gradient.
        positions: ``"slot"``, where the answer is predicted, as published; ``"all"`` positions of the prompt, default
            for elimination.
        threshold: Part of a prompt's largest score that a coarse neuron reaches.
        refinement: How many prompts must share a neuron; default: the official rule, 0.7.
        contrast: How many sister facts (same relation, other answer; or the fact's own ``contrast``) to compare with:
            what a neuron does for them on average, where that is positive, is taken from its score.
        k: Neurons a fact with elimination; with other methods, how many of the strongest are kept a side although too
            few prompts share them.
        step: With elimination: neurons switched off at a time.
        multi_token: Allow answers of several tokens.
        engine: ``"local"``, ``"processes"`` or ``"ray"``; see :func:`neuronwise.engine.map_reduce`.
        workers: Worker processes or actors.
        checkpoint: A file to save the state to now and then and to go on from when it is there.
        checkpoint_every: Seconds between two saves.
        memory: Bytes for activations kept for backward passes.
        model_name: Name for the record.
        progress: Show a progress bar on standard error; default: if that is a terminal.
        seed: Of the sister facts drawn.

    Returns:
        The neurons of every fact, with the agreement of its prompts, and the neurons that many facts have.

    Raises:
        FactError: If no fact can be used.
        SiteNotFoundError: If no site is found.
        InvalidArgumentError: If an argument is not what the function takes.
    """
    refuse_uncatchable(model)
    known = facts if isinstance(facts, Facts) else read_facts(facts)
    if not len(known):
        raise FactError("There are no facts to locate.")
    how = _How.of(
        method,
        target,
        positions,
        threshold=threshold,
        contrast=contrast,
        k=k,
        step=step,
        multi_token=multi_token,
    )
    places = find_sites(model) if sites is None else Sites.of(sites)
    rule = refinement or Refinement()
    card = model_card(model, model_name)
    job = _Pass(model, tokenizer, known, places, how, memory, seed, str(card["sha256"]))
    with progress_bar("Locating", len(known), shown=progress) as advance:
        found = map_reduce(
            job,
            blocks_of(len(known), max(8, min(64, -(-len(known) // 16)))),
            engine=engine,
            workers=workers,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            on_block=advance,
        )
    if not found.numbers:
        reasons = "; ".join(list(found.problems.values())[:3])
        raise FactError(f"None of the {len(known)} facts can be used with this model: {reasons}")
    parameters = how.settings() | {"refinement": asdict(rule), "sites": list(places.names)}
    manifest = Manifest(
        "knowledge",
        action={"name": "locate", "parameters": parameters},
        seed=seed,
        model=card,
        data=known.describe(),
    )
    return KnowledgeNeurons(tables_of(found, known, places, rule, eliminated=how.method is None), manifest)


@dataclass(frozen=True)
class _How:
    """The settings of a pass. ``method`` is None for elimination."""

    method: Method | None
    target: str
    positions: str
    threshold: float
    contrast: int
    k: int
    step: int
    multi_token: bool

    @classmethod
    def of(cls, method: str | Method, target: str | None, positions: str | None, **settings: Any) -> _How:
        names = ("elimination", *METHODS)
        if isinstance(method, str) and method not in names:
            raise InvalidArgumentError(
                f"There is no method {method!r} to locate with. {closest(method, names)}"
            )
        eliminating = method == "elimination"
        target = target or ("log_probability" if eliminating else "probability")
        positions = positions or ("all" if eliminating else "slot")
        if target not in TARGETS:
            raise InvalidArgumentError(f"There is no target {target!r}. {closest(target, TARGETS)}")
        if positions not in ("slot", "all"):
            raise InvalidArgumentError(f"positions must be 'slot' or 'all', not {positions!r}.")
        if not 0 < settings["threshold"] <= 1:
            raise InvalidArgumentError(
                f"threshold must be above 0 and at most 1, not {settings['threshold']}."
            )
        if settings["contrast"] < 0 or settings["k"] < 1 or settings["step"] < 1:
            raise InvalidArgumentError("contrast must be at least 0, k and step at least 1.")
        if eliminating and settings["contrast"]:
            raise InvalidArgumentError("contrast goes with attribution methods, not with elimination.")
        chosen = None if eliminating else method if isinstance(method, Method) else METHODS[str(method)]()
        return cls(chosen, target, positions, **settings)

    def settings(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("target", "positions", "k", "multi_token")}
        if self.method is None:
            return plain | {"method": "elimination", "step": self.step}
        return plain | {"method": repr(self.method), "threshold": self.threshold, "contrast": self.contrast}


@dataclass
class Found:
    """What a pass has gathered: for every fact its figures, and the neurons kept.

    Args:
        numbers: Numbers of the facts, in the order of the other lists.
        figures: ``(FIGURES,)`` a fact.
        entries: ``(entry, 5)`` a fact: side (0 most, 1 least), neuron counted through all sites, prompts, score, rank.
        problems: Why a fact could not be looked at, by its number.
    """

    numbers: list[int] = field(default_factory=list)
    figures: list[NDArray[np.float64]] = field(default_factory=list)
    entries: list[NDArray[np.float64]] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)


FIGURES = ("prompts", "p", "log_p", "right", "jaccard", "r1_squared", "gap")


class _Pass:
    """The job that an engine runs: it folds blocks of facts into what has been found."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        facts: Facts,
        sites: Sites,
        how: _How,
        memory: int,
        seed: int,
        model_hash: str,
    ) -> None:
        self.model, self.tokenizer, self.facts, self.sites = model, tokenizer, facts, sites
        self.how, self.memory, self.seed, self.model_hash = how, memory, seed, model_hash

    def start(self) -> Found:
        return Found()

    def run(self, state: Found, block: Block) -> bool:
        _, first, last = block
        waiting: list[tuple[int, list[Fact]]] = []
        size = 0
        with untouched(self.model), frozen_parameters(self.model):
            for number in range(first, min(last, len(self.facts))):
                fact = self.facts[number]
                try:
                    encode(
                        self.tokenizer,
                        self.model,
                        fact.prompts,
                        fact.answer,
                        multi_token=self.how.multi_token,
                    )
                except FactError as error:
                    state.problems[number] = str(error)
                    continue
                waiting.append((number, [fact, *self._sisters(fact)]))
                size += len(fact.prompts)
                if size >= _PROMPTS_AT_ONCE:
                    self._look_at(waiting, state)
                    waiting, size = [], 0
            if waiting:
                self._look_at(waiting, state)
        return first < len(self.facts)

    def merge(self, state: Found, other: Found) -> None:
        state.numbers += other.numbers
        state.figures += other.figures
        state.entries += other.entries
        state.problems |= other.problems

    def dump(self, state: Found) -> dict[str, Tensor]:
        words = json.dumps({str(number): reason for number, reason in state.problems.items()}).encode()
        width = [len(part) for part in state.entries]
        return {
            "numbers": torch.tensor(state.numbers, dtype=torch.int64),
            "figures": torch.from_numpy(np.array(state.figures).reshape(-1, len(FIGURES))),
            "widths": torch.tensor(width, dtype=torch.int64),
            "entries": torch.from_numpy(np.concatenate([np.zeros((0, 5)), *state.entries])),
            "problems": torch.tensor(list(words), dtype=torch.uint8),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> Found:
        words = bytes(tensors["problems"].tolist()).decode()
        bounds = np.cumsum(tensors["widths"].numpy())[:-1]
        entries = np.split(tensors["entries"].numpy(), bounds) if len(tensors["numbers"]) else []
        return Found(
            tensors["numbers"].tolist(),
            list(tensors["figures"].numpy()),
            list(entries),
            {int(number): reason for number, reason in json.loads(words).items()},
        )

    def fingerprint(self) -> str:
        return json.dumps(
            [self.how.settings(), list(self.sites.names), self.seed, self.model_hash, self.facts.fingerprint]
        )

    def _sisters(self, fact: Fact) -> list[Fact]:
        """Return sister facts to compare with, those that the model's tokenizer can take."""
        if not self.how.contrast:
            return []
        drawn = fact.contrast[: self.how.contrast] or self.facts.sisters(
            fact, self.how.contrast, seed=self.seed
        )
        usable = []
        for sister in drawn:
            try:
                encode(
                    self.tokenizer,
                    self.model,
                    sister.prompts[:1],
                    sister.answer,
                    multi_token=self.how.multi_token,
                )
            except FactError:
                continue
            usable.append(sister)
        return usable

    def _look_at(self, waiting: list[tuple[int, list[Fact]]], state: Found) -> None:
        """Score the prompts of some facts, and those of their sisters, in one batch."""
        texts, answers, owners = [], [], []
        for place, (_, facts) in enumerate(waiting):
            for sister, fact in enumerate(facts):
                for prompt in fact.prompts if sister == 0 else fact.prompts[:1]:
                    texts.append(prompt)
                    answers.append(fact.answer)
                    owners.append((place, sister > 0))
        prompts = encode(self.tokenizer, self.model, texts, answers, multi_token=self.how.multi_token).to(
            device_of(self.model)
        )
        problem = Problem(
            self.model,
            prompts.inputs,
            TARGETS[self.how.target](prompts),
            self.sites,
            positions="all" if self.how.positions == "all" else None,
            memory=self.memory,
        )
        owner = np.array([place for place, _ in owners])
        is_sister = np.array([sister for _, sister in owners])
        log_p, right = _answered(self.model, prompts)
        if self.how.method is None:
            self._eliminated(problem, owner, log_p, right, waiting, state)
        else:
            self._attributed(problem, owner, is_sister, log_p, right, waiting, state)

    def _attributed(
        self,
        problem: Problem,
        owner: NDArray[np.int64],
        is_sister: NDArray[np.bool_],
        log_p: NDArray[np.float64],
        right: NDArray[np.float64],
        waiting: list[tuple[int, list[Fact]]],
        state: Found,
    ) -> None:
        assert self.how.method is not None
        scores = score(problem, self.how.method)
        every = torch.cat([scores.values[site].sum(1) for site in self.sites], 1).double().cpu().numpy()
        gaps = _largest_gaps(scores)
        for place, (number, _) in enumerate(waiting):
            own, sisters = (owner == place) & ~is_sister, (owner == place) & is_sister
            mine = every[own]
            if sisters.any():
                mine = mine - np.maximum(every[sisters].mean(0), 0)
            state.numbers.append(number)
            state.figures.append(np.array([*self._figures(mine, log_p[own], right[own]), gaps[own].max()]))
            sides = [self._entries(side, sign * mine, sign) for side, sign in ((0, 1.0), (1, -1.0))]
            state.entries.append(np.concatenate(sides))

    def _entries(self, side: int, scores: NDArray[np.float64], sign: float) -> NDArray[np.float64]:
        """Return the neurons kept of one side: all that some prompt has above the threshold, and the k strongest."""
        chosen = coarse(scores, self.how.threshold)
        counts, mean = chosen.sum(0), scores.mean(0)
        strongest = np.argsort(-mean, kind="stable")[: self.how.k]
        kept = np.union1d(np.flatnonzero(counts), strongest[mean[strongest] > 0])
        kept = kept[np.lexsort((kept, -mean[kept]))]
        return np.column_stack(
            [np.full(len(kept), side), kept, counts[kept], sign * mean[kept], np.arange(len(kept))]
        ).astype(np.float64)

    def _eliminated(
        self,
        problem: Problem,
        owner: NDArray[np.int64],
        log_p: NDArray[np.float64],
        right: NDArray[np.float64],
        waiting: list[tuple[int, list[Fact]]],
        state: Found,
    ) -> None:
        found = eliminate(problem, self.how.k, step=self.how.step, groups=torch.from_numpy(owner))
        # Elimination takes a fact's prompts together; how far they agree shows in what each says at the start.
        alone = problem.along_input()
        products = [alone.activations[site] * alone.gradients[site] for site in self.sites]
        every = torch.cat([product[:, 0].sum(1) for product in products], 1).double().cpu().numpy()
        for place, (number, _) in enumerate(waiting):
            own = owner == place
            state.numbers.append(number)
            state.figures.append(np.array([*self._figures(every[own], log_p[own], right[own]), np.nan]))
            order, drops = found.order[place].numpy(), found.drops[place].numpy()
            k = len(order)
            entries = [np.zeros(k), order, np.full(k, own.sum()), drops, np.arange(k)]
            state.entries.append(np.column_stack(entries).astype(np.float64))

    def _figures(
        self, scores: NDArray[np.float64], log_p: NDArray[np.float64], right: NDArray[np.float64]
    ) -> list[float]:
        """Return a fact's figures but for the gap, from the scores ``(prompt, neuron)`` of its prompts."""
        sets = [set(np.flatnonzero(row).tolist()) for row in coarse(scores, self.how.threshold)]
        figures = [
            len(scores),
            np.exp(log_p).mean(),
            log_p.mean(),
            right.mean(),
            jaccard(sets),
            r1_squared(scores),
        ]
        return [float(figure) for figure in figures]


def _largest_gaps(scores: Scores) -> NDArray[np.float64]:
    """Return the gap of largest size of each example; NaN where the method has none."""
    gaps = scores.gap.double().abs().numpy()
    largest: NDArray[np.float64] = gaps.max(axis=0)
    return largest


def _answered(model: nn.Module, prompts: Prompts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each prompt's log probability of its answer, and whether every token of it is the most probable one."""
    with torch.no_grad():
        output = call_model(model, prompts.inputs)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InvalidArgumentError(
            f"The model returned a {type(output).__name__} without logits. Load it with its language-model head."
        )
    rows = torch.arange(len(prompts), device=logits.device).unsqueeze(1)
    at = logits[rows, prompts.positions.clamp(min=0)].double()
    real = prompts.answers >= 0
    chosen = at.log_softmax(-1).gather(-1, prompts.answers.clamp(min=0).unsqueeze(-1))[..., 0]
    log_p = torch.where(real, chosen, 0.0).sum(1)
    right = ((at.argmax(-1) == prompts.answers) | ~real).all(1)
    return log_p.cpu().numpy(), right.double().cpu().numpy()
