"""A small result for the tests of the store."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neuronwise.store import Manifest, Result

SITES = ["layers.2.down:input", "layers.10.down:input", "head:output"]
WIDTH = 3


class Toy(Result):
    kind = "toy"
    main_table = "neurons"


def neurons(*, shift: float = 0.0) -> pd.DataFrame:
    count = len(SITES) * WIDTH
    return pd.DataFrame(
        {
            "site": np.repeat(SITES, WIDTH),
            "layer": pd.array([2] * WIDTH + [10] * WIDTH + [None] * WIDTH, dtype="Int32"),
            "neuron": np.tile(np.arange(WIDTH), len(SITES)),
            "n": 100,
            "nonfinite": 0,
            "mean": np.arange(count) + shift,
            "kurtosis": [np.nan, np.inf, *np.linspace(-1, 1, count - 2)],
        }
    )


def examples(*, ranks: int = 4) -> pd.DataFrame:
    index = pd.MultiIndex.from_product(
        [SITES, range(WIDTH), ["top", "bottom"], range(ranks)], names=["site", "neuron", "side", "rank"]
    )
    frame = index.to_frame(index=False)
    frame["value"] = np.random.default_rng(0).standard_normal(len(frame))
    frame["example"] = np.arange(len(frame)) * 7
    frame["position"] = np.arange(len(frame)) % 5
    return frame


def manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "kind": "toy",
        "action": {"name": "observe", "parameters": {"top": 4, "quantiles": (0.1, 0.9)}},
        "seed": 3,
        "model": {"name": "tiny <llama>", "class": "Llama", "parameters": 860, "sha256": "a" * 64},
        "data": {"name": "stories", "kind": "text"},
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


def toy(*, shift: float = 0.0, **changes: object) -> Toy:
    return Toy(
        tables={"neurons": neurons(shift=shift), "examples": examples()},
        manifest=manifest(**changes),
        arrays={"gram": np.arange(6.0).reshape(2, 3).T, "count": np.array([1, 2], dtype=np.int64)},
    )
