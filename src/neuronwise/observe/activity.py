"""Activity: what one pass over a corpus says about every neuron."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neuronwise.errors import AddressError, InvalidArgumentError, NeuronIndexError, closest
from neuronwise.sites import NeuronSet, Site, Sites
from neuronwise.store import Result

__all__ = ["Activity"]


class Activity(Result):
    """Statistics, strongest examples and connections of every neuron, from :func:`neuronwise.observe`.

    Tables (which ones depends on the reducers; ``docs/reference/schema`` lists the columns): ``sites``, ``neurons``,
    ``examples``, ``contexts``, ``histogram``, ``coactivation``, ``class_means``, ``promoted``, ``images``.

    Example:
        >>> import neuronwise as nw
        >>> loaded = nw.load_model("stories260k")
        >>> corpus = nw.corpus(["Once upon a time there was a dog."], tokenizer=loaded.tokenizer)
        >>> activity = nw.observe(loaded.model, corpus)
        >>> len(activity.to_frame())
        860
    """

    kind: ClassVar[str] = "activity"
    main_table: ClassVar[str] = "neurons"

    @property
    def sites(self) -> Sites:
        """The sites that were observed. As addresses only: they do not know their weights."""
        return Sites.from_frame(self.tables["sites"])

    def statistic(self, name: str) -> Mapping[Site, NDArray[np.float64]]:
        """Return one statistic of every neuron, ``{site: (neuron,)}``.

        Args:
            name: A column of the table ``neurons``, such as ``"kurtosis"``.

        Raises:
            AddressError: If there is no such column.
        """
        frame = self.tables["neurons"]
        if name not in frame.columns:
            raise AddressError(
                f"The table of neurons has no column {name!r}. {closest(name, list(frame.columns))}"
            )
        by_site = dict(list(frame.groupby("site", observed=True, sort=False)))
        return {
            site: by_site[site.name].sort_values("neuron")[name].to_numpy(dtype=np.float64)
            for site in self.sites
        }

    def means(self) -> Mapping[Site, NDArray[np.float64]]:
        """Return every neuron's mean, in the form that ``intervene(..., "mean", activity.means())`` takes."""
        return self.statistic("mean")

    def neurons(self, by: str) -> NeuronSet:
        """Return all neurons, scored by a statistic; ``activity.neurons("kurtosis").top(10)`` is a selection.

        Raises:
            AddressError: If there is no such statistic.
        """
        scores = self.statistic(by)
        return NeuronSet.of({site: range(site.width) for site in scores}, scores=scores)

    def examples(self, site: Site | str, neuron: int, *, side: str = "top") -> pd.DataFrame:
        """Return one neuron's strongest examples, best first, with the tokens around each peak where there are tokens.

        Args:
            site: The site or its name.
            neuron: The neuron's index.
            side: ``"top"`` or ``"bottom"``.

        Returns:
            Columns ``rank``, ``value``, ``example``, ``position`` and, for text, ``text``, the tokens around the peak
            with the peak in brackets.

        Raises:
            InvalidArgumentError: If ``side`` is neither.
            NeuronIndexError: If the site has no such neuron.
        """
        if side not in ("top", "bottom"):
            raise InvalidArgumentError(f"side must be 'top' or 'bottom', not {side!r}.")
        width = self.sites[str(site)].width
        if not 0 <= neuron < width:
            raise NeuronIndexError(f"{site} has the neurons 0 to {width - 1}; there is no neuron {neuron}.")
        rows = self.rows("examples", site=self._known(site), neuron=neuron)
        rows = rows[rows["side"] == side].sort_values("rank")[["rank", "value", "example", "position"]]
        if "contexts" in self.tables:
            contexts = self.rows("contexts", site=self._known(site), neuron=neuron)
            contexts = contexts[contexts["side"] == side].sort_values(["rank", "offset"])
            marked = np.where(contexts["offset"] == 0, "[" + contexts["token"] + "]", contexts["token"])
            text = contexts.assign(text=marked).groupby("rank")["text"].agg("".join)
            rows = rows.merge(text, left_on="rank", right_index=True, how="left")
        return rows.reset_index(drop=True)

    def _known(self, site: Site | str) -> str:
        return self.sites[str(site)].name

    @property
    def nonfinite(self) -> pd.DataFrame:
        """The neurons that had values that are NaN or infinite, with how many: site, neuron, nonfinite."""
        frame = self.tables["neurons"]
        return frame.loc[frame["nonfinite"] > 0, ["site", "neuron", "nonfinite"]].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """Return one row a site: how many neurons, how many dead and nearly dead, and medians of the main statistics.

        A neuron is *dead* if it says nothing: all its activations are equal, up to a thousandth of what is usual in its
        site (the median of ``max - min``). A neuron that is always negative is not dead if it varies, as gated ones do.
        It is *nearly dead* if it is not dead, goes no further below zero than that, and is above zero at less than one
        position in a thousand. Both need the extremes, nearly dead also the fraction active.
        """
        frame = self.tables["neurons"]
        rows: list[dict[str, Any]] = []
        for site in self.sites:
            own = frame[frame["site"] == site.name]
            row: dict[str, Any] = {"site": site.name, "layer": site.layer, "neurons": len(own)}
            row |= _dead(own)
            for column in ("active", "mean", "std", "skewness", "kurtosis"):
                if column in own:
                    row[f"median_{column}"] = float(own[column].median())
            rows.append(row)
        return pd.DataFrame(rows)

    def report(self, path: str | Path, *, neurons: NeuronSet | None = None, title: str | None = None) -> Path:
        """Write one self-contained HTML page and return its path.

        Args:
            path: The file to write.
            neurons: The neurons that get a section of their own; default: the most selective ones of every site.
            title: Heading of the page.
        """
        return super().report(path, neurons=neurons, title=title)


def _dead(neurons: pd.DataFrame) -> dict[str, int]:
    """Count the dead and the nearly dead of one site's neurons, as far as it was observed what that takes."""
    if not {"min", "max"} <= set(neurons.columns):
        return {}
    spread = neurons["max"] - neurons["min"]
    tolerance = 1e-3 * spread.median()
    dead = spread <= tolerance
    counts = {"dead": int(dead.sum())}
    if "active" in neurons:
        rare = (neurons["active"] < 1e-3) & (neurons["min"] >= -tolerance)
        counts["nearly_dead"] = int((rare & ~dead).sum())
    return counts
