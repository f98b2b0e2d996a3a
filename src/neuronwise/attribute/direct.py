"""Direct logit attribution: what a neuron writes straight onto the answer's logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from neuronwise.attribute._readout import Readout, check_adds
from neuronwise.attribute.method import Method, Scores
from neuronwise.attribute.problem import Problem
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import Site

__all__ = ["DirectLogitAttribution", "refuse_encoder"]


@dataclass(frozen=True)
class DirectLogitAttribution(Method):
    """``(w_i - r_i) * <v_i through the final norm, u_y>``: what the neuron itself writes onto the answer's logit.

    The final norm has the scale that it has at that position, so the scores of all neurons, and what attention,
    embeddings and biases write, add up to the logit exactly (nostalgebraist 2020; Elhage et al. 2021). What later
    layers make of a neuron is left out: it answers "which neurons write the answer", not "which does it need". One
    forward pass. Only neurons at the position at which the answer is predicted write there; elsewhere the score is 0.

    Of a target :class:`LogProbability` or :class:`Probability` it is the answer's logit that is split up (the sum over
    its tokens), of :class:`LogitDifference` the difference.

    Args:
        final_norm: Path of the norm before the unembedding, ``""`` if there is none; None looks it up in the table of
            architectures.
    """

    name: ClassVar[str] = "direct_logit"

    final_norm: str | None = None

    def scores(self, problem: Problem, reference: Mapping[Site, Tensor]) -> Scores:
        """Return the scores of every neuron.

        Raises:
            InvalidArgumentError: If the model has no unembedding, or does not read it from the residual stream through
                one norm.
            SiteNotFoundError: If it is not known which weight the neurons write through.
        """
        for site in problem.sites:
            refuse_encoder(problem, site)
        readout = Readout(problem, self.final_norm)
        check_adds(problem, _without_norm(problem, readout), readout.width)
        found = {}
        for site, w in problem.activations.items():
            vectors = site.value_vectors(problem.model).detach().double()
            directions = readout.directions(site)
            if vectors.dim() != 2 or vectors.shape[1] != directions.shape[-1]:
                raise InvalidArgumentError(
                    f"{site.name} writes vectors of shape {tuple(vectors.shape[1:])}, the residual stream has "
                    f"{directions.shape[-1]} numbers."
                )
            gains = torch.einsum("nd,ead->ean", vectors, directions)
            here = readout.at_answers(site).to(gains)
            moved = w.double() - reference[site].double()
            found[site] = moved * torch.einsum("epa,ean->epn", here, gains)
        return Scores.plain(found)


def refuse_encoder(problem: Problem, site: Site) -> None:
    """Raise an error for a site of the encoder of an encoder-decoder.

    Raises:
        InvalidArgumentError: If it is one.
    """
    coded = getattr(getattr(problem.model, "config", None), "is_encoder_decoder", False)
    if coded and "encoder" in site.path.split("."):
        raise InvalidArgumentError(
            f"{site.name} is in the encoder, which does not write to the stream that the unembedding reads. Choose "
            "sites of the decoder, or another method."
        )


def _without_norm(problem: Problem, readout: Readout) -> list[Site]:
    """Return the last site of those that write to the stream without a norm of their own."""
    plain = [site for site in problem.sites if not readout.has_output_norm(site)]
    return plain[-1:]
