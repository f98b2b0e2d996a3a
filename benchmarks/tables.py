"""Make docs/benchmarks.md of the figures in results/."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"

CONFIGURATIONS = {
    "five": "mean, variance, minimum, maximum, fraction active",
    "five_top20": "the same, and the 20 strongest examples",
    "five_top20_bottom20": "the same, and the 20 strongest and 20 weakest examples, with their contexts",
    "five_higher_moments": "the first line with skewness and kurtosis",
    "everything": "all of these, and a quantile sketch",
}
VARIANTS = {
    "neuronwise": "neuronwise, `observe`",
    "neuronwise whole": "neuronwise, whole forward pass",
    "transformer_lens running": "TransformerLens `run_with_cache`, running sums",
    "transformer_lens collect": "TransformerLens `run_with_cache`, collect then compute",
    "nnsight running": "nnsight `trace`, running sums",
    "nnsight collect": "nnsight `trace`, collect then compute",
}
Figures = dict[str, Any]


def percent(figures: Figures) -> str:
    return f"{100 * figures['overhead']:+.1f} % ({100 * figures['low']:+.1f} to {100 * figures['high']:+.1f})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def where(figures: Figures) -> str:
    machine = figures["machine"]
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, "
    )


def overhead_section(figures: Figures) -> list[str]:
    threads = figures["threads"]
    rows = [
        [text, *(percent(threads[number][name]) for number in threads)]
        for name, text in CONFIGURATIONS.items()
    ]
    plain = ", ".join(f"{1000 * threads[n]['plain']['seconds']:.0f} ms with {n}" for n in threads)
    return [
        "## What observing costs",
        "",
        "Overhead over the plain forward pass of a transformer of 6 layers and width 512 (feed-forward width 2,048), "
        "all 12,288 feed-forward neurons, 1,024 tokens a call. Median of the ratio to the plain call of the same round "
        f"(quartiles in brackets) over {figures['repeats']} interleaved rounds, after "
        f"{figures['sequences_before']:,} sequences. Every call runs the whole forward pass and also sets and removes "
        f"its hooks. The hottest loops are compiled (extra `fast`); they run on one thread, so "
        f"their share is larger where torch has two. The plain call takes {plain} threads.",
        "",
        *table(["statistics", *(f"{n} thread{'s' * (n != '1')}" for n in threads)], rows),
        "Command: `python benchmarks/overhead.py`. " + where(figures) + f"torch {figures['torch']}.",
        "",
    ]


def peers_section(figures: Figures) -> list[str]:
    time, memory = figures["time"], figures["memory"]

    def speed_of(key: str) -> str:
        return percent(time[key]) if key in time else "not measured"

    def peak_of(key: str) -> str:
        return f"{memory[key]['mebibytes']:,.0f} MiB" if key in memory else "not measured"

    speed = [[text, *(speed_of(f"{name} {n}") for n in (1, 2))] for name, text in VARIANTS.items()]
    peak = [
        [text, *(peak_of(f"{name} {tokens}") for tokens in figures["tokens"])]
        for name, text in VARIANTS.items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    return [
        "## Beside other libraries",
        "",
        "The same five statistics (mean, variance, minimum, maximum, fraction active) of every feed-forward neuron of "
        "GPT-2 with random weights, 6 layers of width 512, over the same random tokens. *Running sums* is plain torch "
        "after every batch, with float64 totals; *collect then compute* keeps the activations, as most notebooks do. "
        "`observe` ends each forward pass after the last site, so it skips the last projection and the output layer; "
        "the line *whole forward pass* does not.",
        "",
        "Overhead over each library's own plain forward pass, from start to result (quartiles in brackets):",
        "",
        *table(["way", "1 thread", "2 threads"], speed),
        "Growth of peak memory over the plain forward pass, each in a process of its own, by tokens in the corpus:",
        "",
        *table(["way", *(f"{tokens:,}" for tokens in figures["tokens"])], peak),
        "Command: `python benchmarks/peers.py`. " + where(figures) + f"{versions}.",
        "",
    ]


def import_section(figures: Figures) -> list[str]:
    imports, found = figures["imports"], figures["find_sites"]
    rows = [
        ["`import torch`", f"{imports['torch']:.2f} s"],
        ["`import neuronwise`", f"{imports['neuronwise']:.3f} s"],
        ["first use of `neuronwise.find_sites`", f"{imports['find_sites']:.2f} s"],
        ["first use of `neuronwise.observe`", f"{imports['observe']:.2f} s"],
    ]
    return [
        "## Import, and finding sites",
        "",
        *table(["in a fresh process, one after the other", "adds (median)"], rows),
        f"`find_sites` on a Llama of {found['parameters'] / 1e9:.1f} billion parameters on the meta device finds "
        f"{found['sites']} sites, {found['neurons']:,} neurons, in {found['seconds']:.3f} s "
        f"({found['first_seconds']:.3f} s the first time).",
        "",
        "Command: `python benchmarks/import_time.py`. " + where(figures) + f"torch {figures['torch']}.",
        "",
    ]


SECTIONS = {"overhead": overhead_section, "peers": peers_section, "import_time": import_section}


def main() -> None:
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures everything on this page anew and rewrites it; the raw figures are in "
        "`benchmarks/results`. Absolute times say little on another machine; the ratios should hold.",
        "",
    ]
    for name, section in SECTIONS.items():
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            lines += section(json.loads(path.read_text(encoding="utf-8")))
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
