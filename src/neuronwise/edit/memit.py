r"""MEMIT: many facts at once, spread over several layers.

Meng et al. 2023, https://arxiv.org/abs/2210.07229. For every fact a vector z is sought that makes the model give the
new answer when it stands at the subject's last token behind the last of the layers. The layers then share the way
there: each, from the first to the last, takes what is left of it divided by the layers left, R, and writes it with

    Δ = R K₁ᵀ (C₀ + K₁ K₁ᵀ)⁻¹,   C₀ = λ E[k kᵀ],

K₁ being the facts' keys in that layer, after the changes below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.data import Corpus, Fact
from neuronwise.edit._changes import LowRank
from neuronwise.edit._contexts import resolve_prefixes
from neuronwise.edit._slots import known_site
from neuronwise.edit._target import Optimisation, Spots, Target, find_target, read_at, spots
from neuronwise.edit.covariance import key_covariances
from neuronwise.edit.patch import Patch
from neuronwise.edit.rank_one import covariance_of, low_rank, output_of, solve
from neuronwise.edit.value_slots import noted_facts
from neuronwise.errors import InvalidArgumentError, closest
from neuronwise.hooks import intervene
from neuronwise.sites import Site, Sites

__all__ = ["memit", "memit_update"]


def memit(
    model: nn.Module,
    tokenizer: Any,
    facts: Fact | Sequence[Fact],
    sites: Site | Iterable[Site],
    *,
    covariance: Mapping[Site, Tensor] | Corpus | Sequence[str],
    weight: float = 20000.0,
    position: Literal["subject", "answer"] = "subject",
    prefixes: int | Sequence[str] = 5,
    prefix_tokens: int = 10,
    steps: int = 20,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    clamp: float = 0.75,
    kl_factor: float = 0.0625,
    stop_loss: float = 0.05,
    ridge: float = 0.0,
    seed: int = 0,
) -> Patch:
    """Write the new answers of many facts into several layers.

    Positions and answers are treated as in :func:`rome`. The way to z is measured behind the last layer's block. Where
    a norm stands between the feed-forward layer and that place (BERT), it is the part of the way along the change that
    z makes there; the paper has no such models.

    The defaults are the published ones for GPT-2 XL (layers 13 to 17); small models need others, see the how-to page on
    editing.

    Args:
        model: A language model. It is not changed.
        tokenizer: Its tokenizer.
        facts: The facts, each with ``new_answer``.
        sites: The layers, of one stack; they are edited from the first to the last.
        covariance: C of every site, ``{site: (neuron, neuron)}``, from :func:`key_covariances`; or the corpus or texts
            to take them from.
        weight: λ: how much the other keys count against the facts'. The smaller, the stronger the edit.
        position: ``"subject"``: its last token, as published; ``"answer"``: where the answer is predicted from.
        prefixes: Texts to put before the prompts, or how many to sample from the model (causal models only).
        prefix_tokens: Length of the sampled ones.
        steps: Most steps of Adam for each z.
        lr: Its step size.
        weight_decay: Factor of ``|δ| / |v0|²`` in the loss.
        clamp: Longest δ, in lengths of v0.
        kl_factor: Factor of the divergence on "{subject} is a".
        stop_loss: Stop when the loss is below this.
        ridge: Added to C's diagonal, in units of its mean.
        seed: Seed of the sampled prefixes.

    Returns:
        A :class:`Patch` with one low-rank change a layer, of as many ranks as there are facts; its control are random
        changes of the same ranks and norms.

    Raises:
        InvalidArgumentError: If there is no fact, one has no new answer, or sites and covariances do not fit.
        PatchError: If a covariance is singular, or a loss is not a number.
        DataError: If an answer or prompt cannot be encoded.
    """
    asked = [facts] if isinstance(facts, Fact) else list(facts)
    layers = _ordered(model, sites)
    if not asked:
        raise InvalidArgumentError("There is no fact to write.")
    if not weight > 0:
        raise InvalidArgumentError(f"weight must be above 0, not {weight}.")
    how = Optimisation(steps, lr, weight_decay, clamp, kl_factor, stop_loss)
    prompts = [prompt for fact in asked for prompt in fact.prompts]
    texts = resolve_prefixes(model, tokenizer, prompts, prefixes, tokens=prefix_tokens, seed=seed)
    spreads = _covariances(model, tokenizer, layers, covariance, ridge)
    wheres = [
        spots(model, tokenizer, fact, layers[-1], texts, essence=kl_factor > 0, position=position)
        for fact in asked
    ]
    targets = [find_target(model, where, output_of(model, layers[-1]), how) for where in wheres]
    ways = [_Way(model, layers[-1], where, target) for where, target in zip(wheres, targets, strict=True)]
    changes: list[LowRank] = []
    with ExitStack() as applied:
        for number, site in enumerate(layers):
            read = [way.read(model, site) for way in ways]
            keys = torch.stack([key for key, _ in read], 1)
            residual = torch.stack([left for _, left in read], 1) / (len(layers) - number)
            left, right = _factors(residual, keys, weight * spreads[site])
            changes.append(low_rank(model, site, left, right))
            applied.enter_context(Patch((changes[-1],), "memit").applied(model))
    return Patch.of(
        model,
        changes,
        "memit",
        parameters={
            "sites": [site.name for site in layers],
            "weight": weight,
            **how.noted(),
            "position": position,
            "prefixes": texts,
            "ridge": ridge,
            "seed": seed,
            "values": [target.noted() for target in targets],
        },
        facts=noted_facts(asked),
    )


def memit_update(weight: Tensor, keys: Tensor, values: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of MEMIT's change for one layer.

    Args:
        weight: W, ``(out, in)``.
        keys: K₁, ``(in, fact)``.
        values: V₁, the values wanted, ``(out, fact)``.
        covariance: C₀, ``(in, in)``, with its factor λ.

    Returns:
        ``left`` ``(out, fact)`` and ``right`` ``(fact, in)``, float64.

    Raises:
        PatchError: If C₀ + K₁ K₁ᵀ is singular.
    """
    residual = values.double() - weight.double() @ keys.double()
    return _factors(residual, keys.double(), covariance.double())


