"""Log-probability increase: what a neuron's value does for the answer, added to the stream below its layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.attribute._readout import Readout, block_of, check_adds
from neuronwise.attribute.ablation import wanted_neurons
from neuronwise.attribute.direct import refuse_encoder
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.attribute.targets import LogProbability
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import capture
from neuronwise.sites import NeuronSet, Site

__all__ = ["LogProbabilityIncrease"]


@dataclass(frozen=True)
class LogProbabilityIncrease(Method):
    """``log p(y | z + (w_i - r_i) v_i) - log p(y | z)``, z the residual stream that the layer's neurons write to.

    p(y | z) is read from z by the final norm and the unembedding (Yu & Ananiadou 2024,
    https://arxiv.org/abs/2312.12141: "value neurons"). The stream z before the neurons is the block's output less what
    they write, which is so in pre-norm blocks only. No gradients; one unembedding a neuron, so preselect in large
    models. Only neurons at a position at which an answer's token is predicted count; elsewhere the score is 0.

    Args:
        among: Score these neurons only; the others get NaN.
        final_norm: Path of the norm before the unembedding, ``""`` if there is none; None looks it up in the table of
            architectures.

    Raises:
        InvalidArgumentError: If ``among`` is empty.
    """

    name: ClassVar[str] = "log_probability_increase"

    among: NeuronSet | None = None
    final_norm: str | None = None

    def __post_init__(self) -> None:
        if self.among is not None and not len(self.among):
            raise InvalidArgumentError("among holds no neuron, so there is nothing to score.")

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron, in nats.

        Raises:
            InvalidArgumentError: If the target is not the probability of an answer, or the model's blocks are not
                pre-norm ones.
            SiteNotFoundError: If it is not known which weight the neurons write through.
        """
        target = problem.target
        if not isinstance(target, LogProbability):
            raise InvalidArgumentError(
                "The target of a log-probability increase is LogProbability or Probability, not "
                f"{type(target).__name__}."
            )
        for site in problem.sites:
            refuse_encoder(problem, site)
            if block_of(problem.model, site) is None:
                raise InvalidArgumentError(
                    f"It is not known which block {site.name} is in, whose output is the residual stream. Name the "
                    "site with its stack and layer, or take another method."
                )
        readout = Readout(problem, self.final_norm)
        check_adds(problem, problem.sites, readout.width)
        found = {site: self._of_site(problem, readout, reference[site], site) for site in problem.sites}
        return Scores.plain(found)

    def _of_site(self, problem: Problem, readout: Readout, reference: Tensor, site: Site) -> Tensor:
        """Return the scores at one site, ``(example, position, neuron)``, float64."""
        below = _below(problem, readout, site)  # (example, position, width)
        vectors = site.value_vectors(problem.model).detach()
        wanted = wanted_neurons(self.among, site)
        moved = problem.activations[site] - reference
        scores = torch.zeros(moved.shape, dtype=torch.float64)
        scores[:, :, ~wanted] = torch.nan
        assert isinstance(problem.target, LogProbability)
        answers = problem.target.answers.cpu()
        here = readout.at_answers(site) & (answers >= 0).unsqueeze(1)
        vocabulary = readout.logits(below[:1, :1]).shape[-1]
        held = 4 * (vocabulary + 2 * readout.width) * max(below.element_size(), 4)
        chosen = wanted.nonzero()[:, 0]
        for example, position, token in here.nonzero().tolist():
            z, answer = below[example, position], int(answers[example, token])
            plain = _log_p(readout, z.unsqueeze(0), answer)
            for part in torch.split(chosen, max(1, problem.memory // held)):
                added = (
                    moved[example, position, part.to(moved.device)].unsqueeze(1)
                    * vectors[part.to(vectors.device)]
                )
                scores[example, position, part] += (_log_p(readout, z + added, answer) - plain).cpu()
        return scores


def _below(problem: Problem, readout: Readout, site: Site) -> Tensor:
    """Return the stream that a site's neurons write to, at the scored positions, ``(example, position, width)``."""
    block = Site(str(block_of(problem.model, site)), "output", width=readout.width)
    with torch.no_grad(), capture(problem.model, block, copy=True) as cap:
        problem.run()
    positions = problem.positions[site].clamp(min=0)
    rows = torch.arange(problem.count).unsqueeze(1)
    after: Tensor = cap[block][rows, positions]
    written = problem.activations[site] @ site.value_vectors(problem.model).detach()
    bias = getattr(site.module(problem.model), "bias", None) if site.tensor == "input" else None
    return after - written - (bias.detach() if isinstance(bias, Tensor) else 0.0)


def _log_p(readout: Readout, stream: Tensor, answer: int) -> Tensor:
    """Return the answer's log probability of every row ``(row, width)``, float64."""
    logits = readout.logits(stream)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits[:, answer] - logits.logsumexp(-1)).double()
