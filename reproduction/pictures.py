"""Draw the pictures of the pages on the reproductions, in docs/images, from the figures in results/."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS, read_results
from matplotlib.ticker import NullFormatter, ScalarFormatter
from mono_figures import collected, paired

from neuronwise.intervals import resampled_interval

IMAGES = RESULTS.parent.parent / "docs" / "images"
LEARNERS = {"task_matched": "task neurons, matched", "guarded": "guarded", "boosted_trees": "boosted trees"}
INHIBITORS = {
    "memel": "MEmeL (published)",
    "l2e": "L2E (published)",
    "tail": "tail (ours)",
    "kurtosis": "kurtosis (ours)",
    "excess": "excess (ours)",
    "excess random": "excess, at random",
}
LEAST = 0.01  # share kept that is drawn
SHOWN = {
    "language": "Language: transformer",
    "image_swin": "Image: Swin transformer",
    "image_cnn": "Image: convolutions",
    "physics": "Physics: ConvGRU",
}
COLOURS = ("#2166ac", "#b8470b", "#5b6670", "#3a7d44", "#7b3294", "#a6761d")


def tidy(axes: Iterable[plt.Axes]) -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="both", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)


def public() -> plt.Figure:
    """Draw the error of learners on the public sets, relative to that of linear networks."""
    rows = [row for row in read_results("task_public").values() if not row["classes"]]
    figure, ax = plt.subplots(figsize=(7, 6.5))
    places = np.arange(len(rows))[::-1]
    for number, (name, label) in enumerate(LEARNERS.items()):
        middle, ends = [], []
        for row in rows:
            linear = next(one["mean"] for one in row["means"] if one["learner"] == "linear")
            pair = next(one for one in row["pairs"] if one["learner"] == name)
            values = [100 * pair[end] / linear for end in ("difference", "low", "high")]
            middle.append(values[0])
            ends.append([values[0] - values[1], values[2] - values[0]])
        ax.errorbar(
            middle, places + 0.22 * (1 - number), xerr=np.array(ends).T, fmt="o", markersize=3.5, linewidth=1.1,
            color=COLOURS[number], label=label,
        )  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(places, [row["set"] for row in rows])
    ax.set_xlabel(
        "error less that of linear networks, % of the latter; left is better (95 % intervals, cut at 60)"
    )
    ax.set_xlim(-60, 60)
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1.0), fontsize=8)
    tidy([ax])
    return figure


def inhibitors() -> plt.Figure:
    """Draw what inhibitors keep of the share of phi above 9, against what they cost; shaded: what was asked for."""
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(12, 3.4), sharey=True)
    known = {}
    for ax, area in zip(axes, SHOWN, strict=True):
        limit = 0.0
        for rows in collected(area).values():
            if len(rows["none"]) < 2:
                continue
            loss, share = (
                np.array([one[figure] for one in rows["none"].values()]) for figure in ("loss", "phi_above_9")
            )
            limit = max(limit, 0.5 + 100 * loss.std(ddof=1) / np.sqrt(len(loss)) / loss.mean())
            for name, colour in zip(INHIBITORS, COLOURS, strict=True):
                if len(rows.get(name, {})) < 2:
                    continue
                cost = 100 * interval(paired(rows, name, "none", "loss")) / loss.mean()
                kept = np.maximum(
                    1 + interval(paired(rows, name, "none", "phi_above_9")) / share.mean(), LEAST
                )
                known[INHIBITORS[name]] = ax.errorbar(
                    cost[0], kept[0], xerr=around(cost), yerr=around(kept), fmt="o", color=colour, markersize=4,
                    linewidth=1.1,
                )  # fmt: skip
        left = ax.get_xlim()[0]
        ax.fill_between([left, limit], LEAST, 0.5, color="#e9f2e9", zorder=0)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(xlim=(left, None), ylim=(0.8 * LEAST, 3), yscale="log", xlabel="change of the loss, %")
        ax.set_title(SHOWN[area], fontsize=10)
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("share of phi > 9 kept")
    figure.legend(
        known.values(), known.keys(), frameon=False, ncols=len(known), loc="lower center",
        bbox_to_anchor=(0.5, 0.96), fontsize=8,
    )  # fmt: skip
    tidy(axes)
    figure.tight_layout()
    return figure


def scale() -> plt.Figure:
    """Draw phi and the False Killing Rate of networks of several widths, mean and standard deviation over seeds."""
    cases = [case for key, case in read_results("mono_scale").items() if " x" not in key]
    shown = {"phi_above_9": "share of phi > 9, %", "fkr 0.01": "False Killing Rate at 1 %, %"}
    figure, axes = plt.subplots(1, len(shown) + 1, figsize=(10, 3.2))
    for colour, area in zip(COLOURS, dict.fromkeys(case["area"] for case in cases), strict=False):
        own = [case for case in cases if case["area"] == area]
        widths = sorted({case["width"] for case in own})
        for ax, name in zip(axes, shown, strict=False):
            some = [
                np.array([100 * case["figures"][name] for case in own if case["width"] == width])
                for width in widths
            ]
            ax.errorbar(
                widths, [one.mean() for one in some], [one.std(ddof=1) for one in some], color=colour, marker="o",
                markersize=4, label=SHOWN[area],
            )  # fmt: skip
        levels = [name for name in own[0]["figures"] if name.startswith("fkr")]
        for width, line in zip(widths, ("--", "-.", ":", "-"), strict=True):
            rates = [
                np.mean([100 * case["figures"][name] for case in own if case["width"] == width])
                for name in levels
            ]
            axes[-1].plot(
                [100 * float(name.split()[1]) for name in levels], rates, line, color=colour, linewidth=1.2,
                label=f"{width}",
            )  # fmt: skip
    for ax, label in zip(axes, shown.values(), strict=False):
        ax.set(xscale="log", ylim=(0, None), xlabel="width", ylabel=label)
        ax.set_xticks([4, 8, 16, 32, 64, 128], ["4", "8", "16", "32", "64", "128"])
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(frameon=False, fontsize=8)
    axes[-1].set(xscale="log", ylim=(0, 100), xlabel="entries picked, %", ylabel="False Killing Rate, %")
    axes[-1].xaxis.set_major_formatter(ScalarFormatter())
    axes[-1].legend(frameon=False, fontsize=7, ncols=2, title="width", title_fontsize=7)
    tidy(axes)
    figure.tight_layout()
    return figure


def interval(differences: np.ndarray) -> np.ndarray:
    """Return the mean of paired differences, and the ends of its 95 % interval."""
    return np.array(resampled_interval(differences)[:3])


def around(values: np.ndarray) -> np.ndarray:
    return np.array([[values[0] - values[1]], [values[2] - values[0]]])


def main() -> None:
    for name, draw in {"task_public": public, "mono_inhibitors": inhibitors, "mono_scale": scale}.items():
        draw().savefig(IMAGES / f"{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
