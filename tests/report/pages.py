"""Results to make pages of, and a reader of pages that is strict about their form."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from neuronwise.observe import Ablation, Activity
from neuronwise.store import Manifest

VOID = {"meta", "input", "br", "img", "link", "hr", "base"}
HOSTILE = "</script><script>alert('x')</script>"


class Page(HTMLParser):
    """Reads a page, and fails on a tag that is not closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.meta: dict[str, str | None] = {}
        self.feed(self.source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute of <{tag}> is given twice: {attrs}"
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.references += [
            values[name] for name in ("src", "href", "xlink:href", "data", "action") if name in values
        ]
        if tag == "script":
            self.scripts.append((values, ""))
        if tag == "meta" and "http-equiv" in values:
            self.meta[values["http-equiv"]] = values["content"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict:
        return json.loads(next(text for values, text in self.scripts if values.get("id") == "data"))


def manifest(kind: str, **changes) -> Manifest:
    values = {
        "kind": kind,
        "action": {
            "name": "observe",
            "parameters": {"reducers": {"active": {"threshold": 0.0}}, "batch_size": 4},
        },
        "seed": 0,
        "model": {"name": "tiny", "class": "models.Tiny", "parameters": 1234, "sha256": "ab" * 32},
        "data": {"name": "words", "kind": "text", "examples": 10, "fingerprint": "cd" * 32},
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Manifest(**{**values, **changes})


def activity(
    *, sites: int = 2, width: int = 6, token: str = " cat\n", without: tuple[str, ...] = (), **changes
):
    """An activity with every table that text gives, of neurons whose kurtosis grows with their index."""
    rng = np.random.default_rng(0)
    names = [f"layers.{layer}.mlp:input" for layer in range(sites)]
    keys = pd.MultiIndex.from_product([names, range(width)], names=["site", "neuron"]).to_frame(index=False)
    layer = keys["site"].str.extract(r"(\d+)")[0].astype("Int32")
    neurons = keys.assign(
        layer=layer, n=100, nonfinite=0, mean=rng.normal(size=len(keys)), mean_se=0.1, std=1.5, std_se=0.01,
        kurtosis=keys["neuron"] * 2.5, active=np.where(keys["neuron"] == 0, 0.0, 0.5), q50=0.25,
        min=np.where(keys["neuron"] == 0, 0.0, -20.0), max=np.where(keys["neuron"] == 0, 0.0, 20.0),
    )  # fmt: skip
    sides = keys.merge(pd.DataFrame({"side": ["top", "bottom"]}), how="cross")
    examples = sides.merge(pd.DataFrame({"rank": range(12)}), how="cross")
    sign = np.where(examples["side"] == "top", 1.0, -1.0)
    examples = examples.assign(
        value=sign * (20 - examples["rank"]), example=examples["rank"] % 10, position=3
    )
    contexts = examples.drop(columns=["example", "position"]).merge(
        pd.DataFrame({"offset": [-1, 0, 1]}), how="cross"
    )
    contexts = contexts.assign(
        token_id=7, token=token, value=contexts["value"] / (1 + contexts["offset"].abs())
    )  # fmt: skip
    pairs = keys.assign(other=(keys["neuron"] + 1) % width, correlation=-0.5, correlation_se=0.1)
    bins = pd.DataFrame({"left": [-1.0, 0.0, 2.0], "right": [0.0, 1.0, 3.0], "count": [40, 58, 2]})
    promoted = keys.assign(layer=layer).merge(pd.DataFrame({"side": ["promotes", "demotes"]}), how="cross")
    tables = {
        "sites": pd.DataFrame(
            {
                "site": names, "path": [name.split(":")[0] for name in names], "tensor": "input",
                "call": pd.array([None] * sites, dtype="Int32"), "stack": "layers",
                "layer": pd.array(range(sites), dtype="Int32"), "kind": "ffn", "width": width, "axis": -1,
            }
        ),
        "neurons": neurons,
        "examples": examples,
        "contexts": contexts,
        "histogram": keys.merge(bins, how="cross"),
        "coactivation": pairs,
        "promoted": promoted.assign(rank=0, token_id=7, token=token, logit=1.25),
        "class_means": keys.merge(
            pd.DataFrame({"field": "upos", "label": ["NOUN", "$x$ 名", "none"], "n": [5, 6, 0]}), how="cross"
        ).assign(mean=[0.5, 0.75, np.nan] * len(keys), mean_se=[0.1, np.nan, np.nan] * len(keys)),
    }  # fmt: skip
    kept = {name: frame for name, frame in tables.items() if name not in without}
    return Activity(kept, manifest("activity", **changes))


def ablation(*, controls: int = 3, metric: str = "next_token_loss", **changes) -> Ablation:
    rows = [("chosen", None, 0.25)] + [("random", seed, 0.05 + 0.01 * seed) for seed in range(controls)]
    frame = pd.DataFrame(
        {
            "neurons": [row[0] for row in rows],
            "seed": pd.array([row[1] for row in rows], dtype="Int32"),
            "n_neurons": 4,
            "metric": metric,
            "baseline": 1.0,
            "intervened": [1 + row[2] for row in rows],
            "change": [row[2] for row in rows],
            "change_se": 0.01,
        }
    )
    parameters = {"how": "zero", "neurons": {"layers.0.mlp:input": [1, 5], "layers.1.mlp:input": [0, 2]}}
    return Ablation(
        {"ablation": frame},
        manifest("ablation", **{"action": {"name": "ablate", "parameters": parameters}, **changes}),
    )
