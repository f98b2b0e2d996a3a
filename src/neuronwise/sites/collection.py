"""Sites: the ordered, immutable collection that discovery returns."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from neuronwise.errors import InvalidArgumentError, SiteNotFoundError, closest
from neuronwise.sites.site import Site

if TYPE_CHECKING:
    from neuronwise.sites.neurons import NeuronSet

__all__ = ["Sites"]


class Sites(Sequence[Site]):
    """An immutable sequence of sites in the model's order, no two with the same name.

    Example:
        >>> sites = Sites([Site("a", "input", width=4, layer=0), Site("b", "input", width=6, layer=1)])
        >>> sites["b:input"].width, sites.width, len(sites.layer(0))
        (6, 10, 1)
    """

    __slots__ = ("_by_name", "_sites")

    def __init__(self, sites: Iterable[Site] = ()) -> None:
        self._sites = tuple(sites)
        self._by_name: dict[str, Site] = {}
        for site in self._sites:
            if not isinstance(site, Site):
                raise InvalidArgumentError(
                    f"Sites are made of Site objects, not {type(site).__name__}. "
                    "For names, use find_sites(model, where)."
                )
            if site.name in self._by_name:
                raise InvalidArgumentError(f"The site {site.name} was given twice.")
            self._by_name[site.name] = site

    @classmethod
    def of(cls, sites: Site | Iterable[Site]) -> Sites:
        """Return ``sites`` as a collection, whether it is one site, several, or a collection already."""
        if isinstance(sites, Sites):
            return sites
        return cls([sites] if isinstance(sites, Site) else sites)

    @overload
    def __getitem__(self, key: int | str) -> Site: ...

    @overload
    def __getitem__(self, key: slice) -> Sites: ...

    def __getitem__(self, key: int | str | slice) -> Site | Sites:
        """Return a site by position or by name, or several by slice.

        Raises:
            SiteNotFoundError: If no site has that name.
        """
        if isinstance(key, str):
            if key not in self._by_name:
                raise SiteNotFoundError(f"There is no site {key!r} here. {closest(key, self._by_name)}")
            return self._by_name[key]
        if isinstance(key, slice):
            return Sites(self._sites[key])
        return self._sites[key]

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __contains__(self, value: object) -> bool:
        return value in self._by_name if isinstance(value, str) else value in self._sites

    def __eq__(self, other: object) -> bool:
        return self._sites == other._sites if isinstance(other, Sites) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sites)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sites, in order."""
        return tuple(self._by_name)

    @property
    def width(self) -> int:
        """How many neurons all sites have together."""
        return sum(site.width for site in self._sites)

    def layer(self, number: int, stack: str | None = None) -> Sites:
        """Return the sites of one layer.

        Args:
            number: Number of the layer within its stack, from 0.
            stack: Path of the list of layers, such as ``"encoder.block"``; None means every stack.

        Raises:
            SiteNotFoundError: If no site is in that layer.
        """
        found = [s for s in self._sites if s.layer == number and stack in (None, s.stack)]
        if not found:
            known = sorted({(s.stack, s.layer) for s in self._sites if s.layer is not None})
            listed = (
                ", ".join(f"{layer} of {name!r}" for name, layer in known)
                or "none: the sites have no layer numbers"
            )
            where = "" if stack is None else f" of the stack {stack!r}"
            raise SiteNotFoundError(f"No site is in layer {number}{where}. Layers here: {listed}.")
        return Sites(found)

    def select(self, where: str | Callable[[Site], bool]) -> Sites:
        """Return the sites that a glob or a predicate picks.

        Args:
            where: A glob such as ``"encoder.*"``, compared with name and path of each site; or a function of
                the site.

        Raises:
            SiteNotFoundError: If nothing is picked.
        """
        if isinstance(where, str):
            found = [s for s in self._sites if fnmatchcase(s.name, where) or fnmatchcase(s.path, where)]
        else:
            found = [s for s in self._sites if where(s)]
        if not found:
            hint = (
                closest(where, self._by_name)
                if isinstance(where, str)
                else f"There are {len(self)} sites here."
            )
            raise SiteNotFoundError(f"{where!r} picks no site. {hint}")
        return Sites(found)

    def neurons(self) -> NeuronSet:
        """Return all neurons of these sites as a set."""
        from neuronwise.sites.neurons import NeuronSet

        return NeuronSet.of(self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per site: site, path, tensor, call, stack, layer, kind, width, axis."""
        rows = [
            (s.name, s.path, s.tensor, s.call, s.stack, s.layer, s.kind, s.width, s.axis) for s in self._sites
        ]
        columns = ["site", "path", "tensor", "call", "stack", "layer", "kind", "width", "axis"]
        frame = pd.DataFrame(rows, columns=columns)
        whole = dict.fromkeys(("call", "layer"), "Int64") | dict.fromkeys(("width", "axis"), "int64")
        text = dict.fromkeys(("site", "path", "tensor", "stack", "kind"), "str")
        return frame.astype(whole | text)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Sites:
        """Return the sites of a table made by :meth:`to_frame`, as addresses: they do not know their weights."""
        records = frame.astype(object).where(frame.notna(), None).to_dict("records")
        names = ("path", "tensor", "width", "axis", "layer", "stack", "kind", "call")
        whole = {"width", "axis", "layer", "call"}

        def value(record: dict[Hashable, Any], name: str) -> Any:
            return int(record[name]) if name in whole and record[name] is not None else record[name]

        return cls(Site(**{name: value(record, name) for name in names}) for record in records)

    def __repr__(self) -> str:
        head = ", ".join(self.names[:3])
        more = f", ... {self.names[-1]}" if len(self) > 3 else ""
        return (
            f"<Sites: {len(self)} sites, {self.width} neurons: {head}{more}>"
            if self._sites
            else "<Sites: none>"
        )

    def _repr_html_(self) -> str:
        return f"<p>{len(self)} sites, {self.width} neurons</p>{self.to_frame().to_html(index=False)}"
