"""Health of neurons while a model trains: dead, saturated, duplicated and drifting ones, for next to nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.hooks import transform
from neuronwise.sites import NeuronSet, Site
from neuronwise.train._attached import Attached, not_reached, processes, sites_of
from neuronwise.train._health import FAINT, SiteHealth
from neuronwise.train._health_rows import Collector, Room
from neuronwise.train.method import positive, share_of

__all__ = ["Ailment", "NeuronHealth"]

Ailment = Literal["dead", "near_dead", "saturated", "duplicated", "drifting"]
"""What a neuron can suffer from."""

AILMENTS: tuple[Ailment, ...] = get_args(Ailment)


class NeuronHealth(Attached):
    """Find neurons that are dead, saturated, duplicated or drifting, while a model trains.

    Two lines in a training loop::

        health = NeuronHealth(model)
        with health.attached():                     # 1
            for batch in batches:
                ...
                optimizer.step()
                health.step()                       # 2
        health.to_frame()

    Every ``every`` steps, ``rows`` evenly spaced positions of the batch are looked at; ``window`` looks are one window,
    whose end brings figures. So it costs a small share of a step, and keeps a fixed number of values for each neuron.
    The model gets the very same tensors, and only forward passes in training mode are looked at.

    - *dead*: never moves, that is, is never away from its median by more than 0.001 of the layer's root mean variance;
      *near_dead*: moves on less than 2 % of the rows, or has less than 1e-4 of the layer's mean variance (the rule of
      :func:`neuronwise.observe.measures.liveness`).
    - *saturated*: lies within 1 % of the site's range from its upper end on 95 % of the rows; or from its lower end, in
      sites where at least 0.1 % of all activations lie at the upper one, as a rectifier's zero is no saturation.
    - *duplicated*: correlated with another live neuron of the site by 0.95 or more, of either sign; both are counted. A
      candidate is found by random-sign sketches of one window, and the pair's exact correlation is that of the next.
    - *drifting*: from one window to the next, its mean moved by half of its standard deviation or more, or its standard
      deviation by a factor of 1.65 (``exp(0.5)``).

    Args:
        model: The model, or a part of it; not a wrapper such as ``DistributedDataParallel``, but what is in it.
        sites: The sites, names of modules as :func:`find_sites` takes them, or None for those that it finds.
        every: Steps between two looks.
        window: Looks in a window.
        rows: Rows (examples and positions) in a look.
        sketch: Random-sign sums kept for each neuron.
        moves: Share of the rows on which a neuron must move not to be near_dead.
        saturation: Share of the rows at an end.
        duplicate: Correlation of a pair, without sign.
        drift: What counts as drifting.
        seed: Seed of the random signs.
        process_group: The processes to look over together; None for all.
        distributed: Share rows over processes where ``torch.distributed`` is initialised.

    Raises:
        SiteNotFoundError: If the model has no such sites.
        InvalidArgumentError: If an argument is not what it must be.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> with torch.no_grad():
        ...     _ = model[0].bias[3].fill_(-1e6)
        >>> health = NeuronHealth(model, Site("1", "output", width=8), every=1, window=4)
        >>> with health.attached():
        ...     for _ in range(4):
        ...         _ = model(torch.rand(64, 2))
        ...         health.step()
        >>> health.windows, (Site("1", "output", width=8), 3) in health.neurons("dead")
        (1, True)
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Site | Iterable[Site] | str | list[str] | None = None,
        *,
        every: int = 10,
        window: int = 20,
        rows: int = 256,
        sketch: int = 64,
        moves: float = 0.02,
        saturation: float = 0.95,
        duplicate: float = 0.95,
        drift: float = 0.5,
        seed: int = 0,
        process_group: Any = None,
        distributed: bool = True,
    ) -> None:
        for name, count in (("every", every), ("window", window), ("rows", rows), ("sketch", sketch)):
            if count < 1:
                raise InvalidArgumentError(f"{name} must be at least 1, not {count}.")
        for name, share in (("moves", moves), ("saturation", saturation), ("duplicate", duplicate)):
            share_of(name, share)
        positive("drift", drift)
        self.model = model
        self.sites = sites_of(model, sites)
        self._limits = {
            "near_dead": moves,
            "saturated": saturation,
            "duplicated": duplicate,
            "drifting": drift,
        }
        self._group, self._distributed = process_group, distributed
        settings = {"every": every, "window": window, "rows": rows, "seed": seed}
        self._room = Room(self.sites, sketch, settings)
        self._collector = Collector(model, self.sites, self._room)
        self._transform = transform(
            model, self.sites, self._collector.touch, on_start=self._collector.mask.begin
        )

    def __repr__(self) -> str:
        state = "attached" if self.is_attached else "not attached"
        return f"<NeuronHealth: {len(self.sites)} sites, {self.windows} windows, {state}>"

    @property
    def steps(self) -> int:
        """How many steps were counted."""
        return self._room.steps

    @property
    def windows(self) -> int:
        """How many windows are whole; figures are those of the last."""
        return self._room.looks // self._room.settings["window"]

    def expect(self, *, mask: Tensor | None = None) -> None:
        """Say what is known of the next batch; holds until :meth:`step` is called.

        Args:
            mask: True where a position is real, ``(example, position)``. An argument ``attention_mask`` of the model is
                found without this.
        """
        self._collector.mask.expect(mask)

    def step(self, stepped: bool = True) -> None:
        """End the step, and look at its rows if it is time. To be called after the optimiser's step.

        Args:
            stepped: Whether the optimiser did its step; one that a ``GradScaler`` skipped counts for nothing.

        Raises:
            SiteNotReachedError: If no forward pass in training mode came by any site in the first step, or by one of
                them in the first window.
        """
        room, collector = self._room, self._collector
        if not stepped:
            collector.discard()
            room.skipped += 1
            return
        if room.steps % room.settings["every"] == 0:
            self._look()
        room.steps += 1
        collector.discard()
        collector.looking = room.steps % room.settings["every"] == 0

    def log(self) -> dict[str, float]:
        """Return the shares of neurons that suffer from each ailment, of all and of each site as ``<ailment>/<site>``.

        Shares of neurons for which it is known; none before the first window (for ``drifting`` and ``duplicated`` the
        second) is whole. ``skipped`` counts rows with NaN or infinity. Reading them waits for a GPU.
        """
        figures = {
            "windows": float(self.windows),
            "skipped": float(sum(int(state.skipped) for state in self._room.of.values())),
        }
        for ailment in AILMENTS:
            known = {name: self._suffer(state, ailment) for name, state in self._room.of.items()}
            known = {name: found for name, found in known.items() if len(found)}
            figures |= {f"{ailment}/{name}": float(found.mean()) for name, found in known.items()}
            if known:
                figures[ailment] = float(torch.cat(list(known.values())).mean())
        return figures

    def to_frame(self) -> pd.DataFrame:
        """Return one row a neuron, of the last whole window.

        Columns: ``site``, ``layer``, ``neuron``; ``mean`` and ``sd``; ``moves`` (share of rows); ``at_end`` (share of
        rows at an end of the range); ``partner`` (-1 for none) and ``correlation`` with it; ``drift``; and a column for
        each ailment, False where it is not known. Empty before the first window is whole.
        """
        frames = []
        for site, state in zip(self.sites, self._room.of.values(), strict=True):
            values = {
                "mean": state.mean,
                "sd": state.variance.sqrt(),
                "moves": state.moves,
                "at_end": state.end,
                "partner": state.partner,
                "correlation": state.correlation,
                "drift": state.drift,
            } | {ailment: self._signs(state, ailment) == 1 for ailment in AILMENTS}
            columns = {name: value.cpu().numpy() for name, value in values.items()}
            frames.append(
                pd.DataFrame({"site": site.name, "layer": site.layer, "neuron": range(site.width), **columns})
            )
        whole = pd.concat(frames, ignore_index=True)
        return whole if self.windows else whole.iloc[:0]

    def neurons(self, ailment: Ailment) -> NeuronSet:
        """Return the neurons that suffer from an ailment, by the last whole window.

        Raises:
            InvalidArgumentError: If the ailment is unknown.
        """
        if ailment not in AILMENTS:
            raise InvalidArgumentError(f"ailment must be one of {', '.join(AILMENTS)}, not {ailment!r}.")
        signs = {
            site: (self._signs(state, ailment) == 1).cpu().numpy()
            for site, state in zip(self.sites, self._room.of.values(), strict=True)
        }
        return NeuronSet.of(signs)

    def discard(self) -> None:
        """Forget the forward passes since the last step, as if they had not been."""
        self._collector.discard()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors by name; take it between two steps."""
        return dict(self._room.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            InvalidArgumentError: If it is of other sites, widths or settings.
        """
        self._room.check(state)
        self._room.load_state_dict(dict(state))
        self._collector.looking = self.steps % self._room.settings["every"] == 0
        self.discard()

    def _move(self, device: torch.device) -> None:
        self._room.to(device)

    def _suffer(self, state: SiteHealth, ailment: Ailment) -> Tensor:
        """Return 1 for every neuron that suffers, and 0 for those that do not; without those where it is not known."""
        signs = self._signs(state, ailment)
        return signs[~torch.isnan(signs)]

    def _signs(self, state: SiteHealth, ailment: Ailment) -> Tensor:
        """Return 1 or 0 for every neuron, NaN where it is not known."""
        if ailment == "dead":
            found, value = state.moves == 0, state.moves
        elif ailment == "near_dead":
            few = (state.moves < self._limits[ailment]) | (state.variance < FAINT * state.variance.mean())
            found, value = (state.moves > 0) & few, state.moves
        elif ailment == "saturated":
            found, value = state.end >= self._limits[ailment], state.end
        elif ailment == "duplicated":
            # Without a candidate a neuron has no duplicate: it is known once a second window is whole.
            found = state.correlation.abs() >= self._limits[ailment]
            value = torch.where(torch.full_like(found, self.windows > 1), state.moves, torch.nan)
        else:
            found, value = state.drift >= self._limits[ailment], state.drift
        return torch.where(torch.isnan(value), torch.nan, found.to(value.dtype))

    def _look(self) -> None:
        room, collector = self._room, self._collector
        reached = {name for name, pieces in collector.pending.items() if pieces}
        if not room.looks and not reached:
            raise not_reached(self.sites, "in the first step")
        room.missed -= reached
        window = room.settings["window"]
        first, last = room.looks % window == 0, (room.looks + 1) % window == 0
        if last and room.missed:
            raise not_reached(
                [site for site in self.sites if site.name in room.missed], "in the first window"
            )
        world = processes(self._group, self._distributed)
        each = -(-room.settings["rows"] // world)
        for name, state in room.of.items():
            rows, real = collector.rows_of(name, each, fill=world > 1)
            if world > 1:
                rows, real = (self._gathered(part, world) for part in (rows, real))
            signs = room.draw(len(rows), rows.device)
            state.look(rows, real, signs, first=first)
            if last:
                state.finish()
        room.looks += 1
        room.turn.add_(7919)  # a prime step: no fixed positions of a sequence

    def _gathered(self, part: Tensor, world: int) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(world)]
        torch.distributed.all_gather(parts, part.contiguous(), group=self._group)
        return torch.cat(parts)
