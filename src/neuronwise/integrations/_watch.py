"""What the callbacks of all libraries have in common: what is watched, when a step ends, figures, state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from neuronwise.errors import HookError, InvalidArgumentError
from neuronwise.train import Method, Monosemanticity, NeuronHealth

__all__ = ["Expect", "Watch"]

Expect = Callable[[Any], Mapping[str, Tensor]]
"""From a batch to what :meth:`Monosemanticity.expect` is told of it, such as ``{"labels": ...}``."""


class Watch:
    """Monosemanticity, neuron health or both, on the model of one run at a time.

    Args:
        sites: As :class:`Monosemanticity` takes them.
        method: As :class:`Monosemanticity` takes it.
        phi: Watch monosemanticity; a method needs it.
        health: Watch health too: True, or the settings of :class:`NeuronHealth`.
        per_site: Log the figures of each site, not only their means.
        expect: What is known of a batch.
        name: What the names of figures begin with.
        settings: Further arguments of :class:`Monosemanticity`.

    Raises:
        InvalidArgumentError: If nothing is to be watched, or a method has nothing to go by.
        TypeError: If a setting is unknown.
    """

    def __init__(
        self,
        sites: Any,
        method: str | Method | None,
        *,
        phi: bool,
        health: bool | Mapping[str, Any],
        per_site: bool,
        expect: Expect | None,
        name: str,
        settings: Mapping[str, Any],
    ) -> None:
        if not phi and (method is not None or settings):
            raise InvalidArgumentError("A method and its settings need phi=True.")
        if not phi and health is False:
            raise InvalidArgumentError("There is nothing to watch: phi and health are both False.")
        self._sites, self._method, self._settings = sites, method, dict(settings)
        self._phi, self._per_site = phi, per_site
        self._health = None if health is False else ({} if health is True else dict(health))
        # A wrong name shall be an error now, and not when training has begun.
        inspect.signature(Monosemanticity).bind(None, sites, method, **self._settings)
        if self._health is not None:
            inspect.signature(NeuronHealth).bind(None, sites, **self._health)
        self.expect, self.name = expect, name
        self.mono: Monosemanticity | None = None
        self.health: NeuronHealth | None = None
        self.running = False

    @property
    def has_loss(self) -> bool:
        """Whether the method works through a loss."""
        return (
            self.running
            and self.mono is not None
            and self.mono.method is not None
            and self.mono.method.has_loss
        )

    def start(self, model: nn.Module) -> None:
        """Watch a model from the beginning, and none that was watched before."""
        self.stop()
        # Health first, so that it sees what neurons do and not what a method puts in their place.
        health = None if self._health is None else NeuronHealth(model, self._sites, **self._health)
        mono = Monosemanticity(model, self._sites, self._method, **self._settings) if self._phi else None
        try:
            for part in (health, mono):
                if part is not None:
                    part.attach()
        except BaseException:
            if health is not None:
                health.detach()
            raise
        self.health, self.mono, self.running = health, mono, True

    def stop(self) -> None:
        """Take everything off the model. What was found stays."""
        self.running = False
        for part in (self.mono, self.health):
            if part is not None and part.is_attached:
                part.detach()

    def begin(self) -> None:
        """Begin a step: forward passes since the last one, such as those of a validation, do not count."""
        for part in self._parts:
            part.discard()

    def tell(self, batch: Any) -> None:
        """Say what is known of the next batch."""
        if self.expect is None or not self.running:
            return
        known = dict(self.expect(batch))
        if self.mono is not None:
            self.mono.expect(**known)
        if self.health is not None:
            self.health.expect(mask=known.get("mask"))

    def loss(self) -> Tensor:
        """Return the loss to add.

        Raises:
            HookError: If no monosemanticity is watched at present.
        """
        if self.mono is None or not self.running:
            raise HookError("There is no loss: monosemanticity is not watched, or no training is running.")
        return self.mono.loss()

    def step(self, stepped: bool) -> None:
        """End a step."""
        for part in self._parts:
            part.step(stepped)

    def figures(self) -> dict[str, float]:
        """Return what is to be logged: those figures that are known."""
        found: dict[str, float] = {}
        if self.mono is not None:
            found |= {
                f"{self.name}/{key}": value for key, value in self.mono.log().items() if self._told(key)
            }
        if self.health is not None:
            log = self.health.log()
            found |= {f"{self.name}/health/{key}": value for key, value in log.items() if self._told(key)}
        return {key: value for key, value in found.items() if math.isfinite(value)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, as tensors by name."""
        return {
            f"{name}.{key}": value
            for name, part in (("mono", self.mono), ("health", self.health))
            if part is not None
            for key, value in part.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state.

        Raises:
            InvalidArgumentError: If it is of something else.
        """
        for name, part in (("mono", self.mono), ("health", self.health)):
            if part is not None:
                start = f"{name}."
                part.load_state_dict(
                    {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
                )

    @property
    def _parts(self) -> list[Monosemanticity | NeuronHealth]:
        return [part for part in (self.mono, self.health) if part is not None] if self.running else []

    def _told(self, key: str) -> bool:
        return self._per_site or "/" not in key
