"""Figures: one clean style, and SVG that can stand in a page beside others of its kind."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import matplotlib
import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

__all__ = [
    "ACCENT",
    "INK",
    "MUTED",
    "RULE",
    "WARM",
    "bands",
    "clean",
    "fitted_axes",
    "new_axes",
    "room_for",
    "styled",
    "svg",
]

ACCENT = "#2166ac"
WARM = "#b8480c"
INK = "#1c2128"
MUTED = "#59636e"
RULE = "#d0d7de"

# In a page these colours follow the page's own, so that figures turn dark with it.
_VARIABLES: Mapping[str, str] = MappingProxyType(
    {ACCENT: "--accent", WARM: "--warm", INK: "--ink", MUTED: "--muted", RULE: "--rule"}
)

_STYLE: Mapping[str, object] = MappingProxyType(
    {
        "axes.labelcolor": MUTED,
        "axes.edgecolor": RULE,
        "axes.labelsize": 8.5,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 9.5,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "font.size": 8.5,
        "svg.fonttype": "none",
        "svg.id": None,
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
)


@contextmanager
def styled(*, salt: str = "neuronwise") -> Iterator[None]:
    """Draw in the style of the pages, whatever the user's own settings, which come back afterwards.

    Args:
        salt: Goes into the ids of the SVG, which must differ between the figures of one page.
    """
    with matplotlib.style.context(["default", {**_STYLE, "svg.hashsalt": salt}]):
        yield


def new_axes(
    width: float, height: float, *, left: float = 0.55, bottom: float = 0.45, top: float = 0.08
) -> Axes:
    """Return axes of a figure of their own, without touching pyplot or its backend.

    The room for the labels is given, because letting Matplotlib measure it takes several times as long.

    Args:
        width: Width of the figure in inches.
        height: Its height in inches.
        left: Room on the left, in inches.
        bottom: Room below, in inches.
        top: Room above, in inches.
    """
    box = (left / width, bottom / height, 1 - (left + 0.08) / width, 1 - (bottom + top) / height)
    return Figure(figsize=(width, height)).add_axes(box)


def fitted_axes(width: float, height: float) -> Axes:
    """Return axes of a figure of their own that makes room for its labels, whatever the user's settings."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def room_for(labels: Iterable[str]) -> float:
    """Return the width of the longest of some labels, in inches and nearly enough."""
    return 0.15 + 0.068 * max((len(label) for label in labels), default=0)


def clean(ax: Axes) -> None:
    """Leave only the lines that are read: no frame, a faint grid along the values."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.minorticks_off()
    ax.grid(axis="y", color=RULE, linewidth=0.5)
    ax.tick_params(length=0)


def svg(figure: Figure, *, label: str) -> Markup:
    """Return a figure as an SVG element that can be put into a page.

    Ids that nothing refers to, comments, dates and namespaces are left out: a page may hold many figures, and
    the same figure shall always give the same bytes.

    Args:
        figure: The figure; drawn and saved within :func:`styled`.
        label: What the figure shows, for readers who do not see it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The text is set by the browser, which has more letters than the font that measures it here.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)
    head, body = text.split(">", 1)
    match = re.search(r'viewBox="[^"]*"', head)
    box = match.group() if match else ""
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r">\s+<", "><", body).strip()
    return Markup('<svg {} role="img" aria-label="{}">{}').format(Markup(box), label, Markup(body))


def bands(ax: Axes, values: Sequence[NDArray[np.float64]], labels: Sequence[str], *, scale: str) -> None:
    """Draw one column for each group: a line from least to most, 5 to 95 %, 25 to 75 %, and the median.

    Args:
        ax: The axes.
        values: The groups; values that are not finite are left out.
        labels: A name for each group.
        scale: ``"linear"``, ``"log"`` or ``"symlog"``.
    """
    places = np.arange(len(values))
    levels = np.full((7, len(values)), np.nan)
    for place, group in enumerate(values):
        finite = group[np.isfinite(group)]
        if finite.size:
            levels[:, place] = np.quantile(finite, [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
    thickness = float(np.clip(120 / max(len(values), 1), 1.5, 9))
    ax.vlines(places, levels[0], levels[6], color=ACCENT, linewidth=0.8, alpha=0.7)
    ax.vlines(places, levels[1], levels[5], color=ACCENT, linewidth=thickness / 2, alpha=0.4)
    ax.vlines(places, levels[2], levels[4], color=ACCENT, linewidth=thickness)
    ax.plot(places, levels[3], "o", color=WARM, markersize=max(thickness * 0.55, 2.0), zorder=3)
    if scale == "symlog":
        ax.set_yscale("symlog", linthresh=1.0)
    elif scale == "log":
        ax.set_yscale("log")
    if scale != "linear":
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    step = max(1, -(-len(places) // 12))
    tilted = max((len(label) for label in labels), default=0) > 4
    ax.set_xticks(
        places[::step], list(labels)[::step], rotation=35 if tilted else 0, ha="right" if tilted else "center"
    )
    ax.set_xlim(-0.7, len(values) - 0.3)
    clean(ax)
