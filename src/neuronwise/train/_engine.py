"""What happens at the sites: the part of a monosemanticity run that the hooks hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe.statistics import Exact
from neuronwise.sites import Site
from neuronwise.train._attached import Mask
from neuronwise.train._rules import add_loss, announce
from neuronwise.train._state import SiteState
from neuronwise.train._statistics import StepStatistics
from neuronwise.train.controller import Controller, ControlState
from neuronwise.train.method import Method
from neuronwise.train.view import View

__all__ = ["Engine"]


class Engine(Exact):
    """Statistics and state of all sites, and what is done when the model comes by one.

    It holds nothing of the object that owns it, so that the end of that object can end the hooks.

    Args:
        modules: The modules of the sites, by the sites' names.
        states: The sites' states, in the same order.
        method: What is done; None only watches.
        start: Steps of warm-up.
        seed: Seed of random choices.
    """

    scale: Tensor

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        states: Sequence[SiteState],
        method: Method | None,
        *,
        start: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.states = nn.ModuleList(states)
        self.control = ControlState(method) if isinstance(method, Controller) else None
        #: The gradient that the sum of losses got, for those computed again in the backward pass.
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.method, self.start, self.seed = method, start, seed
        self.steps = 0
        self.skipped = 0
        self.taken = False
        # In a dict, so that they are not modules of this module.
        self._modules_of = dict(modules)
        self._state_of = dict(zip(modules, states, strict=True))
        self._losses: dict[str, list[Tensor]] = {name: [] for name in modules}
        self._weights: dict[str, float] = {}
        self._deferred = dict.fromkeys(modules, False)
        self._labels: Tensor | None = None
        self._embeddings: Tensor | None = None
        self._mask = Mask()
        self._classes = 0

    def expect(self, labels: Tensor | None, embeddings: Tensor | None, mask: Tensor | None) -> None:
        """Say what is known of the batch whose forward pass comes next."""
        self._labels, self._embeddings = labels, embeddings
        self._mask.expect(mask)
        method = None if self.method is None else self.method.acting
        if labels is not None and method is not None and "labels" in method.needs:
            # At least two, so that there is something to compare.
            wanted = getattr(method, "classes", None)
            self._classes = wanted or max(2, self._classes, int(labels.max()) + 1)

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look for a mask among the model's arguments."""
        self._mask.begin(args, kwargs)

    def touch(self, site: Site, tensor: Tensor, given: Tensor | None, again: bool) -> Tensor:
        """Do what is to be done with one tensor of a site."""
        name, method = site.name, self.method
        training = self._modules_of[name].training
        always = method is not None and method.always
        if not training and not always:
            return tensor
        state = self._state_of[name]
        if state.threshold.device != tensor.device:
            state.to(tensor.device)
        with torch.autocast(tensor.device.type, enabled=False):
            if always:
                tensor = self._replaced(self._view(site, tensor, given, state, again))
            if not training:
                return tensor
            mask = self._mask.of(tensor, state.statistics.layout)
            acts = method is not None and not always and self.steps > self.start
            result = tensor
            if acts:
                result = self._acted(self._view(site, tensor, given, state, again, mask))
            if not again:
                state.statistics.gather(tensor, mask)
        return result

    def loss(self) -> Tensor:
        """Return the loss of the forward passes since the last call, and forget it."""
        self.taken = True
        reached = {name: losses for name, losses in self._losses.items() if losses}
        self._weights = {name: 1.0 / (len(losses) * len(reached)) for name, losses in reached.items()}
        now: list[Tensor] = []
        later: list[Tensor] = []
        for name, losses in reached.items():
            for loss in losses:
                (later if self._deferred[name] else now).append(
                    loss.to(self.scale.device) * self._weights[name]
                )
        total = torch.zeros((), device=self.scale.device)
        if now:
            total = torch.stack(now).sum()
        if later:
            total = total + announce(torch.stack(later).sum().detach(), self.scale)
        self.forget()
        return total

    def forget(self) -> None:
        """Forget the losses and what is known of the batch."""
        for losses in self._losses.values():
            losses.clear()
        self._labels = self._embeddings = None
        self._mask.forget()

    @property
    def waiting(self) -> bool:
        """Whether there are losses that nobody has taken."""
        return any(self._losses.values())

    def discard(self) -> None:
        """Forget what this step brought."""
        self.forget()
        self.taken = False
        for state in self._state_of.values():
            state.discard()

    def start_from(self, known: Mapping[str, StepStatistics], scores: Mapping[str, Tensor]) -> None:
        """Take over statistics, and act at once.

        Raises:
            InvalidArgumentError: If there are none of a site, or they are of another width or unit.
        """
        missing = [name for name in self._state_of if name not in known]
        if missing:
            raise InvalidArgumentError(f"There are no statistics of {', '.join(missing[:5])} to start from.")
        for name, state in self._state_of.items():
            state.statistics.load_state_dict(known[name].state_dict())
            if name in scores:
                state.settle(scores[name])
        self.steps = self.start + 1

    def get_extra_state(self) -> Tensor:
        """Return what is no tensor, as JSON in bytes."""
        about = {
            "method": None if self.method is None else self.method.name,
            "sites": list(self._state_of),
            "steps": self.steps,
            "skipped": self.skipped,
        }
        return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the counts."""
        about = json.loads(bytes(state.tolist()))
        self.steps, self.skipped = about["steps"], about["skipped"]

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise an error if a saved state is not of the same method and sites.

        Raises:
            InvalidArgumentError: If it is not.
        """
        saved = state.get("_extra_state")
        if not isinstance(saved, Tensor):
            raise InvalidArgumentError(
                "This is no state of a Monosemanticity: it does not say what it is of."
            )
        about = json.loads(bytes(saved.tolist()))
        mine = json.loads(bytes(self.get_extra_state().tolist()))
        for what in ("method", "sites"):
            if about[what] != mine[what]:
                raise InvalidArgumentError(
                    f"The saved state has the {what} {about[what]!r}, this has {mine[what]!r}. Make it with the same "
                    "model, sites and method."
                )

    def _acted(self, view: View) -> Tensor:
        """Return the tensor as the method leaves it, and keep its loss."""
        assert self.method is not None
        result = self._replaced(view)
        if not self.method.has_loss:
            return result
        loss = self.method.loss(view, None if self.control is None else self.control.strength)
        if loss is None:
            return result
        name = view.site.name
        if not view.again:
            self._losses[name].append(loss)
            # Without a graph now, there will be one when checkpointing runs this again.
            self._deferred[name] = not torch.is_grad_enabled()
        elif self._deferred[name]:
            result = add_loss(result, loss * self._weights.get(name, 0.0), self.scale)
        return result

    def _replaced(self, view: View) -> Tensor:
        assert self.method is not None
        return self.method.replace(view)

    def _view(
        self,
        site: Site,
        tensor: Tensor,
        given: Tensor | None,
        state: SiteState,
        again: bool,
        mask: Tensor | None = None,
    ) -> View:
        statistics = state.statistics
        layout = statistics.layout
        statistics.prepare(tuple(tensor.shape), tensor.device)
        values = layout.four(tensor)
        if values.dtype not in (torch.float32, torch.float64):
            values = values.float()
        real = layout.mask(tensor, mask)
        if statistics.unit == "pooled":
            values, real = layout.pooled(values, real)
        return View(
            site=site,
            tensor=tensor,
            given=given,
            values=values,
            real=real,
            # Copies, as the statistics change in place and a backward pass may come after that.
            mean=statistics.mean.to(values.dtype, copy=True),
            variance=statistics.variance.to(values.dtype, copy=True),
            scale=statistics.scale.to(values.dtype),
            dims=(0,) if statistics.unit == "element" else (0, 1, 3),
            state=state,
            again=again,
            seed=self.seed,
            labels=self._labels,
            classes=self._classes,
            embeddings=self._embeddings,
        )
