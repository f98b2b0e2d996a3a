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
        "Few rounds in processes of their own: differences of some ten per cent are noise, above all on two threads of "
        "two shared cores.",
        "",
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


def attribution_section(figures: Figures) -> list[str]:
    cases = {
        "bert_small": "BERT, 4 layers, width 128, 9 tokens",
        "bert_base": "BERT-base size, 9 tokens",
        "gpt_130": "GPT-2, 5 layers, width 256, 130 tokens",
    }
    rows = []
    for name, text in cases.items():
        case = figures[name]
        cost, joint = case["cost"], case["joint_cost"]
        rows.append(
            [
                text,
                f"{case['package_seconds']:.2f} s",
                f"{case['seconds']:.3f} s ({case['ratio']:.0f} times)",
                f"{cost['forwards']:.1f} + {cost['backwards']:.1f}",
                f"{case['joint_seconds']:.3f} s ({case['joint_ratio']:.0f} times)",
                f"{joint['forwards']:.1f} + {joint['backwards']:.1f}",
                f"{case['error']:.0e} / {case['package_error']:.0e}"
                if "package_error" in case
                else f"{case['error']:.0e}",
            ]
        )
    growth = [
        [f"{row['model']}, {row['varies']} {row[row['varies']]}", "joint" if row["joint"] else "per layer",
         f"{row['seconds']:.3f} s", f"{row['forwards']:.1f} + {row['backwards']:.1f}"]
        for row in figures["growth"]
    ]  # fmt: skip
    memory = [[f"{budget} MiB", f"{grown:,.0f} MiB"] for budget, grown in figures["memory"].items()]
    base = figures["bert_base"]
    return [
        "## Attribution",
        "",
        f"The map of all feed-forward neurons of one prompt by integrated gradients, beside the package "
        f"`{figures['package'].replace(' ', '` ')} with its 20 steps, random weights, one thread. Ours chooses the "
        "number of nodes until the completeness gap is under 0.1 %. Cost: forward + backward passes of one prompt "
        "through all layers. Error: relative (L2) against 48 Gauss-Legendre nodes, ours / the package's; of GPT-2 the "
        "package scores what comes before the activation function, which is something else. With its own rule our "
        f"scores differ from its by {base['difference_with_its_rule']:.0e} at most (largest score "
        f"{base['largest_score']:.0e}).",
        "",
        *table(["case", "package", "per layer", "cost", "joint path", "cost", "error"], rows),
        "How it grows (8 nodes; layers 4, width 128, tokens 9 but for what is named):",
        "",
        *table(["case", "path", "seconds", "cost"], growth),
        "Growth of peak memory by the budget given as `memory=` (BERT, 6 layers, width 512, 32 tokens, 32 nodes):",
        "",
        *table(["budget", "grows by"], memory),
        "Some tens of MiB are needed whatever the budget; a run is cut until one row is left.",
        "",
        "Command: `python benchmarks/attribution.py`. " + where(figures) + f"torch {figures['torch']}.",
        "",
    ]


def location_section(figures: Figures) -> list[str]:
    lines = [
        "## How few neurons silence a fact",
        "",
        "What is left of the probability of a fact's answer when so many of its neurons are off at all positions: "
        "median over 100 facts of 10 relations [95 % interval of the bootstrap over facts]. Neurons are found with the "
        "prompts that the models were trained on and judged on a paraphrase held out of training.",
        "",
    ]
    for name, model in figures["models"].items():
        sizes = list(next(iter(model["methods"].values()))["sizes"])
        rows = []
        for method, found in model["methods"].items():
            left = [found["sizes"][size]["held_out"]["chosen"]["median_ratio"] for size in sizes]
            rows.append([method, *(f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in left)])
        lines += [f"`{name}` ({model['neurons']:,} neurons):", "", *table(["found by", *sizes], rows)]
        at = model["methods"]["elimination"]["sizes"]["75"]
        words = ", ".join(
            f"{text} {at[probe][neurons]['median_ratio'][0]:.3f}"
            for text, probe, neurons in (
                ("other facts of the relation", "sister", "chosen"),
                ("facts of other relations", "other", "chosen"),
                ("75 random neurons of the same layers, on the held-out paraphrase", "held_out", "random"),
            )
        )
        lines += [f"Elimination, 75 neurons: {words}.", ""]
    return [
        *lines,
        "Command: `python benchmarks/location.py`. " + where(figures) + f"torch {figures['torch']}.",
        "",
    ]


EDIT_METRICS = ("reliability", "generality", "neighbour", "sister", "unrelated", "nll", "kl")


