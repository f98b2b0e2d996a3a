"""How a model reads its logits from the residual stream: final norm, projection, scale, unembedding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from neuronwise.attribute.problem import Problem
from neuronwise.attribute.targets import LogitDifference, LogProbability
from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import capture, intervene
from neuronwise.sites import Site, unembedding_layer
from neuronwise.sites.architectures import Match, match_families

__all__ = ["Readout", "block_of", "check_adds"]

_CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(frozen=True)
class _FittedNorm:
    """A norm as the linear map that it is at the scale of a run: ``out - bias = weight * centred(in) * scale``."""

    weight: Tensor  # (width,)
    scale: Tensor  # (example, token)
    centred: bool

    def pulled(self, directions: Tensor) -> Tensor:
        """Return directions ``(example, token, width)`` of the norm's output as directions of its input."""
        before = directions * self.weight * self.scale.unsqueeze(-1)
        return before - before.mean(-1, keepdim=True) if self.centred else before


class Readout:
    """From the residual stream to the logits, at the positions at which the answers are predicted.

    Args:
        problem: The problem; its target is one of answers.
        final_norm: Path of the norm before the unembedding, ``""`` for none; None looks it up in the table of
            architectures.

    Raises:
        InvalidArgumentError: If there is no unembedding, or the logits are not read in this way.
    """

    def __init__(self, problem: Problem, final_norm: str | None) -> None:
        model = problem.model
        if not isinstance(problem.target, LogProbability | LogitDifference):
            raise InvalidArgumentError(
                "This method reads logits of answers: the target must be LogProbability, Probability or "
                f"LogitDifference, not {type(problem.target).__name__}."
            )
        head = unembedding_layer(model)
        if head is None:
            raise InvalidArgumentError(
                f"{type(model).__name__} has no unembedding: neither it nor a module inside it gives one by "
                "get_output_embeddings(). Load the model with its language-model head, or take another method, such "
                "as integrated_gradients."
            )
        self._problem = problem
        self._head = head
        self._matches = {match.path: match for match in match_families(model)}
        self._match = self._matches.get(problem.sites[-1].path)
        self._norm_path = self._find_norm() if final_norm is None else final_norm
        self._norm = model.get_submodule(self._norm_path) if self._norm_path else nn.Identity()
        self._project = self._projection()
        assert problem.target.positions is not None
        self.target_positions = problem.target.positions
        self._read()

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return int(self._stream.shape[-1])

    def _find_norm(self) -> str:
        if self._match is None or self._match.family.final_norm is None:
            raise InvalidArgumentError(
                f"It is not known which norm of {type(self._problem.model).__name__} is read by its unembedding (a "
                "post-norm model such as BERT has none of that kind). Name it with final_norm='path', or '' if there "
                "is none; or take gradient_x_activation or integrated_gradients."
            )
        path = self._match.sibling(self._match.family.final_norm)
        if path not in dict(self._problem.model.named_modules()):
            raise InvalidArgumentError(
                f"The model has no final norm {path!r}. Name it with final_norm='path'."
            )
        return path

    def _projection(self) -> nn.Module:
        pattern = None if self._match is None else self._match.family.project_out
        modules = dict(self._problem.model.named_modules())
        return (
            nn.Identity()
            if self._match is None or pattern is None
            else modules.get(self._match.sibling(pattern), nn.Identity())
        )

    def _read(self) -> None:
        """Run once; learn the stream before the norm, and the factor between the projection and the unembedding."""
        problem = self._problem
        model = problem.model
        problem.value  # noqa: B018 - see whether the batch fits the target
        head_path = next(path for path, module in model.named_modules() if module is self._head)
        entering = Site(head_path, "input", width=int(self._head.get_parameter("weight").shape[1]))
        with torch.no_grad(), ExitStack() as stack:
            cap = stack.enter_context(capture(model, entering))
            norm = None
            if self._norm_path:
                width = int(self._norm.get_parameter("weight").shape[0])
                norm = stack.enter_context(capture(model, Site(self._norm_path, "input", width=width)))
            problem.run()
        entered = self._at_targets(cap[entering])
        self._stream = entered if norm is None else self._at_targets(next(iter(norm.values())))
        with torch.no_grad():
            through = self._project(self._norm(self._stream))
        if through.shape != entered.shape:
            raise self._unknown()
        self._factor = _ratio(through, entered)
        if not _equal(self._factor * through, entered):
            raise self._unknown()

    def _at_targets(self, tensor: Tensor) -> Tensor:
        """Return the rows at the positions at which answers are predicted, ``(example, token, width)``."""
        wanted = self.target_positions.to(tensor.device).clamp(min=0)
        if tensor.dim() != 3 or int(wanted.max()) >= tensor.shape[1]:
            raise self._unknown()
        return tensor[torch.arange(len(wanted), device=tensor.device).unsqueeze(1), wanted]

    def _unknown(self) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"The unembedding of {type(self._problem.model).__name__} does not read the output of "
            f"{self._norm_path or 'its last block'!r}: the model transforms its hidden state in between, and not "
            "linearly. Take gradient_x_activation or integrated_gradients."
        )

    def directions(self, site: Site) -> Tensor:
        """Return what of a value vector counts for the answer, ``(example, token, width)``, float64.

        The inner product with a value vector is what it adds to the answer's logit (less the other's, for a
        difference), with the norms at the scale that they have.
        """
        weight = self._head.get_parameter("weight").detach()
        target = self._problem.target
        assert isinstance(target, LogProbability | LogitDifference)
        ids = target.answers.to(weight.device)
        rows = weight[ids.clamp(min=0)].double()
        if isinstance(target, LogitDifference):
            rows = rows[:, :1] - rows[:, 1:]
        else:
            rows = rows * (ids >= 0).unsqueeze(-1)
        rows = rows * self._factor
        if not isinstance(self._project, nn.Identity):
            rows = rows @ self._project.get_parameter("weight").detach().double()
        if self._norm_path:
            rows = self._final.pulled(rows)
        if self.has_output_norm(site):
            rows = self._output_norm(self._matches[site.path]).pulled(rows)
        return rows

    def has_output_norm(self, site: Site) -> bool:
        """Return whether a norm stands between a site's down projection and the stream."""
        match = self._matches.get(site.path)
        return match is not None and match.family.output_norm is not None

    @cached_property
    def _final(self) -> _FittedNorm:
        with torch.no_grad():
            return self._fitted(self._norm, self._stream, self._norm(self._stream), self._match)

    def _output_norm(self, match: Match) -> _FittedNorm:
        """Return the norm between a down projection and the stream, fitted."""
        path = match.sibling(str(match.family.output_norm))
        norm = self._problem.model.get_submodule(path)
        site = Site(path, "input", width=int(norm.get_parameter("weight").shape[0]))
        with torch.no_grad(), capture(self._problem.model, site) as cap:
            self._problem.run()
        before = self._at_targets(cap[site])
        with torch.no_grad():
            return self._fitted(norm, before, norm(before), match)

    def _fitted(self, norm: nn.Module, before: Tensor, after: Tensor, match: Match | None) -> _FittedNorm:
        weight = norm.get_parameter("weight").detach().double()
        bias = getattr(norm, "bias", None)
        centred = isinstance(norm, nn.LayerNorm)
        if match is not None:
            weight, centred = weight + match.family.norm_offset, centred or match.family.norm_centred
        x, y = before.double(), after.double() - (bias.detach().double() if isinstance(bias, Tensor) else 0.0)
        plain = (x - x.mean(-1, keepdim=True) if centred else x) * weight
        scale = (plain * y).sum(-1) / (plain * plain).sum(-1).clamp(min=1e-300)
        if not _equal((plain * scale.unsqueeze(-1)).to(after.dtype), y.to(after.dtype)):
            raise InvalidArgumentError(
                f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm, whose scale could be held fixed. Take "
                "gradient_x_activation or integrated_gradients."
            )
        return _FittedNorm(weight, scale, centred)

    def logits(self, stream: Tensor) -> Tensor:
        """Return the logits of states of the residual stream, ``(..., width)`` to ``(..., token)``."""
        with torch.no_grad():
            found: Tensor = self._head(self._project(self._norm(stream)) * self._factor.to(stream))
        return found

    @property
    def stream(self) -> Tensor:
        """The residual stream before the final norm at the positions of the answers, ``(example, token, width)``."""
        return self._stream

    def at_answers(self, site: Site) -> Tensor:
        """Return where a scored position is one that predicts an answer's token, ``(example, position, token)``."""
        where = self._problem.positions[site].unsqueeze(-1)
        return (where == self.target_positions.cpu().unsqueeze(1)) & (where >= 0)


