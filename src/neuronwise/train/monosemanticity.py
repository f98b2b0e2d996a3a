"""Monosemanticity in any training loop: watch it, inhibit it, encourage it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuronwise.errors import HookError, InvalidArgumentError
from neuronwise.hooks import transform
from neuronwise.observe.statistics import Unit
from neuronwise.sites import Site
from neuronwise.train._attached import Attached, not_reached, reduction, sites_of
from neuronwise.train._attached import batch_axis as default_axis
from neuronwise.train._engine import Engine
from neuronwise.train._state import SiteState
from neuronwise.train._statistics import StepStatistics, exchange
from neuronwise.train.controller import ONLINE, Controller
from neuronwise.train.method import Method
from neuronwise.train.methods import method_of

__all__ = ["Monosemanticity"]


class Monosemanticity(Attached):
    r"""Measure the monosemanticity of neurons while a model trains, and inhibit or encourage it.

    Three lines in a training loop::

        mono = Monosemanticity(model, sites, TailPenalty())
        with mono.attached():                       # 1
            for batch in batches:
                loss = task_loss(model(batch)) + mono.loss()      # 2
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                mono.step()                         # 3

    In training mode the sites' activations are scored by running statistics and acted on; in evaluation mode the
    model gets the very same tensors. The model itself is not changed. All forward passes between two calls of
    :meth:`step` are one batch: gradient accumulation, several calls of a shared or recurrent module, and what
    activation checkpointing runs again all score by the statistics before the step, and count once. Where
    ``torch.distributed`` runs, the statistics are merged over its processes in :meth:`step`, exactly.

    With ``torch.compile``, attach first and compile then.

    Args:
        model: The model, or a part of it; not a wrapper such as ``DistributedDataParallel``, but what is in it.
        sites: The sites, names of modules as :func:`find_sites` takes them, or None for those that it finds.
        method: A method, its name in METHODS, or None to watch only.
        unit: What counts as one neuron: ``"feature"`` (all positions are samples), ``"element"`` (position and channel,
            as the published code) or ``"pooled"`` (mean over positions, as common for class selectivity).
        horizon: Steps after which the statistics begin to forget; None never forgets.
        start: Steps before the method begins to act.
        floor: Share of the layer's mean variance that is added to a neuron's in phi.
        threshold: What counts as a large phi in the tail.
        tail: Watch the tail of phi too.
        batch_axis: The axis of the sites' tensors that counts examples; None for 0, and 1 at an RNN without
            ``batch_first``.
        seed: Seed of the random controls.
        process_group: The processes to merge statistics over; None for all.
        distributed: Merge over processes where ``torch.distributed`` is initialised.

    Raises:
        SiteNotFoundError: If the model has no such sites.
        InvalidArgumentError: If an argument is not what it must be.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> mono = Monosemanticity(model, Site("1", "output", width=8), "tail", start=0)
        >>> with mono.attached():
        ...     for _ in range(3):
        ...         loss = model(torch.rand(32, 2)).mean() + mono.loss()
        ...         mono.step()
        >>> mono.steps, sorted(name for name in mono.log() if '/' not in name)[:3]
        (3, ['loss', 'share', 'skipped'])

    Source: Wang et al. (arXiv 2312.11560) for scores and statistics; each method names its own.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Site | Iterable[Site] | str | list[str] | None = None,
        method: str | Method | None = "tail",
        *,
        unit: Unit = "feature",
        horizon: int | None = 10,
        start: int = 10,
        floor: float = 0.01,
        threshold: float = 9.0,
        tail: bool = True,
        batch_axis: int | None = None,
        seed: int = 0,
        process_group: Any = None,
        distributed: bool = True,
    ) -> None:
        self.model = model
        self.sites = sites_of(model, sites)
        self.method = method_of(method)
        self._group, self._distributed = process_group, distributed
        if isinstance(self.method, Controller) and self.method.measure in ONLINE and not (tail and horizon):
            raise InvalidArgumentError(
                f"To steer by {self.method.measure!r}, statistics must watch the tail and forget: leave tail=True and "
                "give a horizon."
            )
        modules = {site.name: site.module(model) for site in self.sites}
        states = [
            SiteState(
                StepStatistics(
                    site.width,
                    axis=site.axis,
                    site=site.name,
                    batch_axis=default_axis(site, model) if batch_axis is None else batch_axis,
                    unit=unit,
                    horizon=horizon,
                    start=start,
                    floor=floor,
                    tail=tail,
                    threshold=threshold,
                ),
                share=None if self.method is None else self.method.level,
                rate=0.05 if self.method is None else self.method.rate,
            )
            for site in self.sites
        ]
        self._engine = Engine(modules, states, self.method, start=start, seed=seed)
        self._transform = transform(
            model,
            self.sites,
            self._engine.touch,
            on_start=self._engine.begin,
            exclusive=self.method is not None,
        )
        self._last_loss: Tensor | None = None

    def __repr__(self) -> str:
        state = "attached" if self.is_attached else "not attached"
        return f"<Monosemanticity: {self.method}, {len(self.sites)} sites, {self.steps} steps, {state}>"

    @property
    def steps(self) -> int:
        """How many steps were counted."""
        return self._engine.steps

    @property
    def statistics(self) -> Mapping[str, StepStatistics]:
        """The running statistics of each site, by its name."""
        return {site.name: state.statistics for site, state in zip(self.sites, self._states, strict=True)}

    @property
    def strength(self) -> float | None:
        """The strength that a controller has set, else the method's own; None where there is none."""
        if self._engine.control is not None:
            return float(self._engine.control.strength)
        found = getattr(self.method, "strength", None)
        return None if found is None else float(found)

    def expect(
        self,
        *,
        labels: Tensor | None = None,
        embeddings: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Say what is known of the next batch; holds until :meth:`loss` or :meth:`step` is called.

        Args:
            labels: Class of each example, int64 ``(example,)``, or of each position; -1 for none.
            embeddings: An embedding of each example from another encoder, ``(example, dimension)``.
            mask: True where a position is real, ``(example, position)``. An argument ``attention_mask`` of the model is
                found without this.
        """
        self._engine.expect(labels, embeddings, mask)

    def start_from(
        self, statistics: Mapping[str, StepStatistics], scores: Mapping[str, Tensor] | None = None
    ) -> None:
        """Score by known statistics from now on, and act at once, without a warm-up.

        Args:
            statistics: The :attr:`statistics` of another one of the same sites and unit; they are copied.
            scores: Phi of any shape by the site's name, from which a moving threshold begins.

        Raises:
            InvalidArgumentError: If the statistics are of other sites, widths or units.
        """
        self._engine.start_from(statistics, scores or {})

    def discard(self) -> None:
        """Forget the forward passes since the last step, as if they had not been."""
        self._engine.discard()

    def loss(self) -> Tensor:
        """Return the loss to add, ``()``, of the forward passes since it was last asked for.

        The mean over sites, of the mean over calls; strength included. 0 where the method has none or does not act yet.
        """
        total = self._engine.loss()
        self._last_loss = total.detach()
        return total

    def step(self, stepped: bool = True) -> None:
        """End the step: merge what its forward passes brought, over all processes, and let a controller act.

        To be called after the optimiser's step.

        Args:
            stepped: Whether the optimiser did its step. A step that a ``GradScaler`` skipped counts for nothing: pass
                ``scaler.get_scale() >= scale_before``.

        Raises:
            HookError: If the method has a loss and :meth:`loss` was not called.
            SiteNotReachedError: If no forward pass in training mode came by a site: by none before the first step, or
                by one until the method is to act.
        """
        engine = self._engine
        if not stepped:
            engine.discard()
            engine.skipped += 1
            return
        if engine.waiting and not engine.taken:
            raise HookError(
                f"{type(self.method).__name__} works through a loss, and nobody took it: add mono.loss() to the "
                "loss of the task before backward()."
            )
        if engine.steps in (0, engine.start + 1):
            self._check_reached(every=engine.steps > 0)
        exchange([state.commit() for state in self._states], reduction(self._group, self._distributed))
        engine.steps += 1
        engine.forget()
        engine.taken = False
        if engine.control is not None:
            engine.control.update(self._states)

    def log(self) -> dict[str, float]:
        """Return figures of the latest step, by name; reading them waits for a GPU.

        ``share`` (of phi above the threshold) and ``top`` (mean of the top 1 % of phi) are means over sites, with one
        figure for each site as ``share/<site>``; ``loss``; ``strength``; ``skipped`` (batches with NaN or infinity, of
        any site) and ``skipped_steps`` (of the optimiser); ``condition`` (how often the lemma's sign condition held,
        where it is watched); and what the method itself reports.
        """
        states = self._states
        figures: dict[str, float] = {
            "loss": 0.0 if self._last_loss is None else float(self._last_loss),
            "steps": float(self.steps),
            "skipped": max(float(state.statistics.skipped) for state in states),
            "skipped_steps": float(self._engine.skipped),
        }
        if self.strength is not None:
            figures["strength"] = self.strength
        by_site: dict[str, list[float]] = {}
        for site, state in zip(self.sites, states, strict=True):
            for name, value in self._figures(state).items():
                figures[f"{name}/{site.name}"] = value
                by_site.setdefault(name, []).append(value)
        figures |= {name: sum(values) / len(values) for name, values in by_site.items()}
        # As numbers, since the sites of one model may be on several devices.
        held, looked_at = map(sum, zip(*(state.condition.tolist() for state in states), strict=True))
        if looked_at:
            figures["condition"] = held / looked_at
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as tensors by name; take it between two steps."""
        return dict(self._engine.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            InvalidArgumentError: If it is of another method, other sites, widths or units.
        """
        self._engine.check(state)
        self._engine.load_state_dict(dict(state))
        self._engine.discard()

    @property
    def _states(self) -> list[SiteState]:
        return list(self._engine.states)  # type: ignore[arg-type]

    def _figures(self, state: SiteState) -> dict[str, float]:
        found: dict[str, float] = {}
        if state.statistics.tail is not None:
            found["share"] = float(state.statistics.tail.share())
            found["top"] = float(state.statistics.tail.top_mean(0.01))
        if state.share is not None:
            found["threshold"] = float(state.threshold)
        if self.method is not None and self.method.acting.reports:
            found[self.method.acting.reports] = float(state.report)
        return found

    def _check_reached(self, *, every: bool) -> None:
        missed = [
            site
            for site, state in zip(self.sites, self._states, strict=True)
            if not (state.statistics.gathered_n.any() or state.statistics.batches + state.statistics.skipped)
        ]
        if missed and (every or len(missed) == len(self.sites)):
            raise not_reached(missed, "so far" if every else "in the first step")

    def _move(self, device: torch.device) -> None:
        self._engine.to(device)