def _factors(residual: Tensor, keys: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    return residual, solve(covariance + keys @ keys.T, keys).T


class _Way:
    """How far a fact still is from its target, as seen behind the last layer's block."""

    def __init__(self, model: nn.Module, last: Site, where: Spots, target: Target) -> None:
        self.where, self.delta = where, target.delta
        self.stream = _block(model, last)
        self.start = self._seen(model)
        delta = target.delta.to(where.at.device)
        rows = torch.arange(len(where.at), device=where.at.device)

        def add(values: Tensor, call: int | None) -> Tensor:
            moved = values.clone()
            moved[rows.to(values.device), where.at.to(values.device)] += delta.to(values)
            return moved

        with torch.no_grad(), intervene(model, output_of(model, last), add):
            self.goal = self._seen(model)
        change = self.goal - self.start
        # Without a norm in between, what is added there is what is seen here.
        self.direct = bool((change - self.delta).norm() <= 1e-2 * self.delta.norm())

    def read(self, model: nn.Module, site: Site) -> tuple[Tensor, Tensor]:
        """Return the fact's key at a site, and what is still to be added."""
        key = read_at(model, [site], self.where)[site][: self.where.asked].mean(0)
        now = self._seen(model)
        if self.direct:
            return key, self.goal - now
        change = self.goal - self.start
        done = float((now - self.start) @ change / (change @ change).clamp(min=1e-30))
        return key, (1.0 - done) * self.delta

    def _seen(self, model: nn.Module) -> Tensor:
        return read_at(model, [self.stream], self.where)[self.stream][: self.where.plain].mean(0)


def _block(model: nn.Module, site: Site) -> Site:
    """Return the output of the block that a layer is in; where that is not known, of the down projection itself."""
    bare = output_of(model, site)
    if not site.stack or site.layer is None or site.call is not None:
        return bare
    try:
        model.get_submodule(f"{site.stack}.{site.layer}")
    except AttributeError:
        return bare
    return Site(f"{site.stack}.{site.layer}", "output", width=bare.width)


def _ordered(model: nn.Module, sites: Site | Iterable[Site]) -> list[Site]:
    """Return the sites from the first layer to the last."""
    layers = [known_site(model, site) for site in Sites.of(sites)]
    if not layers:
        raise InvalidArgumentError("There is no site to write into.")
    if len(layers) > 1:
        places = {(site.stack, site.layer) for site in layers}
        if len({site.stack for site in layers}) > 1 or any(site.layer is None for site in layers):
            raise InvalidArgumentError(
                "MEMIT spreads its changes over layers of one stack; the sites are "
                f"{', '.join(site.name for site in layers)}."
            )
        if len(places) < len(layers):
            raise InvalidArgumentError(
                "MEMIT takes one site a layer; two of the sites are of the same layer."
            )
    return sorted(layers, key=lambda site: site.layer or 0)


def _covariances(
    model: nn.Module,
    tokenizer: Any,
    layers: Sequence[Site],
    given: Mapping[Site, Tensor] | Corpus | Sequence[str],
    ridge: float,
) -> dict[Site, Tensor]:
    if not isinstance(given, Mapping):
        given = key_covariances(model, given, layers, tokenizer=tokenizer)
    names = {site.name: spread for site, spread in given.items()}
    missing = [site.name for site in layers if site.name not in names]
    if missing:
        raise InvalidArgumentError(f"There is no covariance of {missing[0]}. {closest(missing[0], names)}")
    return {site: covariance_of(model, tokenizer, site, names[site.name], ridge) for site in layers}