def edits_section(figures: Figures) -> list[str]:
    rows, plain = [], {}
    for method, found in figures["methods"].items():
        for control in ("edit", "random"):
            mine = {
                metric: (value, low, high)
                for kind, metric, value, low, high in found["figures"]
                if kind == control
            }
            words = [
                f"{mine[name][0]:.2f} [{mine[name][1]:.2f}, {mine[name][2]:.2f}]" if name in mine else ""
                for name in EDIT_METRICS
            ]
            rows.append([method if control == "edit" else "... of random neurons, or random", *words])
        plain = {metric: value for kind, metric, value, _, _ in found["figures"] if kind == "none"} | plain
    return [
        f"## Editing {figures['model']}",
        "",
        f"{figures['facts']} facts get the answer of another fact of their relation (`erase_slots`: none). Shares of "
        "prompts by the likeliest token [95 % interval over facts]: reliability, the fact's own prompts; generality, "
        "a paraphrase held out; neighbours (same old answer), sister facts (another answer) and unrelated prompts that "
        f"stay as they were; nll (unedited {plain['nll']:.2f}) and KL, in nats a token, on text. Settings are those of "
        "the how-to page on editing.",
        "",
        *table(["method", *EDIT_METRICS], rows),
        f"Command: `python benchmarks/edits.py --model {figures['model']}`. "
        + where(figures).removesuffix(", ")
        + ".",
        "",
    ]


def selection_section(figures: Figures) -> list[str]:
    shared, large = figures["shared"], figures["shared_large"]
    exact = sum(task["exact"] for task in shared.values())
    of = sum(task["of"] for task in shared.values())
    slowest = max(task["slowest"] for task in shared.values())
    found = [
        [
            "the case list that the search was built on",
            *(
                f"{figures['group_sheet']['exact'][name]} of {figures['group_sheet']['of']}"
                for name in ("group", "shared")
            ),
        ],
        *(
            [
                f"fresh cases, settings frozen, {inputs}",
                *(f"{part['exact'][name]} of {part['of']}" for name in ("group", "shared")),
            ]
            for inputs, part in figures["group_fresh"].items()
        ),
    ]
    false = sum(part["found"] for part in figures["null"].values())
    nulls = sum(part["of"] for part in figures["null"].values())
    lines = [
        "## Finding the formula of a table",
        "",
        "**Shared selection** (one coefficient for all inputs; eight tasks, five seeds, 1,000 rows, 5 inputs): the "
        f"exact terms in {exact} of {of}, the slowest search {1000 * slowest:.0f} ms. With {large['rows']:,} rows and "
        f"{large['inputs']} inputs the search takes {large['searching']:.2f} s, and checking the table "
        f"{large['checking']:.2f} s.",
        "",
        "**Group selection** (a weight for every input; random signed weights), the exact set of base functions:",
        "",
        *table(["cases", "group", "shared"], found),
        f"Where the target is noise, {false} of {nulls} searches found anything. Where it is linear, "
        + " and ".join(
            f"{part['linear']} of {part['of']} ({name})" for name, part in figures["linear"].items()
        )
        + " gave the linear neuron. By deviance: "
        + ", ".join(f"{name} {part['exact']} of {part['of']}" for name, part in figures["likelihood"].items())
        + ".",
        "",
    ]
    if "tnlearn" in figures:
        peer = figures["tnlearn"]
        seconds = sorted(run["seconds"] for run in peer["runs"])
        ours = shared[peer["task"]]["slowest"]
        lines += [
            f"tnlearn {peer['version']} (genetic, {peer['population']} individuals, {peer['generations']} generations) "
            f"on {peer['task']}: {', '.join(run['formula'] for run in peer['runs'])}, in {seconds[0]:.0f} to "
            f"{seconds[-1]:.0f} s; shared selection needs {1000 * ours:.0f} ms, {seconds[0] / ours:,.0f} times less.",
            "",
        ]
    return [*lines, "Command: `python benchmarks/selection.py`. " + where(figures).rstrip(", ") + ".", ""]


def neuronseek_section(figures: Figures) -> list[str]:
    names = {
        "low_rank": "`LowRank`, exact terms",
        "interactions": "`Interactions`, exact monomials (orders up to 4)",
        "published": "NeuronSeek's gates with its published settings, exact terms",
    }
    rows = [
        [
            names[name],
            f"{part['right']} of {part['of']}",
            f"{part['median_cpu_seconds']:.1f}",
            f"{part['median_test_mse']:.2g}",
        ]
        for name, part in figures.items()
        if name in names
    ]
    return [
        "## Interactions: NeuronSeek's own suite",
        "",
        "Fifteen targets of ten inputs and 2,500 rows: powers, products of inner products, and both.",
        "",
        *table(["method", "right", "CPU seconds (median)", "test error (median)"], rows),
        "Command: `python benchmarks/neuronseek.py`. " + where(figures).rstrip(", ") + ".",
        "",
    ]


def layers_section(figures: Figures) -> list[str]:
    threads = figures["threads"]
    first = next(iter(threads.values()))
    rows = []
    for place, kinds in first.items():
        for name, one in kinds.items():
            cells = [
                f"{part[place][name]['ratio']:.2f} / {part[place][name]['memory_ratio']:.2f}"
                for part in threads.values()
            ]
            rows.append([place, name, *cells, f"{one['target']:g}"])
    return [
        "## What layers of neurons cost",
        "",
        "Forward and backward pass, time / peak memory as multiples of torch's own layers doing the same number of "
        "operations in matrix products or convolutions (least of interleaved repeats).",
        "",
        *table(
            ["layer", "neurons", *(f"{n} thread{'s' * (n != '1')}" for n in threads), "target for time"], rows
        ),
        "Command: `python benchmarks/neuron_layers.py`. " + where(figures).rstrip(", ") + ".",
        "",
    ]


