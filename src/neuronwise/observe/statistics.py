"""Running statistics of a site's neurons: mean, variance and the Monosemantic Scale, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from neuronwise.errors import InvalidArgumentError
from neuronwise.observe._layout import Layout, Unit
from neuronwise.observe._tail import Exact, Tail
from neuronwise.sites import Site

__all__ = ["AllReduce", "Exact", "Layout", "RunningStatistics", "Unit"]

#: Reduces a tensor over the processes of a run, with ``"sum"`` or ``"max"``, and returns the reduced tensor.
AllReduce = Callable[[Tensor, Literal["sum", "max"]], Tensor]

_CHUNK = 1 << 18  # entries looked at together on a CPU: what stays in a core's cache


class _Sums(NamedTuple):
    """What one batch adds up to, about ``shift``; each broadcasts to the shape of the statistics."""

    n: Tensor
    shift: Tensor
    first: Tensor  # sum of (z - shift)
    second: Tensor  # sum of (z - shift)^2
    above: Tensor
    peak: Tensor  # largest (z - shift)^2


class RunningStatistics(Exact):
    r"""Running mean and variance of every unit of a site, and the Monosemantic Scale phi by them.

    A batch of :math:`b` samples with mean :math:`\mu'` and biased variance :math:`v'` is merged by

    .. math:: \mu \leftarrow \frac{m\mu + b\mu'}{m+b},\qquad
        v \leftarrow \frac{m b (\mu-\mu')^2}{(m+b-1)(m+b)} + \frac{b v' + (m-1) v}{m+b-1}

    where :math:`m` is the number of samples before, and :math:`b\,n_f` once ``horizon`` = :math:`n_f` batches were
    seen (then an exponential average with weight :math:`1/(n_f+1)`). The result without forgetting is the mean and
    the unbiased variance of everything seen, however it is split into batches.

    All numbers are buffers: they save, load and move with the module, and keep their dtype when a model around them is
    cast to another. :meth:`update` reads the activations once for the sums (in pieces that stay in cache, on a CPU),
    about the running mean so that nothing cancels; it never waits for a GPU, and ``torch.compile`` takes it whole.
    A batch with a value that is NaN or infinite changes nothing and is counted in :attr:`skipped`.

    Args:
        width: Number of neurons.
        axis: The axis of the tensors that counts neurons.
        batch_axis: The axis that counts examples.
        unit: What counts as one neuron: ``"feature"``: all other axes are samples; ``"element"``: each place of the
            tensor but its batch axis; ``"pooled"``: the mean over positions.
        shape: Shape of a tensor without its batch axis, for ``"element"``; default: that of the first batch.
        horizon: Number of batches after which the past starts to be forgotten, :math:`n_f`; None never forgets.
        start: Batches that must have been seen before :attr:`ready` says that scores may be acted on.
        floor: Share of the mean variance of all units that is added to a variance in a score.
        tail: Also keep the share of phi above ``threshold``, the largest phi and a histogram (:attr:`tail`).
        threshold: What counts as a large phi.
        dtype: Type of the buffers, float32 or float64.
        site: Name of the site, which a saved state must agree with.

    Raises:
        InvalidArgumentError: If an argument is not what it must be.

    Example:
        >>> statistics = RunningStatistics(1)
        >>> for batch in ([1.0, 2.0, 3.0], [4.0, 6.0]):
        ...     statistics.update(torch.tensor(batch)[:, None])
        >>> round(statistics.mean.item(), 4), round(statistics.variance.item(), 4)
        (3.2, 3.7)

    Source: Wang et al. (arXiv 2312.11560), Lemma 3.2 (Eqs. 8-9) and appendix C.1; Chan, Golub, LeVeque (1979).
    """

    count: Tensor
    weight: Tensor
    batches: Tensor
    skipped: Tensor
    mean: Tensor
    variance: Tensor
    tail: Tail | None

    def __init__(
        self,
        width: int,
        *,
        axis: int = -1,
        batch_axis: int = 0,
        unit: Unit = "feature",
        shape: tuple[int, ...] | None = None,
        horizon: int | None = None,
        start: int = 0,
        floor: float = 0.01,
        tail: bool = False,
        threshold: float = 9.0,
        dtype: torch.dtype = torch.float32,
        site: str = "",
    ) -> None:
        super().__init__()
        _check(width, unit, horizon, start, floor, dtype)
        self.width, self.axis, self.batch_axis, self.unit = width, axis, batch_axis, unit
        self.horizon, self.start, self.floor, self.threshold = horizon, start, floor, threshold
        self.dtype, self.site, self._tailed = dtype, site, tail
        self._layout = Layout(self._name, width, axis, batch_axis, unit)
        #: Batches that were taken in, and batches that were left out as they held NaN or infinity; int64 ``()``.
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        self._allocate(None if unit == "element" else (1, width, 1))
        if unit == "element" and shape is not None:
            place = batch_axis % (len(shape) + 1)
            self.prepare((*shape[:place], 1, *shape[place:]))

    @classmethod
    def of(cls, site: Site, **settings: Any) -> RunningStatistics:
        """Return statistics of a site's neurons; the further arguments are those of the class."""
        return cls(site.width, axis=site.axis, site=site.name, **settings)

    def _allocate(self, shape: tuple[int, int, int] | None, device: torch.device | None = None) -> None:
        """Make the buffers: ``(positions before the neurons, neurons, positions after them)``, or empty ones."""
        full = (0, self.width, 0) if shape is None else shape
        counts = (full[0], 1, full[2])
        #: Samples seen, int64, and the weight they have in a merge (less than all when some are forgotten).
        self.register_buffer("count", torch.zeros(counts, dtype=torch.int64, device=device))
        self.register_buffer("weight", torch.zeros(counts, dtype=self.dtype, device=device))
        #: Mean and unbiased variance of every unit.
        self.register_buffer("mean", torch.zeros(full, dtype=self.dtype, device=device))
        self.register_buffer("variance", torch.zeros(full, dtype=self.dtype, device=device))
        self.tail = None
        if self._tailed:
            self.tail = Tail(full, threshold=self.threshold, dtype=self.dtype).to(device)

    def prepare(self, shape: tuple[int, ...], device: torch.device | None = None) -> None:
        """Make room for tensors of this shape (batch axis included) in ``element`` mode; else nothing is to be done.

        Raises:
            SiteAxisError: If the tensor does not have the neurons on its axis.
            InvalidArgumentError: If there is room for another shape already.
        """
        before, after = self._layout.around(shape)
        if self.unit != "element" or self.mean.shape == (before, self.width, after):
            return
        if self.mean.numel():
            known = self.mean.shape[0] * self.mean.shape[2]
            raise InvalidArgumentError(
                f"{self._name} keeps statistics of each of {known} positions (unit='element'), and now came a tensor "
                f"with {before * after}, of shape {tuple(shape)}. Pad or crop all batches to one length, or use "
                "unit='feature', which takes every position as a sample and any length."
            )
        self._allocate((before, self.width, after), device or self.mean.device)

    @property
    def ready(self) -> Tensor:
        """Whether more than ``start`` batches were seen, bool ``()`` on the statistics' device."""
        return self.batches > self.start

    def reference(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return mean and stabilised variance, in a shape that broadcasts to the tensor; without position when pooled.

        The stabilised variance is :math:`v_i + \epsilon\,\overline{v}`, infinite where that is 0 (a constant site).
        Phi is above a threshold where :math:`(z-\mu)^2` is above the threshold times it.
        """
        self.prepare(tuple(tensor.shape), tensor.device)
        mean, scale = self.mean, self._scale()
        if self.unit == "pooled":
            return mean.reshape(self.width), scale.reshape(self.width)
        return self._layout.like(mean, tensor), self._layout.like(scale, tensor)

    def score(self, tensor: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Return phi of every entry by the statistics as they are, :math:`(z-\mu)^2/(v + \epsilon\,\overline{v})`.

        Score a batch before it is taken in. Gradients flow to the tensor, not to the statistics. Masked entries and
        constant sites have phi 0.

        Args:
            tensor: Activations as the site has them.
            mask: True where a position is real; its axes are the tensor's without the neuron axis, batch first.

        Returns:
            In the buffers' dtype and the tensor's shape; ``(example, neuron)`` when pooled.
        """
        mean, scale = self.reference(tensor)
        if self.unit == "pooled":
            pooled, some = self._layout.pooled(
                self._layout.four(tensor).to(self.dtype), self._layout.mask(tensor, mask)
            )
            phi = (pooled[:, 0, :, 0] - mean).square() / scale
            return phi if some is None else phi.masked_fill(~some[:, 0, :, 0], 0.0)
        phi = (tensor.to(self.dtype) - mean).square() / scale
        if mask is None:
            return phi
        return phi.masked_fill(~self._layout.mask_like(tensor, mask), 0.0)

    @torch.no_grad()
    def update(
        self, tensor: Tensor, mask: Tensor | None = None, *, all_reduce: AllReduce | None = None
    ) -> None:
        """Take in one batch.

        Args:
            tensor: Activations as the site has them; any floating dtype.
            mask: True where a position is real; its axes are the tensor's without the neuron axis, batch first.
            all_reduce: Sums (or takes the maximum) over the processes of a run, each of which gives its own batch: all
                end with the very statistics that one process would have of all batches together.

        Raises:
            SiteAxisError: If the tensor does not have the neurons on its axis.
            InvalidArgumentError: If the positions or the mask do not fit.
        """
        tensor = tensor.detach()
        self.prepare(tuple(tensor.shape), tensor.device)
        samples, real = self._layout.samples(tensor, mask, self.dtype)
        seen = self.weight > 0
        sums = self._sums(samples, real, seen)
        safe = sums.n.clamp(min=1.0)
        # About the running mean: the same in all processes, unlike the shift of a first batch.
        moved = torch.where(seen, 0.0, sums.shift) * sums.n + sums.first
        inner = (sums.second - sums.first.square() / safe).clamp(min=0.0)
        n, total = _reduced(all_reduce, "sum", sums.n, moved)
        delta = total / n.clamp(min=1.0)
        inner = inner + sums.n * (moved / safe - delta).square()
        (inner,) = _reduced(all_reduce, "sum", inner)
        ok = torch.isfinite(total).all() & torch.isfinite(inner).all()
        some = (n > 0).any()
        if self.tail is not None:
            above, histogram = _reduced(all_reduce, "sum", sums.above, self._histogram(samples, real))
            (peak,) = _reduced(all_reduce, "max", sums.peak / self._scale())
            self.tail.absorb(n, above, peak, histogram, ok & some & seen.any(), self._kept())
        self._absorb(n, delta, inner, ok)
        self.batches.add_(ok & some)
        self.skipped.add_(~ok)

    @torch.no_grad()
    def merge(self, other: RunningStatistics) -> None:
        """Take in what other statistics of the same site have seen, by their weights (exact if nothing is forgotten).

        Raises:
            InvalidArgumentError: If the other is of another site, width or unit.
        """
        self._agree(other._about(), "The statistics to merge")
        if not other.mean.numel():
            return
        if not self.mean.numel():
            self._allocate((other.mean.shape[0], self.width, other.mean.shape[2]), self.mean.device)
        if self.mean.shape != other.mean.shape:
            raise InvalidArgumentError(
                f"{self._name}: the statistics are of other positions, {tuple(self.mean.shape)} and "
                f"{tuple(other.mean.shape)}. Use unit='feature' where lengths differ."
            )
        n = other.weight.to(self.mean.device, torch.float64)
        mean, variance = (part.to(n) for part in (other.mean, other.variance))
        m, old = self.weight.double(), self.mean.double()
        total = m + n
        delta = torch.where(n > 0, mean - old, 0.0)
        spread = (n - 1).clamp(min=0.0) * variance + (m - 1).clamp(min=0.0) * self.variance.double()
        spread = spread + delta.square() * m * n / total.clamp(min=1.0)
        self.mean.copy_(old + delta * n / total.clamp(min=1.0))
        self.variance.copy_(spread / (total - 1).clamp(min=1.0))
        self.weight.copy_(total)
        for name in ("count", "batches", "skipped"):
            getattr(self, name).add_(getattr(other, name).to(n.device))
        if self.tail is not None and other.tail is not None:
            self.tail.merge(other.tail)

    def extra_repr(self) -> str:
        """Return what is printed."""
        return f"{self.site or self.width}, unit={self.unit!r}, horizon={self.horizon}"

    def get_extra_state(self) -> Tensor:
        """Return what the statistics are of, as JSON in bytes, so that a state for another site is recognised."""
        return torch.tensor(list(json.dumps(self._about()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Do nothing: it has been compared before the numbers were loaded."""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        """Compare what the state is of before anything is loaded."""
        about = state_dict.get(f"{prefix}_extra_state")
        if about is not None:
            self._agree(json.loads(bytes(about.tolist())), "The saved state")
        mean = state_dict.get(f"{prefix}mean")
        if mean is not None and self.unit == "element" and mean.shape != self.mean.shape:
            if self.mean.numel():
                raise InvalidArgumentError(
                    f"{self._name} has positions {tuple(self.mean.shape)}, the saved state {tuple(mean.shape)}. "
                    "Use unit='feature' where lengths differ."
                )
            self._allocate((mean.shape[0], self.width, mean.shape[2]), self.mean.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)

    def _about(self) -> dict[str, Any]:
        return {"site": self.site, "width": self.width, "unit": self.unit, "axis": self.axis}

    def _agree(self, about: Mapping[str, Any], what: str) -> None:
        mine = self._about()
        wrong = [
            name for name in mine if about.get(name) != mine[name] and not (name == "site" and not mine[name])
        ]
        if wrong:
            found = ", ".join(f"{name} {about.get(name)!r} instead of {mine[name]!r}" for name in wrong)
            raise InvalidArgumentError(f"{what} is not of {self._name}: it has {found}.")

    @property
    def _name(self) -> str:
        return f"RunningStatistics of {self.site or f'{self.width} neurons'}"

    def _scale(self) -> Tensor:
        scale = self.variance + self.floor * self.variance.mean()
        return torch.where(scale > 0, scale, torch.inf)

    def _sums(self, samples: Tensor, real: Tensor | None, seen: Tensor) -> _Sums:
        """Add up a batch, in pieces that stay in cache on a CPU."""
        dims = (0,) if self.unit == "element" else (0, 3)
        zero = torch.zeros_like(self.mean)
        if not len(samples):
            return _Sums(torch.zeros_like(self.weight), self.mean, zero, zero, zero, zero)
        # A first batch is shifted by its own first sample, as there is no mean yet.
        start = samples[0] if self.unit == "element" else samples[0, :, :, :1]
        start = torch.nan_to_num(start.to(self.dtype), nan=0.0, posinf=0.0, neginf=0.0)
        shift = torch.where(seen, self.mean, start)
        limit = self.threshold * self._scale()
        parts: list[list[Tensor]] = []
        for values, valid in _pieces(samples, real):
            away = values.to(self.dtype) - shift
            if valid is not None:
                away = away.masked_fill(~valid, 0.0)
            sums = [away.sum(dims, keepdim=True)[0]]
            away.square_()
            sums.append(away.sum(dims, keepdim=True)[0])
            if self.tail is not None:
                sums.append(away.amax(dims, keepdim=True)[0])
                # In place as 0 and 1: sums of bool take five times as long on a CPU.
                sums.append(away.gt_(limit).sum(dims, keepdim=True)[0])
            parts.append(sums)
        first, second, peak, above = [*map(_total, zip(*parts, strict=True)), zero, zero][:4]
        if self.tail is not None:
            peak = torch.stack([sums[2] for sums in parts]).amax(0)
        if real is None:
            n = torch.full_like(self.weight, float(samples.numel() // self.mean.numel()))
        else:
            n = real.sum(dims, keepdim=True)[0].to(self.dtype)
        return _Sums(n, shift, first, second, above, peak)

    def _histogram(self, samples: Tensor, real: Tensor | None) -> Tensor:
        """Return the histogram of phi of some of the samples."""
        assert self.tail is not None
        if not len(samples):
            return torch.zeros_like(self.tail.histogram)
        chosen = self.tail.sampled(len(samples), samples[0].numel(), self.batches)
        phi = (samples[chosen].to(self.dtype) - self.mean).square() / self._scale()
        weight = torch.ones_like(phi)
        if real is not None:
            keep = real[chosen]
            phi, weight = phi.masked_fill(~keep, 0.0), weight.masked_fill(~keep, 0.0)
        # A value that is not finite must not choose the bin.
        return self.tail.count(torch.nan_to_num(phi), weight)

    def _kept(self) -> Tensor | float:
        """Return the share of the past that a batch leaves in what is counted."""
        if self.horizon is None:
            return 1.0
        return torch.where(self.batches >= self.horizon, self.horizon / (self.horizon + 1), 1.0)

    def _absorb(self, n: Tensor, delta: Tensor, inner: Tensor, ok: Tensor) -> None:
        """Merge the batch: ``n`` samples, mean ``delta`` from the running mean, ``inner`` = sum of squares about it."""
        m = self.count.to(self.dtype)
        if self.horizon is not None:
            m = torch.where(self.batches >= self.horizon, n * self.horizon, m)
        total = m + n
        below = (total - 1).clamp(min=1.0)
        share = n / total.clamp(min=1.0)
        variance = (
            delta.square() * m * share / below + (inner + (m - 1).clamp(min=0.0) * self.variance) / below
        )
        take = ok & (n > 0)
        self.mean.copy_(torch.where(take, self.mean + delta * share, self.mean))
        self.variance.copy_(torch.where(take, variance, self.variance))
        self.weight.copy_(torch.where(take, total, self.weight))
        self.count.copy_(torch.where(take, self.count + n.long(), self.count))


def _check(width: int, unit: str, horizon: int | None, start: int, floor: float, dtype: torch.dtype) -> None:
    if unit not in ("feature", "element", "pooled"):
        raise InvalidArgumentError(f"unit must be 'feature', 'element' or 'pooled', not {unit!r}.")
    if width < 1:
        raise InvalidArgumentError(f"width must be at least 1, not {width}.")
    if horizon is not None and horizon < 1:
        raise InvalidArgumentError(
            f"horizon must be at least 1 batch, or None to forget nothing; not {horizon}."
        )
    if start < 0 or floor < 0:
        raise InvalidArgumentError(f"start and floor must not be negative, not {start} and {floor}.")
    if dtype not in (torch.float32, torch.float64):
        raise InvalidArgumentError(f"dtype must be torch.float32 or torch.float64, not {dtype}.")


def _pieces(samples: Tensor, real: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Cut a batch on the CPU into pieces that stay in cache; a compiler or another device gets it whole."""
    length = samples.shape[0]
    if not length:
        return []
    step = length
    if samples.device.type == "cpu" and not torch.compiler.is_compiling():
        step = max(1, _CHUNK // max(1, samples[0].numel()))
    return [
        (samples[start : start + step], None if real is None else real[start : start + step])
        for start in range(0, length, step)
    ]


def _total(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _reduced(all_reduce: AllReduce | None, how: Literal["sum", "max"], *parts: Tensor) -> list[Tensor]:
    """Reduce several tensors over the processes in one go."""
    if all_reduce is None:
        return list(parts)
    flat = all_reduce(torch.cat([part.reshape(-1) for part in parts]), how)
    pieces = torch.split(flat, [part.numel() for part in parts])
    return [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]
