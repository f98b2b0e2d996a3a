"""The examples that drive every neuron highest and lowest, with the tokens around the peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.activations import Activations
from neuronwise.observe.reducer import Reducer

__all__ = ["TopExamples"]

_NO_EXAMPLE = 2**62
_NO_TOKEN = -1


class TopExamples(Reducer):
    """The k examples with the highest and the k with the lowest peak activation of every neuron.

    An example counts once, at its peak (the first of equal ones), so that one long text cannot fill the list; once a
    call, where a module runs several times in a pass and the site does not say which call it means. Equal
    values rank by the example's number, lower first: the outcome is the same, exactly, however the stream is split.

    Tables: ``examples`` (``neuron``, ``side``, ``rank``, ``value``, ``example``, ``position``) and, where there are
    tokens, ``contexts`` (``neuron``, ``side``, ``rank``, ``offset``, ``token_id``, ``value``): the activations on the
    tokens around the peak.

    Args:
        k: Examples a side.
        bottom: Keep the lowest as well.
        context: Tokens kept on either side of the peak.

    Raises:
        InvalidArgumentError: If ``k`` is less than 1 or ``context`` negative.
    """

    name: ClassVar[str] = "examples"

    def __init__(self, k: int = 20, *, bottom: bool = True, context: int = 10) -> None:
        if k < 1 or context < 0:
            raise InvalidArgumentError(
                f"k must be at least 1 and context at least 0; got k={k}, context={context}."
            )
        self.k = k
        self.bottom = bottom
        self.context = context
        self._sides = self._empty()

    def fresh(self) -> Self:
        """Return an empty reducer with the same settings."""
        new = super().fresh()
        new._sides = new._empty()
        return new

    @property
    def started(self) -> bool:
        """Whether it has seen any activations."""
        return self._sides["top"].started

    def update(self, activations: Activations) -> None:
        """Take in one batch."""
        for ranking in self._sides.values():
            ranking.update(activations)

    def merge(self, other: Self) -> None:
        """Take in what another has seen."""
        for side, ranking in self._sides.items():
            ranking.merge(other._sides[side])

    def result(self) -> Mapping[str, pd.DataFrame]:
        """Return the examples and their contexts."""
        if not self.started:
            return {}
        examples, contexts = zip(*(r.frames(side) for side, r in self._sides.items()), strict=True)
        tables = {"examples": pd.concat(examples, ignore_index=True)}
        if any(len(frame) for frame in contexts):
            tables["contexts"] = pd.concat(contexts, ignore_index=True)
        return tables

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        return {f"{side}.{key}": t for side, r in self._sides.items() for key, t in r.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        for side, ranking in self._sides.items():
            ranking.load_state_dict(
                {k.removeprefix(f"{side}."): t for k, t in state.items() if k.startswith(f"{side}.")}
            )

    def _empty(self) -> dict[str, _Ranking]:
        sides = {"top": 1.0, "bottom": -1.0} if self.bottom else {"top": 1.0}
        return {side: _Ranking(self.k, sign, self.context) for side, sign in sides.items()}


class _Ranking:
    """The k best examples of every neuron by ``sign * activation``.

    Every array is ``(k, neuron)``, best first; places not yet filled hold -inf and ``_NO_EXAMPLE``, which rank last.
    """

    def __init__(self, k: int, sign: float, context: int) -> None:
        self.k = k
        self.sign = sign
        self.context = context
        self.started = False
        self._state: dict[str, Tensor] = {}

    def update(self, activations: Activations) -> None:
        peaks = activations.highest if self.sign > 0 else -activations.lowest  # (batch, neuron), -inf if none
        examples = activations.batch.examples.to(peaks.device)
        self._allocate(peaks, has_context=activations.token_ids is not None)
        worst, worst_example = self._state["value"][-1], self._state["example"][-1]
        better = (peaks > worst) | ((peaks == worst) & (examples.unsqueeze(1) < worst_example))
        better &= peaks > -torch.inf
        columns = better.any(0).nonzero()[:, 0]
        if not len(columns):
            return
        new = self._candidates(activations, peaks, examples, columns, better)
        self._absorb(columns, new)

    def merge(self, other: _Ranking) -> None:
        if not other.started:
            return
        if not self.started:
            self.started, self._state = True, other._state
            return
        for key in other._state.keys() - self._state.keys():  # one of them has seen no tokens yet
            self._state[key] = _blank(key, self._state["value"].shape, self._window, other._state[key])
        columns = torch.arange(self._state["value"].shape[1], device=self._state["value"].device)
        theirs = {
            key: other._state.get(key, _blank(key, self._state["value"].shape, self._window, own))
            for key, own in self._state.items()
        }
        self._absorb(columns, theirs)

    def frames(self, side: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        state = {key: value.cpu().numpy() for key, value in self._state.items()}
        filled = state["example"] != _NO_EXAMPLE
        neuron, rank = (place.T for place in np.nonzero(filled.T))
        examples = pd.DataFrame(
            {
                "neuron": neuron,
                "side": side,
                "rank": rank,
                "value": self.sign * state["value"][rank, neuron],
                "example": state["example"][rank, neuron],
                "position": state["position"][rank, neuron],
            }
        )
        if "tokens" not in state:
            return examples, pd.DataFrame()
        tokens = state["tokens"][rank, neuron]  # (entry, window)
        entry, place = np.nonzero(tokens != _NO_TOKEN)
        contexts = pd.DataFrame(
            {
                "neuron": neuron[entry],
                "side": side,
                "rank": rank[entry],
                "offset": place - self.context,
                "token_id": tokens[entry, place],
                "value": state["around"][rank, neuron][entry, place],
            }
        )
        return examples, contexts

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._state = dict(state)
        self.started = bool(state)

    @property
    def _window(self) -> int:
        return 2 * self.context + 1

    def _allocate(self, peaks: Tensor, *, has_context: bool) -> None:
        shape = (self.k, peaks.shape[1])
        keys = ["value", "example", "position", *(("tokens", "around") if has_context else ())]
        for key in keys:
            if key not in self._state:
                self._state[key] = _blank(key, shape, self._window, peaks)
        self.started = True

    def _candidates(
        self, activations: Activations, peaks: Tensor, examples: Tensor, columns: Tensor, better: Tensor
    ) -> dict[str, Tensor]:
        """Return the batch's entries for some neurons, ``(batch, column)``; those that cannot enter rank last."""
        better = better[:, columns]
        value = torch.where(better, peaks[:, columns], -torch.inf)
        shape = value.shape
        new = {
            "value": value,
            "example": torch.where(better, examples.unsqueeze(1), _NO_EXAMPLE),
            "position": _blank("position", shape, 1, peaks),
        }
        row, place = better.nonzero(as_tuple=True)
        series = self.sign * activations.values[row, :, columns[place]]  # (entry, position)
        series = torch.where(torch.isfinite(series), series, -torch.inf)
        real = (
            activations.mask[row]
            if activations.mask is not None
            else torch.ones_like(series, dtype=torch.bool)
        )
        position = torch.where(real, series, -torch.inf).argmax(1)
        new["position"][row, place] = position.to(torch.int32)
        tokens = activations.token_ids
        if "tokens" in self._state:
            new["tokens"] = _blank("tokens", shape, self._window, peaks)
            new["around"] = _blank("around", shape, self._window, peaks)
        if tokens is not None and "tokens" in self._state:
            offsets = torch.arange(-self.context, self.context + 1, device=position.device)
            where = position.unsqueeze(1) + offsets  # (entry, window)
            inside = (where >= 0) & (where < series.shape[1])
            where = where.clamp(0, series.shape[1] - 1)
            inside &= real.gather(1, where)
            ids = tokens[row].gather(1, where).to(torch.int32)
            new["tokens"][row, place] = torch.where(inside, ids, _NO_TOKEN)
            raw = activations.values[row, :, columns[place]].gather(1, where).float()
            new["around"][row, place] = torch.where(inside, raw, 0.0)
        return new

    def _absorb(self, columns: Tensor, new: dict[str, Tensor]) -> None:
        """Merge entries ``(entry, column)`` of some neurons into the state: order by value, then by example."""
        joined = {
            key: torch.cat([own[:, columns], new[key].to(own.dtype)]) for key, own in self._state.items()
        }
        order = torch.sort(joined["example"], dim=0, stable=True).indices
        by_value = torch.sort(joined["value"].gather(0, order), dim=0, descending=True, stable=True).indices
        best = order.gather(0, by_value)[: self.k]
        for key, values in joined.items():
            index = best if values.dim() == 2 else best.unsqueeze(-1).expand(*best.shape, values.shape[-1])
            self._state[key][:, columns] = values.gather(0, index)


def _blank(key: str, shape: tuple[int, ...] | torch.Size, window: int, like: Tensor) -> Tensor:
    """Return an array of entries that rank last."""
    device = like.device
    match key:
        case "value":
            return torch.full(tuple(shape), -torch.inf, dtype=like.dtype, device=device)
        case "example":
            return torch.full(tuple(shape), _NO_EXAMPLE, dtype=torch.int64, device=device)
        case "position":
            return torch.zeros(tuple(shape), dtype=torch.int32, device=device)
        case "tokens":
            return torch.full((*shape, window), _NO_TOKEN, dtype=torch.int32, device=device)
        case _:
            return torch.zeros((*shape, window), dtype=torch.float32, device=device)