def estimators_section(figures: Figures) -> list[str]:
    setting, ratios = figures["setting"], figures["relative_to_sklearn"]
    words = {
        "sklearn": "scikit-learn's `MLPRegressor`",
        "linear": "`TaskNeuronRegressor`, linear",
        "task": f"the same, `{setting['formula']}`",
        "auto": "the same, formula searched",
        "auto_with_guard": "the same, with the guard",
    }
    rows = [[words[name], f"{ratios[name]:.2f}"] for name in words]
    lines = [
        "## Training networks of task neurons",
        "",
        f"{setting['rows']:,} rows, {setting['inputs']} inputs, hidden layers {setting['hidden']}, batches of "
        f"{setting['batch']}, {setting['epochs']} epochs, one thread; seconds relative to scikit-learn's.",
        "",
        *table(["what", "relative time"], rows),
    ]
    if "tnlearn_slower" in figures:
        lines += [
            f"tnlearn 0.2.0 takes {figures['tnlearn_slower']:.0f} times as long an epoch with the same formula.",
            "",
        ]
    return [*lines, "Command: `python benchmarks/estimators.py`. " + where(figures).rstrip(", ") + ".", ""]


def genetic_section(figures: Figures) -> list[str]:
    lists = [name for name in ("blind", "fresh", "sheet") if name in figures]
    rows = [
        [method, *(recovery(figures[name].get(method)) for name in lists)] for method in figures[lists[0]]
    ]
    return [
        "## Formulas outside the base library",
        "",
        "Recovered (R2 of the noise-free target on new inputs above 0.9999), and in brackets those that hold on a "
        f"wider range too; {figures['seconds']:g} seconds of wall-clock time and one thread each, seeds: "
        f"{figures['seeds']}. "
        "Most targets are sums of one function over all inputs. 'On our curve': the peer is given the curve that our "
        "search fits first, as a problem of one input; without it, it has the inputs as they are. "
        "`blind` was written without sight of the search; the catalogue of starting forms was written with `fresh` in "
        "view, so there the line without it is the fair one.",
        "",
        *table(["search", *(f"`{name}`" for name in lists)], rows),
        "Command: `python benchmarks/genetic.py`. " + where(figures).rstrip(", ") + ".",
        "",
    ]


def recovery(found: Figures | None) -> str:
    if found is None:
        return "not measured"
    recovered, same = (round(found[name] * found["runs"]) for name in ("recovered", "form"))
    return f"{recovered} of {found['runs']} ({same})"


TRAINING = {
    "statistics": "phi by running statistics",
    "phi_and_tail": "the same, and its tail",
    "reversed_threshold": "Reversed Deactivation, moving threshold",
    "l2e": "L2E, moving threshold",
    "reversed_top1": "Reversed Deactivation, top 1 of each sample",
    "tail_penalty": "our tail penalty",
    "published": "the published module, from its equations",
    "health": "neuron health, one look in ten steps",
}


def training_section(figures: Figures) -> list[str]:
    widths = figures["widths"]

    def cell(name: str, found: Figures) -> str:
        one = found[name]
        spread = f" ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})" if "low" in one else ""
        return f"{100 * one['overhead']:+.1f} %{spread}"

    rows = [[text, *(cell(name, found) for found in widths.values())] for name, text in TRAINING.items()]
    plain = ", ".join(
        f"{1000 * found['plain']['seconds']:.0f} ms (width {width})" for width, found in widths.items()
    )
    return [
        "## What watching and inhibiting cost in training",
        "",
        f"Overhead over a training step (forward, backward, AdamW) of a transformer of {figures['layers']} layers, on "
        f"all feed-forward sites, {figures['tokens']:,} tokens a step, {figures['threads']} threads. Median of the "
        f"ratio to the plain step of the same round (quartiles in brackets) over {figures['repeats']} interleaved "
        "rounds. Neuron health is made of the cost of a step that looks and one that ends a window, in their shares. "
        f"A plain step takes {plain}.",
        "",
        *table(["what", *(f"width {width}" for width in widths)], rows),
        "Command: `python benchmarks/train_overhead.py`. " + where(figures) + f"torch {figures['torch']}.",
        "",
    ]


SECTIONS = {
    "overhead": overhead_section,
    "peers": peers_section,
    "import_time": import_section,
    "attribution": attribution_section,
    "location": location_section,
    "edits_fact-gpt": edits_section,
    "edits_fact-bert": edits_section,
    "selection": selection_section,
    "genetic": genetic_section,
    "neuronseek": neuronseek_section,
    "neuron_layers": layers_section,
    "estimators": estimators_section,
    "train_overhead": training_section,
}


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
            lines += section(
                json.loads(path.read_text(encoding="utf-8")) | {"model": name.removeprefix("edits_")}
            )
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
