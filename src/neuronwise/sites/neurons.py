"""NeuronSet: an immutable set of neurons, each a site and an index, with a score if wanted."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError, closest
from neuronwise.files import atomic_file
from neuronwise.sites._parts import (
    Indices,
    Part,
    Scores,
    as_indices,
    flat_scores,
    make_part,
    order,
    same_width,
    shorten,
    split_scores,
    unscored,
)
from neuronwise.sites._text import parse_indices, parse_word
from neuronwise.sites.collection import Sites
from neuronwise.sites.site import Site

__all__ = ["NeuronSet"]


class NeuronSet:
    """An immutable set of neurons.

    It compares, hashes and combines as a set of ``(site, index)``; two sites are the same if they have the
    same name. Scores are carried along but take no part in comparison: in ``a | b`` and ``a & b`` a neuron
    of both keeps its score in ``a``. The order of iteration is always the same: by stack, layer, path, then
    index.

    Example:
        >>> site = Site("mlp", "input", width=8, layer=0)
        >>> a, b = NeuronSet.of({site: [1, 2, 3]}), NeuronSet.of({site: [3, 4]})
        >>> (a | b).indices(site), len(a & b), (site, 1) in a - b
        (array([1, 2, 3, 4]), 1, True)
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        """Make the empty set; see :meth:`of`, :meth:`parse` and :meth:`from_frame` for the others."""
        self._parts: dict[str, Part] = {}

    @classmethod
    def _from_parts(cls, parts: Iterable[Part]) -> NeuronSet:
        result = cls()
        kept = [part for part in parts if part.indices.size]
        # One set has a score for each of its neurons or for none: NaN stands for the missing ones.
        if any(part.scores is not None for part in kept):
            kept = [
                Part(p.site, p.indices, unscored(p.indices) if p.scores is None else p.scores) for p in kept
            ]
        for part in sorted(kept, key=lambda p: order(p.site)):
            part.indices.setflags(write=False)
            if part.scores is not None:
                part.scores.setflags(write=False)
            result._parts[part.site.name] = part
        return result

    @classmethod
    def of(
        cls,
        neurons: Mapping[Site, Any] | Sites | Site | Iterable[tuple[Site, int]],
        *,
        scores: Mapping[Site, ArrayLike] | ArrayLike | None = None,
    ) -> NeuronSet:
        """Make a set.

        Args:
            neurons: Indices for each site (a number, a sequence, a range, a slice, a mask of the site's
                width, or ``"*"`` for all); or sites, for all their neurons; or pairs ``(site, index)``.
            scores: One score for each neuron given, in the same order: ``{site: scores}``, or one flat
                sequence over all of them. Of a neuron that is given twice, the first score counts.

        Raises:
            NeuronIndexError: If an index is outside its site's width.
            InvalidArgumentError: If there are not as many scores as neurons.
        """
        if isinstance(neurons, Site | Sites):
            wanted: list[tuple[Site, Any]] = [(site, np.arange(site.width)) for site in Sites.of(neurons)]
        elif isinstance(neurons, Mapping):
            wanted = [(site, as_indices(site, chosen)) for site, chosen in neurons.items()]
        else:
            return cls._of_pairs(list(neurons), scores)
        counts = [len(indices) for _, indices in wanted]
        given = split_scores([site for site, _ in wanted], counts, scores)
        return _union(
            make_part(site, indices, score) for (site, indices), score in zip(wanted, given, strict=True)
        )

    @classmethod
    def _of_pairs(cls, pairs: list[tuple[Site, int]], scores: Any) -> NeuronSet:
        if isinstance(scores, Mapping):
            raise InvalidArgumentError(
                "Scores of (site, index) pairs are one flat sequence, not a mapping by site."
            )
        flat = None if scores is None else flat_scores(scores, len(pairs))
        positions: dict[Site, list[int]] = {}
        for position, (site, _) in enumerate(pairs):
            positions.setdefault(site, []).append(position)
        return _union(
            make_part(
                site, as_indices(site, [pairs[i][1] for i in where]), None if flat is None else flat[where]
            )
            for site, where in positions.items()
        )

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that have at least one neuron in the set."""
        return tuple(part.site for part in self._parts.values())

    @property
    def scored(self) -> bool:
        """Whether the neurons have scores."""
        return any(part.scores is not None for part in self._parts.values())

    def indices(self, site: Site | str) -> Indices:
        """Return the sorted indices of one site, ``(neurons,)``; empty if the set has none there.

        Raises:
            SiteNotFoundError: If a name is given that none of the set's sites has.
        """
        part = self._part(site)
        # A copy: torch warns when a read-only array, as the set keeps it, is used to index a tensor.
        return np.empty(0, dtype=np.int64) if part is None else part.indices.copy()

    def scores(self, site: Site | str) -> Scores | None:
        """Return the scores of one site in the order of :meth:`indices`, or None if the set has none."""
        part = self._part(site)
        return None if part is None or part.scores is None else part.scores.copy()

    def _part(self, site: Site | str) -> Part | None:
        if isinstance(site, str):
            if site not in self._parts:
                raise SiteNotFoundError(
                    f"The set has no neuron of a site {site!r}. {closest(site, self._parts)}"
                )
            return self._parts[site]
        return self._parts.get(site.name)

    def __len__(self) -> int:
        return sum(part.indices.size for part in self._parts.values())

    def __iter__(self) -> Iterator[tuple[Site, int]]:
        for part in self._parts.values():
            for index in part.indices.tolist():
                yield part.site, index

    def __contains__(self, neuron: object) -> bool:
        if not isinstance(neuron, tuple) or len(neuron) != 2:
            return False
        site, index = neuron
        part = self._parts.get(site.name if isinstance(site, Site) else site)
        if part is None:
            return False
        at = int(np.searchsorted(part.indices, index))
        return at < part.indices.size and bool(part.indices[at] == index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        mine, theirs = self._parts, other._parts
        return mine.keys() == theirs.keys() and all(
            np.array_equal(part.indices, theirs[name].indices) for name, part in mine.items()
        )

    def __hash__(self) -> int:
        return hash(tuple((name, part.indices.tobytes()) for name, part in self._parts.items()))

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return _union([*self._parts.values(), *other._parts.values()])

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return self._where(other, present=True)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return self._where(other, present=False)

    def __xor__(self, other: NeuronSet) -> NeuronSet:
        return (self - other) | (other - self)

    def _where(self, other: NeuronSet, *, present: bool) -> NeuronSet:
        """Keep the neurons that are (or are not) in the other set."""
        parts = []
        for name, part in self._parts.items():
            theirs = other._parts.get(name)
            if theirs is not None:
                same_width(part.site, theirs.site)
                keep = np.isin(part.indices, theirs.indices, assume_unique=True, invert=not present)
                parts.append(part.take(keep))
            elif not present:
                parts.append(part)
        return NeuronSet._from_parts(parts)

    def top(self, k: int, *, largest: bool = True) -> NeuronSet:
        """Return the ``k`` neurons with the largest (or smallest) scores.

        Ties go to the neuron that comes first in the set's order; a score that is not a number comes last.

        Raises:
            InvalidArgumentError: If the set has no scores, or ``k`` is negative.
        """
        if k < 0:
            raise InvalidArgumentError(f"k must be 0 or more, not {k}.")
        if not self.scored:
            if not self._parts:
                return self
            raise InvalidArgumentError(
                "The set has no scores to sort by. Make it with NeuronSet.of(..., scores=...)."
            )
        values = np.concatenate(
            [unscored(p.indices) if p.scores is None else p.scores for p in self._parts.values()]
        )
        chosen = np.zeros(values.size, dtype=bool)
        chosen[np.argsort(-values if largest else values, kind="stable")[:k]] = True
        ends = np.cumsum([part.indices.size for part in self._parts.values()])[:-1]
        keeps = np.split(chosen, ends)
        return NeuronSet._from_parts(
            p.take(keep) for p, keep in zip(self._parts.values(), keeps, strict=True)
        )

    def filter(self, keep: Callable[[Site, int], bool]) -> NeuronSet:
        """Return the neurons for which ``keep(site, index)`` is true."""
        return NeuronSet._from_parts(
            part.take(
                np.fromiter(
                    (bool(keep(part.site, i)) for i in part.indices.tolist()), bool, part.indices.size
                )
            )
            for part in self._parts.values()
        )

    def per_layer(self) -> dict[tuple[str, int | None], int]:
        """Return how many neurons each layer has in the set, by ``(stack, layer)``."""
        counts: dict[tuple[str, int | None], int] = {}
        for part in self._parts.values():
            key = (part.site.stack, part.site.layer)
            counts[key] = counts.get(key, 0) + part.indices.size
        return counts

    def matched_random(self, sites: Site | Iterable[Site] | None = None, *, seed: int = 0) -> NeuronSet:
        """Return a random control: as many neurons in each site, none of them in this set if there is room.

        Args:
            sites: The sites that may be drawn from; each site of this set must be among them. None means the
                set's own.
            seed: Same seed, same control. What is drawn in one site does not depend on the others.

        Raises:
            SiteNotFoundError: If a site of this set is not among ``sites``.
        """
        allowed = Sites(self.sites) if sites is None else Sites.of(sites)
        parts = []
        for part in self._parts.values():
            site = allowed[part.site.name]
            rng = np.random.default_rng([seed, zlib.crc32(site.name.encode())])
            others = rng.permutation(np.setdiff1d(np.arange(site.width), part.indices, assume_unique=True))
            # Where more than half of a site is in the set there are not as many others: the set's own fill
            # up.
            drawn = np.concatenate([others, rng.permutation(part.indices)])[: part.indices.size]
            parts.append(make_part(site, drawn.astype(np.int64), None))
        return NeuronSet._from_parts(parts)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per neuron: site, layer, stack, neuron, score (NaN without scores)."""
        parts = list(self._parts.values())
        sizes = [part.indices.size for part in parts]
        none = np.empty(0)
        return pd.DataFrame(
            {
                "site": pd.Series(
                    np.repeat(np.array([p.site.name for p in parts], dtype=object), sizes), dtype="str"
                ),
                "layer": pd.Series(
                    np.repeat(np.array([p.site.layer for p in parts], object), sizes), dtype="Int64"
                ),
                "stack": pd.Series(
                    np.repeat(np.array([p.site.stack for p in parts], object), sizes), dtype="str"
                ),
                "neuron": np.concatenate([none.astype(np.int64), *(p.indices for p in parts)]),
                "score": np.concatenate(
                    [none, *(unscored(p.indices) if p.scores is None else p.scores for p in parts)]
                ),
            }
        )

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, sites: Site | Iterable[Site]) -> NeuronSet:
        """Make a set from a table with the columns ``site`` (its name), ``neuron``, and ``score`` if wanted.

        Raises:
            InvalidArgumentError: If a column is missing.
            SiteNotFoundError: If a name in the table is not among ``sites``.
            NeuronIndexError: If an index is outside its site's width.
        """
        missing = {"site", "neuron"} - set(frame.columns)
        if missing:
            raise InvalidArgumentError(
                f"The table needs the columns site and neuron; it lacks {', '.join(sorted(missing))}. "
                f"It has: {', '.join(map(str, frame.columns))}."
            )
        known = Sites.of(sites)
        has_scores = "score" in frame.columns and bool(frame["score"].notna().any())
        parts = []
        for name, rows in frame.groupby("site", sort=False, observed=True):
            site = known[str(name)]
            score = rows["score"].to_numpy(dtype=np.float64, na_value=np.nan) if has_scores else None
            parts.append(make_part(site, as_indices(site, rows["neuron"].to_numpy()), score))
        return cls._from_parts(parts)

    def save(self, path: str | Path) -> None:
        """Write the table of :meth:`to_frame` to a Parquet file; the file is whole or not there.

        Raises:
            WriteError: If the file cannot be written.
        """
        with atomic_file(path) as temporary:
            self.to_frame().to_parquet(temporary, index=False, compression="zstd")

    @classmethod
    def load(cls, path: str | Path, sites: Site | Iterable[Site]) -> NeuronSet:
        """Read a set that :meth:`save` wrote, or any Parquet table that :meth:`from_frame` takes."""
        return cls.from_frame(pd.read_parquet(path), sites)

    @classmethod
    def parse(cls, text: str, sites: Site | Iterable[Site]) -> NeuronSet:
        """Read a set from text.

        Args:
            text: Words ``layer:indices`` or ``site[indices]``, separated by spaces. Indices are numbers and
                ranges separated by commas, or ``*`` for all: ``"3:17,42 5:*"``, ``"mlp.down:input[0-9]"``.
            sites: The sites that the words may name.

        Raises:
            InvalidArgumentError: If a word cannot be read, or its layer has more than one site.
            SiteNotFoundError: If there is no such layer or site.
            NeuronIndexError: If an index is outside its site's width.
        """
        known = Sites.of(sites)
        parts = []
        for word in re.sub(r"\s*,\s*", ",", text).split():
            site, listed = parse_word(word, known)
            parts.append(make_part(site, as_indices(site, parse_indices(word, listed)), None))
        return _union(parts)

    def __repr__(self) -> str:
        listed = [f"{p.site.name}[{shorten(p.indices)}]" for p in list(self._parts.values())[:3]]
        more = ", ..." if len(self._parts) > 3 else ""
        head = f"<NeuronSet: {len(self)} neurons in {len(self._parts)} sites"
        return f"{head}: {', '.join(listed)}{more}>" if listed else "<NeuronSet: empty>"

    def _repr_html_(self) -> str:
        table = self.to_frame().head(20).to_html(index=False)
        return f"<p>{len(self)} neurons in {len(self._parts)} sites</p>{table}"


def _union(parts: Iterable[Part]) -> NeuronSet:
    merged: dict[str, Part] = {}
    for part in parts:
        old = merged.get(part.site.name)
        if old is None:
            merged[part.site.name] = part
            continue
        same_width(old.site, part.site)
        scores = None
        if old.scores is not None or part.scores is not None:
            scores = np.concatenate(
                [unscored(p.indices) if p.scores is None else p.scores for p in (old, part)]
            )
        merged[part.site.name] = make_part(old.site, np.concatenate([old.indices, part.indices]), scores)
    return NeuronSet._from_parts(merged.values())