def block_of(model: nn.Module, site: Site) -> str | None:
    """Return the path of the block of a site, whose output is the residual stream, or None if it is not known."""
    if site.layer is None or not site.stack:
        return None
    path = f"{site.stack}.{site.layer}"
    known = f"{site.path}.".startswith(f"{path}.") and path in dict(model.named_modules())
    return path if known else None


def check_adds(problem: Problem, sites: Sequence[Site], width: int) -> None:
    """Raise an error if a block does not add its neurons' value vectors to the residual stream, and nothing else.

    Raises:
        InvalidArgumentError: If it does not: the block is a post-norm one, say, or scales what it adds.
    """
    for site in sites:
        path = block_of(problem.model, site)
        if path is None:
            continue
        block = Site(path, "output", width=width)
        states = []
        for factor in (1.0, 0.0):
            with torch.no_grad(), intervene(problem.model, site, "scale", factor):
                with capture(problem.model, (block, site), copy=True, stop=False) as cap:
                    problem.run(torch.tensor([0]))
                states.append((cap[block], cap[site]))
        written = states[0][1].double() @ site.value_vectors(problem.model).detach().double()
        if not _equal(states[0][0].double(), states[1][0].double() + written, dtype=states[0][0].dtype):
            raise InvalidArgumentError(
                f"The block {path!r} does not add what its neurons write to the residual stream as it is: it is of the "
                "post-norm kind (BERT), or scales it. Take gradient_x_activation or integrated_gradients."
            )


def _ratio(one: Tensor, two: Tensor) -> Tensor:
    """Return the number that turns one tensor into the other, as well as one can."""
    a, b = one.double(), two.double()
    return (a * b).sum() / (a * a).sum().clamp(min=1e-300)


def _equal(one: Tensor, two: Tensor, *, dtype: torch.dtype | None = None) -> bool:
    close = _CLOSE.get(dtype or two.dtype, 5e-2)
    scale = float(two.abs().max()) if two.numel() else 0.0
    return bool((one.double() - two.double()).abs().max() <= close * scale + 1e-30)
