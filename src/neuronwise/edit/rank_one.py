r"""ROME: a fact written into one layer as a rank-one change.

Meng et al. 2022, https://arxiv.org/abs/2202.05262. The down projection W of a feed-forward layer is read as a linear
memory from keys to values. With k\* the key of the subject (the layer's neurons at the subject's last token, averaged
over prefixes), v\* the value that makes the model give the new answer, and C = E[k kᵀ] over text,

    W' = W + (v* - W k*) (C⁻¹ k*)ᵀ / ((C⁻¹ k*)ᵀ k*),

the change with W' k\* = v\* that disturbs other keys least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuronwise.data import Corpus, Fact
from neuronwise.edit._changes import LowRank, digest
from neuronwise.edit._contexts import resolve_prefixes
from neuronwise.edit._slots import known_site
from neuronwise.edit._target import Optimisation, find_target, read_at, spots
from neuronwise.edit.covariance import key_covariance
from neuronwise.edit.patch import Patch
from neuronwise.edit.value_slots import noted_facts
from neuronwise.errors import InvalidArgumentError, PatchError
from neuronwise.sites import Site

__all__ = ["rank_one_update", "rome"]


def rome(
    model: nn.Module,
    tokenizer: Any,
    fact: Fact,
    site: Site,
    *,
    covariance: Tensor | Corpus | Sequence[str],
    position: Literal["subject", "answer"] = "subject",
    prefixes: int | Sequence[str] = 20,
    prefix_tokens: int = 10,
    steps: int = 20,
    lr: float = 0.5,
    weight_decay: float = 0.5,
    clamp: float = 4.0,
    kl_factor: float = 0.0625,
    stop_loss: float = 0.05,
    ridge: float = 0.0,
    seed: int = 0,
) -> Patch:
    """Write a fact's new answer into one layer.

    The key is read at the last token of ``fact.subject`` in each of ``fact.prompts``; where the subject is empty or not
    in the prompt, or ``position="answer"``, at the last token of the prompt (masked language models: at the mask).
    Answers of several tokens are teacher-forced. Costs about ``steps`` forward and backward passes over the prompts and
    their prefixed copies.

    The defaults are the published ones for GPT-2 XL (which edits layer 17); small models need others, see the how-to
    page on editing.

    Args:
        model: A language model. It is not changed.
        tokenizer: Its tokenizer.
        fact: The fact, with ``new_answer``.
        site: The feed-forward layer: the input of its down projection, as :func:`neuronwise.find_sites` finds it.
        covariance: C, ``(neuron, neuron)``, from :func:`key_covariance`; or the corpus or texts to take it from.
            ``torch.eye(site.width)`` takes no account of other keys.
        position: ``"subject"``: its last token, as published; ``"answer"``: where the answer is predicted from.
        prefixes: Texts to put before the prompts, or how many to sample from the model (causal models only).
        prefix_tokens: Length of the sampled ones; shorter where prefix and prompt would not fit into the model.
        steps: Most steps of Adam for the value.
        lr: Its step size.
        weight_decay: Factor of ``|δ| / |v0|²`` in the loss.
        clamp: Longest change δ of the value, in lengths of the old value v0.
        kl_factor: Factor of the divergence on "{subject} is a".
        stop_loss: Stop when the loss is below this.
        ridge: Added to C's diagonal, in units of its mean; for a corpus with hardly more tokens than neurons.
        seed: Seed of the sampled prefixes.

    Returns:
        A :class:`Patch` with one low-rank change; its control is a random rank-one change of the same norm.

    Raises:
        InvalidArgumentError: If the fact has no new answer, or the covariance does not fit the site.
        PatchError: If C is singular, or the value's loss is not a number.
        DataError: If an answer or prompt cannot be encoded.
    """
    place = known_site(model, site)
    how = Optimisation(steps, lr, weight_decay, clamp, kl_factor, stop_loss)
    texts = resolve_prefixes(model, tokenizer, fact.prompts, prefixes, tokens=prefix_tokens, seed=seed)
    where = spots(model, tokenizer, fact, place, texts, essence=kl_factor > 0, position=position)
    spread = covariance_of(model, tokenizer, place, covariance, ridge)
    key = read_at(model, [place], where)[place][: where.asked].mean(0)
    target = find_target(model, where, output_of(model, place), how)
    left, right = _factors(target.delta, key, spread)
    return Patch.of(
        model,
        [low_rank(model, place, left, right)],
        "rome",
        parameters={
            "site": place.name,
            **how.noted(),
            "position": position,
            "prefixes": texts,
            "ridge": ridge,
            "seed": seed,
            "value": target.noted(),
        },
        facts=noted_facts(fact),
    )


def rank_one_update(weight: Tensor, key: Tensor, value: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of ROME's change, so that ``(weight + left @ right) @ key == value``.

    Args:
        weight: W, ``(out, in)``.
        key: k*, ``(in,)``.
        value: v*, ``(out,)``.
        covariance: C, ``(in, in)``.

    Returns:
        ``left`` ``(out, 1)`` and ``right`` ``(1, in)``, float64.

    Raises:
        PatchError: If C is singular.

    Example:
        >>> spread = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> left, right = rank_one_update(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), spread)
        >>> (torch.eye(2) + left @ right).round(decimals=9).tolist()
        [[0.0, 0.5], [1.0, 0.5]]
    """
    residual = value.double() - weight.double() @ key.double()
    return _factors(residual, key.double(), covariance.double())


