"""How numbers, tokens and sites are written in a page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from neuronwise.sites import Site

__all__ = ["count", "number", "short_labels", "site_labels", "statistic_name", "token_text", "with_error"]

_STATISTICS: Mapping[str, str] = MappingProxyType(
    {
        "n": "Values",
        "nonfinite": "NaN or infinite",
        "mean": "Mean",
        "std": "Standard deviation",
        "skewness": "Skewness",
        "kurtosis": "Excess kurtosis",
        "min": "Minimum",
        "max": "Maximum",
        "active": "Fraction active",
        "quantile_n": "Values behind the quantiles",
    }
)

_SHORT: Mapping[str, str] = MappingProxyType(
    {"std": "Std. dev.", "kurtosis": "Kurtosis", "active": "Active", "nonfinite": "Not finite"}
)

_VISIBLE: Mapping[str, str] = MappingProxyType({"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡"})


def statistic_name(column: str, *, short: bool = False) -> str:
    """Return what to call a column of the table of neurons, in full or as the head of a narrow column."""
    if short and column in _SHORT:
        return _SHORT[column]
    if match := re.fullmatch(r"q(\d\d)", column):
        return f"{int(match[1])}\u00a0% quantile"
    return _STATISTICS.get(column, column)


def number(value: float, digits: int = 4) -> str:
    """Return a number in that many significant digits; a dash for one that is not defined."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}".rstrip(".")
    if "e" in text and 1e-4 <= abs(value) < 1e7:
        text = f"{value:.0f}"
    return text.replace("-", "−")


def with_error(value: float, error: float) -> str:
    """Return a value and its standard error, both to the second digit of the error."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return number(value)
    decimals = 1 - math.floor(math.log10(error))
    if decimals > 6 or max(abs(value), error) >= 1e7:
        return f"{number(value)} ± {number(error, 2)}"
    places = max(decimals, 0)
    return f"{value:.{places}f} ± {error:.{places}f}".replace("-", "−")


def count(value: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{value:,}"


def token_text(token: str) -> str:
    """Return a token with what cannot be seen made visible: line ends, tabs, lone spaces, control characters."""
    if not token:
        return "∅"
    if not token.strip(" "):
        return "·" * len(token)
    return "".join(_visible(character) for character in token)


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    return chr(0x2400 + ord(character)) if character < " " else character


def site_labels(sites: Sequence[Site]) -> list[str]:
    """Return a name for each site, as short as tells them apart: its layer, its stack and layer, or its full name."""
    if len({site.layer for site in sites} - {None}) == len(sites):
        return [f"Layer {site.layer}" for site in sites]
    if len({(site.stack, site.layer) for site in sites if site.layer is not None}) == len(sites):
        return [
            f"{site.stack}, layer {site.layer}" if site.stack else f"Layer {site.layer}" for site in sites
        ]
    return [site.name for site in sites]


def short_labels(sites: Sequence[Site], *, length: int = 14) -> list[str]:
    """Return a name for each site that fits under an axis."""
    if len({site.layer for site in sites} - {None}) == len(sites):
        return [str(site.layer) for site in sites]
    return [s.name if len(s.name) <= length else f"…{s.name[1 - length :]}" for s in sites]
