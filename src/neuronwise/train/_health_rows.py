"""Rows of activations that the health of neurons is judged by, and what is kept of them between steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.statistics import Exact, Layout
from neuronwise.sites import Site, Sites
from neuronwise.train._attached import Mask, batch_axis
from neuronwise.train._health import SiteHealth

__all__ = ["Collector", "Room"]

PASSES = 8  # forward passes of a step that are looked at, at most


class Room(Exact):
    """The states of all sites, to be saved and loaded."""

    turn: Tensor

    def __init__(self, sites: Sites, sketch: int, settings: Mapping[str, int]) -> None:
        super().__init__()
        self.states = nn.ModuleList(SiteHealth(site.width, sketch=sketch) for site in sites)
        self.settings = dict(settings)
        self._sites = {site.name: site.width for site in sites}
        self._sketch = sketch
        self.steps = self.looks = self.skipped = 0
        self.missed = set(self._sites)
        #: Where in a batch the rows begin, ``()``.
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    @property
    def of(self) -> dict[str, SiteHealth]:
        """The states by the sites' names."""
        return dict(zip(self._sites, self.states, strict=True))  # type: ignore[arg-type]

    def draw(self, rows: int, device: torch.device) -> Tensor:
        """Return the random signs of this look, the same in every process, ``(row, sketch)``."""
        seed = (self.settings["seed"] * 1_000_003 + self.looks) % (1 << 62)
        generator = torch.Generator(device).manual_seed(seed)
        drawn = torch.randint(0, 2, (rows, self._sketch), generator=generator, device=device)
        return drawn.to(torch.float32) * 2 - 1

    def get_extra_state(self) -> Tensor:
        """Return what is no tensor, as JSON in bytes."""
        about = self._about() | {
            "steps": self.steps,
            "looks": self.looks,
            "skipped": self.skipped,
            "missed": sorted(self.missed),
        }
        return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the counts."""
        about = json.loads(bytes(state.tolist()))
        self.steps, self.looks, self.skipped = (about[name] for name in ("steps", "looks", "skipped"))
        self.missed = set(about["missed"])

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise an error if a saved state is of other sites or settings.

        Raises:
            InvalidArgumentError: If it is.
        """
        saved = state.get("_extra_state")
        if not isinstance(saved, Tensor):
            raise InvalidArgumentError("This is no state of a NeuronHealth: it does not say what it is of.")
        about = json.loads(bytes(saved.tolist()))
        for what, mine in self._about().items():
            if about.get(what) != mine:
                raise InvalidArgumentError(
                    f"The saved state has {what} {about.get(what)!r}, this has {mine!r}. Make it with the same model, "
                    "sites and settings."
                )

    def _about(self) -> dict[str, Any]:
        return {"sites": self._sites, "sketch": self._sketch, "settings": self.settings}


class Collector:
    """What the hooks hold: rows of the present step."""

    def __init__(self, model: nn.Module, sites: Sites, room: Room) -> None:
        self.mask = Mask()
        self.looking = True
        self.pending: dict[str, list[tuple[Tensor, Tensor]]] = {site.name: [] for site in sites}
        self._room = room
        self._modules = {site.name: site.module(model) for site in sites}
        self._layouts = {
            site.name: Layout(site.name, site.width, site.axis, batch_axis(site, model), "feature")
            for site in sites
        }

    def touch(self, site: Site, tensor: Tensor, given: Tensor | None, again: bool) -> Tensor:
        """Keep some rows, and return the very same tensor."""
        name = site.name
        pieces = self.pending[name]
        if self.looking and not again and self._modules[name].training and len(pieces) < PASSES:
            pieces.append(self._some(tensor.detach(), name))
        return tensor

    def _some(self, tensor: Tensor, name: str) -> tuple[Tensor, Tensor]:
        layout = self._layouts[name]
        before, after = layout.around(tuple(tensor.shape))
        four = layout.four(tensor)
        length = four.shape[0] * before * after
        wanted = min(length, self._room.settings["rows"])
        even = torch.arange(wanted, device=tensor.device) * length // max(1, wanted)
        place = (even + self._room.turn) % max(1, length)
        example, position, behind = place // (before * after), place // after % before, place % after
        rows = four[example, position, :, behind]
        real = layout.mask(tensor, self.mask.of(tensor, layout))
        if real is None:
            return rows, torch.ones(wanted, dtype=torch.bool, device=tensor.device)
        return rows, real[example, position, 0, behind]

    def rows_of(self, name: str, wanted: int, *, fill: bool) -> tuple[Tensor, Tensor]:
        """Return at most so many rows of the step, or exactly as many, and which are real."""
        state, pieces = self._room.of[name], self.pending[name]
        if pieces and pieces[0][0].device != state.mean.device:
            state.to(pieces[0][0].device)
        device = state.mean.device
        if not pieces:
            none = torch.zeros(1, dtype=torch.bool, device=device)
            pieces = [(state.mean.new_zeros(1, len(state.mean)), none)]
        rows = torch.cat([piece.to(device, state.mean.dtype) for piece, _ in pieces])
        real = torch.cat([piece.to(device) for _, piece in pieces])
        if len(rows) > wanted:
            chosen = torch.arange(wanted, device=device) * len(rows) // wanted
            return rows[chosen], real[chosen]
        if fill and len(rows) < wanted:
            lacking = wanted - len(rows)
            rows = torch.cat([rows, rows.new_zeros(lacking, rows.shape[1])])
            real = torch.cat([real, real.new_zeros(lacking)])
        return rows, real

    def discard(self) -> None:
        """Forget the rows, and what is known of the batch."""
        for pieces in self.pending.values():
            pieces.clear()
        self.mask.forget()