def _factors(residual: Tensor, key: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    direction = solve(covariance, key[:, None])[:, 0]
    return residual[:, None], (direction / (direction @ key))[None]


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric positive definite system.

    Raises:
        PatchError: If the matrix is singular.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) or not bool(torch.isfinite(factor).all()):
        raise PatchError(
            f"The covariance of {len(matrix)} neurons is singular: the text it was taken from has too few different "
            "tokens. Use more text, or ridge=, such as 0.01."
        )
    return torch.cholesky_solve(right, factor)


def covariance_of(
    model: nn.Module, tokenizer: Any, site: Site, given: Tensor | Corpus | Sequence[str], ridge: float
) -> Tensor:
    """Return C in float64 with the ridge on its diagonal, taken from a corpus if that is what was given.

    Raises:
        InvalidArgumentError: If it does not fit the site.
    """
    if ridge < 0:
        raise InvalidArgumentError(f"ridge must be 0 or more, not {ridge}.")
    if not isinstance(given, Tensor):
        given = key_covariance(model, given, site, tokenizer=tokenizer)
    if given.shape != (site.width, site.width):
        raise InvalidArgumentError(
            f"The covariance has shape {tuple(given.shape)}; {site.name} has {site.width} neurons. Take it from the "
            "same site: key_covariance(model, corpus, site)."
        )
    spread = given.detach().double().cpu()
    return spread + ridge * spread.diagonal().mean() * torch.eye(site.width, dtype=torch.float64)


def output_of(model: nn.Module, site: Site) -> Site:
    """Return the site of what the down projection writes."""
    width = site.value_vectors(model).shape[1]
    return Site(site.path, "output", width=width, call=site.call)


def low_rank(model: nn.Module, site: Site, left: Tensor, right: Tensor) -> LowRank:
    """Return the change of a down projection ``(out, in)`` by ``left @ right``, in the weight's own orientation.

    Raises:
        InvalidArgumentError: If the site does not write through the whole of a matrix.
    """
    writes = site.writes
    assert writes is not None
    weight = model.get_parameter(writes.parameter)
    whole = weight.ndim == 2 and (writes.start, writes.stop) == (0, weight.shape[writes.axis])
    if not whole or not weight.is_floating_point():
        raise InvalidArgumentError(
            f"{writes.parameter} has shape {tuple(weight.shape)} and type {weight.dtype}; a rank-one change needs a "
            "floating-point matrix that only this site writes through."
        )
    factors = (left, right) if writes.axis == 1 else (right.T, left.T)
    return LowRank(writes.parameter, *factors, digest(weight))
