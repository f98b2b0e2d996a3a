"""What located facts look like: their neurons over the layers, how far prompts agree, and single facts in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from neuronwise.errors import FactError, InvalidArgumentError, NeuronIndexError, closest
from neuronwise.knowledge import KnowledgeNeurons
from neuronwise.report._figures import (
    ACCENT,
    INK,
    RULE,
    WARM,
    clean,
    fitted_axes,
    new_axes,
    room_for,
    styled,
    svg,
)
from neuronwise.report._page import Card, cards, write
from neuronwise.report._words import count, number, short_labels, site_labels
from neuronwise.sites import NeuronSet

__all__ = ["page", "plot"]

_SHOWN = 24  # facts with a chart
_BARS = 12  # neurons of a chart, a side
_RELATIONS, _HUBS, _PROBLEMS = 200, 30, 50
_AXIS_NAMES = 10  # sites with a name of more than a number that fit under an axis
_COLOURS = {"most": ACCENT, "least": WARM}


def plot(result: KnowledgeNeurons, ax: Axes | None = None) -> Axes:
    """Draw how many neurons a fact has in each layer: for its answer (most) and against it (least).

    Args:
        result: Located facts.
        ax: Axes to draw on; default: those of a new figure, ``ax.figure``.

    Returns:
        The axes.
    """
    return _draw_layers(result, _per_site(result), fitted_axes(6, 3.4) if ax is None else ax)


def page(
    result: KnowledgeNeurons,
    path: str | Path,
    *,
    neurons: NeuronSet | None = None,
    title: str | None = None,
    facts: Iterable[str] | None = None,
) -> Path:
    """Write located facts as one HTML file that opens offline and needs nothing else.

    Args:
        result: Located facts.
        path: The file to write.
        neurons: Show those facts in full that have one of these neurons, instead of the first of each relation.
        title: Heading of the page.
        facts: Ids of the facts to show in full. At most 24 are shown; the page says so where there are more.

    Returns:
        The path.

    Raises:
        FactError: If there is no fact of such an id.
        InvalidArgumentError: If both ``neurons`` and ``facts`` are given.
        SiteNotFoundError: If one of the neurons is of a site that was not looked at.
        NeuronIndexError: If a site of that name has fewer neurons here.
        WriteError: If the file cannot be written.
    """
    chosen, why = _chosen(result, neurons, facts)
    known, problems = result.tables["facts"], result.tables["fact_problems"]
    per_site = _per_site(result)
    parameters = result.manifest.action.get("parameters", {})
    name = result.manifest.model.get("name", "a model")
    values = {
        "title": title or f"Neurons of facts in {name}",
        "subtitle": _subtitle(known, result),
        "cards": _cards(result),
        "findings": _findings(result),
        "figures": _histograms(known),
        "layers": _layers_figure(result, per_site),
        "layer_rows": _layer_rows(result, per_site),
        "has_least": bool(per_site["least"].sum()),
        "relations": _relations(result),
        "hubs": _hubs(result),
        "sections": _sections(result, chosen[:_SHOWN]),
        "why": why,
        "left_out": max(0, len(chosen) - _SHOWN),
        "score": _score_words(parameters),
        "problems": [(str(row.fact), str(row.reason)) for row in problems.head(_PROBLEMS).itertuples()],
        "n_problems": len(problems),
        "skipped": int(result.manifest.data.get("skipped", 0) or 0),
        "eliminated": parameters.get("method") == "elimination",
    }
    return write(path, "knowledge.html.j2", values)


def _per_site(result: KnowledgeNeurons) -> pd.DataFrame:
    """Return for each site and side how many pairs of a fact and one of its neurons there are."""
    frame = result.tables["fact_neurons"]
    refined = frame[frame["refined"]]
    names = [site.name for site in result.sites]
    sides = {side: refined.loc[refined["side"] == side, "site"].value_counts() for side in ("most", "least")}
    return pd.DataFrame({side: counts.reindex(names, fill_value=0) for side, counts in sides.items()})


def _draw_layers(result: KnowledgeNeurons, per_site: pd.DataFrame, ax: Axes) -> Axes:
    facts = max(len(result.tables["facts"]), 1)
    sides = [side for side in ("most", "least") if side == "most" or per_site[side].sum()]
    spots = np.arange(len(per_site))
    width = 0.8 / len(sides)
    words = {"most": "for the answer (most)", "least": "against it (least)"}
    for place, side in enumerate(sides):
        at = spots + (place - (len(sides) - 1) / 2) * width
        ax.bar(at, per_site[side] / facts, width=width, color=_COLOURS[side], label=words[side])
    labels = short_labels(result.sites)
    step = max(1, -(-len(labels) // (24 if all(label.isdigit() for label in labels) else _AXIS_NAMES)))
    tilted = max(map(len, labels), default=0) > 4
    ax.set_xticks(
        spots[::step], labels[::step], rotation=35 if tilted else 0, ha="right" if tilted else "center"
    )
    ax.set_xlim(-0.6, len(labels) - 0.4)
    ax.set_xlabel("Site" if tilted else "Layer")
    ax.set_ylabel("Neurons a fact")
    clean(ax)
    if len(sides) > 1:
        ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)
    return ax


def _layers_figure(result: KnowledgeNeurons, per_site: pd.DataFrame) -> Markup:
    tilted = max(map(len, short_labels(result.sites)), default=0) > 4
    with styled(salt="layers"):
        ax = _draw_layers(result, per_site, new_axes(5.6, 2.7, bottom=1.1 if tilted else 0.45, top=0.3))
        return svg(ax.figure.get_figure(root=True), label="Neurons a fact in each layer")


def _layer_rows(result: KnowledgeNeurons, per_site: pd.DataFrame) -> list[tuple[str, ...]]:
    frame = result.tables["fact_neurons"]
    most = frame[frame["refined"] & (frame["side"] == "most")]
    grouped = most.groupby("site", observed=True)
    different, having = grouped["neuron"].nunique(), grouped["fact"].nunique()
    facts, total = max(len(result.tables["facts"]), 1), max(int(per_site["most"].sum()), 1)
    return [
        (
            label,
            count(site.width),
            number(per_site["most"][site.name] / facts, 3),
            f"{per_site['most'][site.name] / total:.1%}",
            count(int(different.get(site.name, 0))),
            f"{having.get(site.name, 0) / facts:.1%}",
            number(per_site["least"][site.name] / facts, 3),
        )
        for label, site in zip(site_labels(result.sites), result.sites, strict=True)
    ]


def _subtitle(known: pd.DataFrame, result: KnowledgeNeurons) -> str:
    relations = known["relation"].replace("", np.nan).nunique()
    text = f"{count(len(known))} {'fact' if len(known) == 1 else 'facts'}"
    if relations:
        text += f" of {count(relations)} {'relation' if relations == 1 else 'relations'}"
    sites = len(result.sites)
    neurons = sum(site.width for site in result.sites)
    return f"{text}, looked for among {count(neurons)} neurons in {sites} {'site' if sites == 1 else 'sites'}"


def _cards(result: KnowledgeNeurons) -> list[Card]:
    data, parameters = result.manifest.data, result.manifest.action.get("parameters", {})
    model, _, run = cards(result.manifest)
    refinement = parameters.get("refinement", {})
    eliminated = parameters.get("method") == "elimination"
    how: dict[str, Any] = {
        "Method": parameters.get("method"),
        "Target": str(parameters.get("target", "")).replace("_", " "),
        "Positions": parameters.get("positions"),
    }
    if eliminated:
        how |= {"Neurons a fact": parameters.get("k"), "Switched off at a time": parameters.get("step")}
    else:
        how |= {
            "Threshold": parameters.get("threshold"),
            "Share of prompts": refinement.get("share"),
            "Rule": refinement.get("rule"),
            "Sister facts": parameters.get("contrast"),
        }
    facts = [
        ("Name", data.get("name")),
        ("Facts", data.get("facts")),
        ("Fingerprint", str(data.get("fingerprint", ""))[:12]),
    ]
    return [model, _card("Facts", facts), _card("Search", how.items()), run]


def _card(title: str, facts: Iterable[tuple[str, Any]]) -> Card:
    said = [(name, count(value) if isinstance(value, int) else str(value)) for name, value in facts]
    return Card(title, [(name, text) for name, text in said if text not in ("", "None")])


def _findings(result: KnowledgeNeurons) -> list[tuple[str, str, str]]:
    """Return what was found: its name, the figure, and what it says, in words that need no paper."""
    known, hubs = result.tables["facts"], result.tables["hubs"]
    without = int((known["neurons"] == 0).sum())
    found = [
        (
            "Answered right",
            _percent(known["right"].mean()),
            f"of the prompts; the right answer has the mean probability {number(known['p'].mean(), 3)}. Neurons of "
            "facts that the model does not know say little.",
        ),
        (
            "Neurons a fact",
            number(known["neurons"].mean(), 3),
            f"on average, median {known['neurons'].median():g}; {count(without)} "
            f"{'fact has' if without == 1 else 'facts have'} none. How many there are is set by threshold "
            "and share, not found.",
        ),
        *_agreement(known),
        *_overlap(result),
        (
            "In many facts' sets",
            count(len(hubs)),
            f"neurons: {count(int((hubs['kind'] == 'hub').sum()))} hubs (facts of several relations) and "
            f"{count(int((hubs['kind'] == 'relation').sum()))} relation neurons (mostly of one). They are not the "
            "neurons of a single fact; leave them out when you edit one.",
        ),
    ]
    gaps = known["gap"].abs()
    if gaps.notna().any():
        found.append(
            (
                "Largest completeness gap",
                number(float(gaps.max()), 2),
                "The scores of a layer must add up to what is lost without the whole layer. This is by how much they "
                "miss it at worst: the error of the integral.",
            )
        )
    return found


def _agreement(known: pd.DataFrame) -> list[tuple[str, str, str]]:
    several = int((known["prompts"] > 1).sum())
    if not several:
        text = (
            "Every fact has one prompt, so nothing tells neurons of the fact from neurons of its wording. Give "
            "several prompts a fact, at least three."
        )
        return [("Agreement of prompts", "–", text)]
    jaccard, parallel = float(known["jaccard"].mean()), float(known["r1_squared"].mean())
    return [
        (
            "Agreement of prompts: sets",
            number(jaccard, 2),
            "Jaccard index: of the neurons that either of two prompts of a fact has, the part that both have. 1: the "
            "same neurons in every wording; near 0: the neurons belong to the wordings, not to the fact, and the set "
            "of the fact should not be trusted.",
        ),
        (
            "Agreement of prompts: scores",
            number(parallel, 2),
            "R1²: whether the scores of all neurons point the same way for all prompts of a fact, 1, or are unrelated, "
            "0. It uses no threshold; if it is high and the Jaccard index low, the threshold parts what is alike.",
        ),
    ]


def _overlap(result: KnowledgeNeurons) -> list[tuple[str, str, str]]:
    relations = result.tables["relations"]
    row = relations[relations["relation"] == ""]
    if not len(row) or not np.isfinite(row["shared_within"].iloc[0]):
        return []
    within, across = float(row["shared_within"].iloc[0]), float(row["shared_across"].iloc[0])
    text = f"neurons that two facts of one relation share (Jaccard {number(float(row['jaccard_within'].iloc[0]), 2)})"
    if np.isfinite(across):
        text += f", against {number(across, 2)} of two facts of different relations"
    text += ". Neurons shared within a relation tell what kind of answer is asked for, rather than the fact."
    return [("Overlap of facts", number(within, 2), text)]


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0%}"


def _histograms(known: pd.DataFrame) -> list[Markup]:
    drawn = [("neurons", "Neurons a fact"), ("jaccard", "Jaccard index"), ("r1_squared", "R1²")]
    figures = []
    for column, label in drawn:
        values = known[column].dropna().to_numpy(np.float64)
        if not len(values):
            continue
        bins: Any = np.linspace(0, 1, 21)
        if column == "neurons":
            top = int(values.max()) + 1
            bins = np.arange(0, top + 1, max(1, -(-top // 30))) - 0.5
            bins = np.append(bins, bins[-1] + (bins[1] - bins[0] if len(bins) > 1 else 1))
        with styled(salt=column):
            ax = new_axes(3.3, 2.0)
            ax.hist(values, bins=bins, color=ACCENT)
            ax.axvline(values.mean(), color=WARM, linewidth=1.2, linestyle=(0, (3, 2)))
            ax.set_xlabel(f"{label} (dashed: mean)")
            ax.set_ylabel("Facts")
            ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            clean(ax)
            figures.append(svg(ax.figure.get_figure(root=True), label=f"Histogram over the facts: {label}"))
    return figures


def _relations(result: KnowledgeNeurons) -> dict[str, Any]:
    frame = result.tables["relations"]
    named = frame[frame["relation"] != ""].sort_values("facts", ascending=False, kind="stable")
    known = result.tables["facts"]
    by = known.groupby("relation", observed=True)[["right", "jaccard", "r1_squared"]].mean()
    rows = [
        (
            row["relation"],
            count(int(row["facts"])),
            _percent(float(by["right"][row["relation"]])),
            number(float(row["neurons"]), 3),
            number(float(by["jaccard"][row["relation"]]), 2),
            number(float(by["r1_squared"][row["relation"]]), 2),
            number(float(row["shared_within"]), 3),
            number(float(row["jaccard_within"]), 2),
            number(float(row["shared_across"]), 3),
            number(float(row["share"]), 2),
        )
        for row in named.head(_RELATIONS).to_dict("records")
    ]
    return {"rows": rows, "total": len(named)}


def _hubs(result: KnowledgeNeurons) -> dict[str, Any]:
    frame = result.hubs()
    labels = dict(zip((site.name for site in result.sites), site_labels(result.sites), strict=True))
    rows = [
        (
            f"{labels[row['site']]} · {row['neuron']}",
            row["kind"],
            count(int(row["facts"])),
            f"{row['share']:.1%}",
            count(int(row["relations"])),
            row["relation"] or "–",
            f"{row['share_of_relation']:.1%}",
        )
        for row in frame.head(_HUBS).to_dict("records")
    ]
    return {"rows": rows, "total": len(frame)}


def _chosen(
    result: KnowledgeNeurons, neurons: NeuronSet | None, facts: Iterable[str] | None
) -> tuple[list[str], str]:
    """Return the facts to show in full, and how they were chosen."""
    known = result.tables["facts"]
    if neurons is not None and facts is not None:
        raise InvalidArgumentError(
            "Give neurons= or facts=, not both: either chooses the facts shown in full."
        )
    if facts is not None:
        ids, wanted = set(result.ids), [facts] if isinstance(facts, str) else list(facts)
        for fact in wanted:
            if fact not in ids:
                raise FactError(f"There is no fact {fact!r} in this result. {closest(fact, result.ids)}")
        return wanted, "The facts asked for."
    if neurons is not None:
        return _having(result, neurons), "The facts that have one of the neurons asked for."
    turn = known.groupby("relation", observed=True).cumcount()
    order = np.argsort(turn.to_numpy(), kind="stable")[:_SHOWN]
    why = "The first facts of each relation. report(path, neurons=...) shows those that have some neurons."
    why = why if len(known) > _SHOWN else ""
    return [str(known["fact"].iloc[at]) for at in order], why


def _having(result: KnowledgeNeurons, neurons: NeuronSet) -> list[str]:
    frame = result.tables["fact_neurons"]
    frame = frame[frame["refined"]]
    wanted = np.zeros(len(frame), dtype=bool)
    for site in neurons.sites:
        own, indices = result.sites[site.name], neurons.indices(site)
        if indices[-1] >= own.width:
            raise NeuronIndexError(
                f"The neurons to show hold neuron {indices[-1]} of {own.name}, which has {own.width} neurons in this "
                "result. Choose neurons of the sites that were looked at."
            )
        wanted |= ((frame["site"] == own.name) & frame["neuron"].isin(indices)).to_numpy()
    return [str(fact) for fact in frame["fact"][wanted].unique()]


def _score_words(parameters: Mapping[str, Any]) -> str:
    target = str(parameters.get("target", "target")).replace("_", " ")
    if parameters.get("method") == "elimination":
        return f"what the answer's {target} loses when the neuron is switched off, after those above it"
    return f"the neuron's part in the answer's {target}, mean over the prompts"


def _sections(result: KnowledgeNeurons, chosen: list[str]) -> list[dict[str, Any]]:
    known, frame = result.tables["facts"], result.tables["fact_neurons"]
    known, frame = known[known["fact"].isin(chosen)], frame[frame["fact"].isin(chosen)]
    labels = dict(zip((site.name for site in result.sites), site_labels(result.sites), strict=True))
    return [
        _section(known[known["fact"] == fact].iloc[0], frame[frame["fact"] == fact], labels, place)
        for place, fact in enumerate(chosen)
    ]


def _section(row: Any, own: pd.DataFrame, labels: Mapping[str, str], place: int) -> dict[str, Any]:
    own = own.sort_values("rank", kind="stable")
    kept = {side: own[own["side"] == side] for side in ("most", "least")}
    shown = pd.concat([kept["most"].head(_BARS), kept["least"].head(_BARS).iloc[::-1]])
    return {
        "anchor": f"fact{place}",
        "title": f"{row['subject'] or row['fact']} → {row['answer']}",
        "relation": row["relation"],
        "id": row["fact"],
        "facts": [
            ("Probability of the answer", number(float(row["p"]), 3)),
            ("Prompts answered right", _percent(float(row["right"]))),
            ("Prompts", count(int(row["prompts"]))),
            ("Neurons", count(int(row["neurons"]))),
            ("Agreement, Jaccard", number(float(row["jaccard"]), 2)),
            ("Agreement, R1²", number(float(row["r1_squared"]), 2)),
        ],
        "figure": _bars(shown, labels, int(row["prompts"]), place) if len(shown) else None,
        "rows": [
            (
                labels[each["site"]],
                str(each["neuron"]),
                each["side"],
                number(float(each["score"]), 3),
                f"{each['prompts']} of {row['prompts']}",
                "yes" if each["refined"] else "no",
            )
            for each in shown.to_dict("records")
        ],
        "hidden": sum(max(0, len(part) - _BARS) for part in kept.values()),
    }


def _bars(shown: pd.DataFrame, labels: Mapping[str, str], prompts: int, place: int) -> Markup:
    rows = shown.iloc[::-1]  # the strongest on top
    names = [
        f"{_short(labels[row['site']])} · {row['neuron']} ({row['prompts']}/{prompts})"
        for row in rows.to_dict("records")
    ]
    with styled(salt=f"fact{place}"):
        ax = new_axes(4.6, 0.55 + 0.2 * len(rows), left=room_for(names))
        colours = [_COLOURS[side] for side in rows["side"]]
        drawn = ax.barh(np.arange(len(rows)), rows["score"], color=colours, height=0.68)
        for bar, refined in zip(drawn, rows["refined"], strict=True):
            bar.set_alpha(None if refined else 0.35)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(np.arange(len(rows)), names)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.xaxis.set_major_locator(MaxNLocator(4))  # more would touch each other
        ax.set_xlabel("Score")
        clean(ax)
        ax.grid(visible=False)
        ax.grid(axis="x", color=RULE, linewidth=0.5)
        return svg(ax.figure.get_figure(root=True), label="Neurons that contribute most and least")


def _short(label: str, length: int = 24) -> str:
    return label if len(label) <= length else f"…{label[1 - length :]}"
