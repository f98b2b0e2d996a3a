"""What a reducer sees: one site's activations of one batch, with the quantities that several reducers need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from neuronwise.errors import DataError, SiteAxisError
from neuronwise.observe import _kernels
from neuronwise.sites import Site

__all__ = ["Activations", "BatchInfo", "rows_in_cache"]

_PICTURES = ("vision", "visual", "image", "pixel")
_CACHE = 1 << 21  # bytes: what stays in a core's cache while it is looked at several times


@dataclass(frozen=True)
class BatchInfo:
    """The batch that is on its way through the model, as far as reducers need to know it.

    Args:
        examples: Number of every example in its corpus, int64 ``(batch,)``.
        mask: True where a position is real, bool ``(batch, position)``; None when nothing is padded.
        token_ids: Token ids ``(batch, position)``, or None for data without tokens.
        labels: Class numbers by field, ``(batch, position)`` or ``(batch,)``; -1 where there is none.
        number: Running number of the batch within its block; None lets the observer count.
        block: Number of the block; with ``number`` and ``seed`` it fixes all chance in the reducers.
        seed: The seed of the pass.
        towers: Masks and token ids of further towers by the prefix of their inputs, such as ``"decoder"``. A site
            belongs to a tower whose name is a part of its path.
    """

    examples: Tensor
    mask: Tensor | None = None
    token_ids: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    number: int | None = None
    block: int = 0
    seed: int = 0
    towers: Mapping[str, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)

    def generator(self, stream: int) -> torch.Generator:
        """Return a generator that depends on nothing but the seed, the batch and the ``stream`` asked for."""
        mixed = np.random.SeedSequence([self.seed, self.block, self.number or 0, stream]).generate_state(
            1, np.uint64
        )
        return torch.Generator().manual_seed(int(mixed[0]))

    def tower_of(self, site: Site) -> tuple[Tensor | None, Tensor | None]:
        """Return the mask and the token ids that belong to a site: its tower's, or the batch's."""
        parts = site.path.split(".")
        for name, tower in self.towers.items():
            if name in parts:
                return tower
        if any(part.startswith(_PICTURES) for part in parts):
            return None, None  # patches of a picture beside a text: none is padded
        return self.mask, self.token_ids


class Activations:
    """One site's activations of one batch, neuron axis last, never averaged over what is padding or not finite.

    Args:
        site: Where they come from.
        tensor: The activations as the model has them.
        batch: The batch they belong to.
        sequence_first: The tensor is ``(position, batch, neuron)``, as in an RNN without ``batch_first``.

    Raises:
        SiteAxisError: If the tensor's first axis is not the batch.
        DataError: If positions are padded and the mask has another number of positions.
    """

    def __init__(self, site: Site, tensor: Tensor, batch: BatchInfo, *, sequence_first: bool = False) -> None:
        self.site = site
        self.batch = batch
        values = tensor.detach()
        if values.dtype not in (torch.float32, torch.float64):
            values = values.float()
        values = values.movedim(site.axis, -1)
        if sequence_first and values.dim() > 2:
            values = values.transpose(0, 1)
        count = len(batch.examples)
        if values.shape[0] != count:
            raise SiteAxisError(
                f"Site {site.name} gave a tensor of shape {tuple(tensor.shape)}; its first axis should count the "
                f"{count} examples of the batch. Check the site's axis ({site.axis}), or choose a site before the "
                "batch axis is moved or folded."
            )
        #: The activations, ``(batch, position, neuron)``; one position where the site has one vector an example.
        self.values: Tensor = values.reshape(count, -1, values.shape[-1])
        mask, ids = batch.tower_of(site)
        positions = self.values.shape[1]
        #: True where a position is real, ``(batch, position)``; None when every position is.
        self.mask: Tensor | None = _fitting(mask, site, positions)
        if self.mask is not None:
            self.mask = self.mask.to(values.device)
        #: Token ids ``(batch, position)``, or None where the site's positions are not tokens.
        self.token_ids: Tensor | None = None
        if ids is not None and ids.shape[1] == positions:
            self.token_ids = ids.to(values.device)

    @cached_property
    def rows(self) -> Tensor:
        """The real positions, one a row, ``(row, neuron)``; may hold values that are not finite."""
        if self.mask is None:
            return self.values.reshape(-1, self.values.shape[-1])
        return self.values[self.mask]

    @cached_property
    def valid(self) -> Tensor | None:
        """True where :attr:`rows` is finite; None, and nothing computed, when everything is."""
        return None if self._peaks[2] else torch.isfinite(self.rows)

    @cached_property
    def highest(self) -> Tensor:
        """Each example's highest finite activation of every neuron, ``(batch, neuron)``; -inf where it has none."""
        high = self._peaks[1] if self.valid is None else self._finite(-torch.inf).amax(1)
        return high if self.mask is None else torch.where(self.mask.any(1, keepdim=True), high, -torch.inf)

    @cached_property
    def lowest(self) -> Tensor:
        """Each example's lowest finite activation of every neuron, ``(batch, neuron)``; +inf where it has none."""
        low = self._peaks[0] if self.valid is None else self._finite(torch.inf).amin(1)
        return low if self.mask is None else torch.where(self.mask.any(1, keepdim=True), low, torch.inf)

    @cached_property
    def row_examples(self) -> Tensor:
        """For every row, the place of its example within the batch, int64 ``(row,)``."""
        places = torch.arange(self.values.shape[0], device=self.values.device)
        places = places.unsqueeze(1).expand(self.values.shape[:2])
        return places.reshape(-1) if self.mask is None else places[self.mask]

    def row_labels(self, field_name: str) -> Tensor | None:
        """Return the class number of every row for one label field, int64 ``(row,)``, or None if it has no such field.

        Raises:
            DataError: If there are labels for every position, but not as many as the site has positions.
        """
        labels = self.batch.labels.get(field_name)
        if labels is None:
            return None
        labels = labels.to(self.values.device)
        if labels.dim() == 1:
            return labels[self.row_examples]
        if labels.shape[1] != self.values.shape[1]:
            raise DataError(
                f"Label field {field_name!r} has {labels.shape[1]} positions an example; site {self.site.name} has "
                f"{self.values.shape[1]}."
            )
        return labels.reshape(-1) if self.mask is None else labels[self.mask]

    def sampled_rows(self, rate: float, stream: int) -> tuple[Tensor, Tensor | None]:
        """Return each row with the probability ``rate`` (the same rows for all sites), and their validity."""
        if rate >= 1.0:
            return self.rows, self.valid
        drawn = torch.rand(len(self.rows), generator=self.batch.generator(stream)) < rate
        chosen = drawn.nonzero()[:, 0].to(self.rows.device)
        return self.rows[chosen], None if self.valid is None else self.valid[chosen]

    @cached_property
    def shift(self) -> Tensor:
        """The first finite value of every neuron, float64 ``(neuron,)``: near enough to its mean to shift by."""
        rows = self.rows.cpu() if self.rows.device.type == "mps" else self.rows
        if self.valid is None:
            return rows[0].double()
        first = self.valid.to(rows.device, torch.int8).argmax(0)
        return torch.nan_to_num(rows.gather(0, first[None])[0].double(), nan=0.0, posinf=0.0, neginf=0.0)

    def double_chunks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the rows as float64, a cache-sized chunk at a time, with their validity, in a buffer that is reused.

        A caller may overwrite the chunk. Where a value is not finite the chunk holds 0.
        """
        rows, width = self.rows, self.rows.shape[1]
        step = rows_in_cache(rows, 8)
        if rows.device.type == "mps":  # has no float64
            rows = rows.cpu()
        buffer = torch.empty((min(step, rows.shape[0]), width), dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[0], step):
            piece = rows[start : start + step]
            chunk = buffer[: piece.shape[0]].copy_(piece)
            valid = None
            if self.valid is not None:
                valid = self.valid[start : start + step].to(chunk.device)
                chunk.masked_fill_(~valid, 0.0)
            yield chunk, valid

    @cached_property
    def _peaks(self) -> tuple[Tensor, Tensor, bool]:
        """Each example's lowest and highest activation, ``(batch, neuron)``, and whether all activations are finite."""
        if _kernels.usable(self._unpadded):
            return _kernels.peaks(self._unpadded)
        low, high = self._unpadded.amin(1), self._unpadded.amax(1)
        return low, high, bool(torch.isfinite(low).all() & torch.isfinite(high).all())

    @cached_property
    def _unpadded(self) -> Tensor:
        """The values with padding replaced by the same example's first real position, which moves no extreme."""
        if self.mask is None:
            return self.values
        first = self.mask.to(torch.int8).argmax(1)
        filler = self.values[torch.arange(len(first), device=first.device), first].unsqueeze(1)
        return torch.where(self.mask.unsqueeze(-1), self.values, filler)

    def _finite(self, filler: float) -> Tensor:
        return torch.where(torch.isfinite(self._unpadded), self._unpadded, filler)


def rows_in_cache(rows: Tensor, bytes_each: int) -> int:
    """Return how many rows to work on at a time: as many as stay in a core's cache, or all of them on other devices.

    Args:
        rows: The activations, ``(row, neuron)``.
        bytes_each: Bytes needed for each activation, those of intermediate arrays included.
    """
    if rows.device.type != "cpu":
        return max(1, rows.shape[0])
    return max(16, _CACHE // (bytes_each * max(1, rows.shape[1])))


def _fitting(mask: Tensor | None, site: Site, positions: int) -> Tensor | None:
    """Return the mask if anything is padded, and see that it has the site's positions."""
    if mask is None or bool(mask.all()):
        return None
    if mask.shape[1] == positions:
        return mask
    if positions == 1:
        return None  # one vector an example: pooled, nothing to mask
    raise DataError(
        f"Site {site.name} has {positions} positions, but the batch's padding mask has {mask.shape[1]}. "
        "Observe with batch_size=1 (no padding), or choose sites that keep the positions of the input."
    )
