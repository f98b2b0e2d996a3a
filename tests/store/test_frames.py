from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.store import validate

from . import samples


def test_types_are_those_of_the_schema_and_statistics_are_float64():
    frame = validate("neurons", samples.neurons().assign(dead=True, share=np.float32(0.5)))
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert types == {
        "site": str(pd.Series(["a"]).dtype),
        "layer": "Int32",
        "neuron": "int32",
        "n": "int64",
        "nonfinite": "int64",
        "mean": "float64",
        "kurtosis": "float64",
        "dead": "float64",
        "share": "float64",
    }


def test_rows_are_sorted_by_keys_and_sites_keep_their_order():
    frame = samples.neurons()
    order = np.concatenate([[0], np.random.default_rng(0).permutation(np.arange(1, len(frame)))])
    order = sorted(order, key=lambda row: row // samples.WIDTH)
    shuffled = frame.iloc[order[::-1]].reset_index(drop=True)
    got = validate("neurons", shuffled)
    assert got["site"].drop_duplicates().tolist() == samples.SITES[::-1]
    assert got["neuron"].tolist() == [0, 1, 2] * 3
    assert got["mean"].tolist() == [6, 7, 8, 3, 4, 5, 0, 1, 2]


def test_words_are_sorted_by_their_list():
    frame = samples.examples().sort_values(["site", "side"])
    got = validate("examples", frame)
    assert got["side"].tolist()[:8] == ["top"] * 4 + ["bottom"] * 4


def test_missing_numbers_sort_first_and_stay_missing():
    frame = pd.DataFrame(
        {
            "neurons": ["random", "random", "chosen"],
            "seed": [1, 0, None],
            "n_neurons": 2,
            "metric": "loss",
            "baseline": 1.0,
            "intervened": 2.0,
            "change": 1.0,
            "change_se": np.nan,
        }
    )
    got = validate("ablation", frame)
    assert got["neurons"].tolist() == ["chosen", "random", "random"]
    assert got["seed"].isna().tolist() == [True, False, False]
    assert got["seed"].dropna().tolist() == [0, 1]


def test_columns_come_in_the_order_of_the_schema_and_categories_as_text():
    frame = samples.examples()[["value", "rank", "side", "position", "example", "neuron", "site"]]
    got = validate("examples", frame.astype({"site": "category", "side": "category"}))
    assert list(got)[:4] == ["site", "neuron", "side", "rank"]
    pd.testing.assert_frame_equal(got, validate("examples", samples.examples()))


def test_an_empty_table_is_a_table():
    got = validate("examples", samples.examples().iloc[:0])
    assert len(got) == 0
    assert got["rank"].dtype == np.int16


def test_the_frame_that_was_given_is_untouched():
    frame = samples.neurons().iloc[::-1]
    before = frame.copy()
    validate("neurons", frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="rank"), "lacks the column 'rank'"),
        (lambda f: f.assign(ranks=1), r"no column 'ranks'.*rank"),
        (lambda f: f.assign(rank=0.5), "'rank' must be int16"),
        (lambda f: f.assign(rank=100_000), "'rank' must be int16"),
        (lambda f: f.assign(neuron="0"), "'neuron' must be int32, not"),
        (lambda f: f.assign(site=3), "'site' must be string, not int64"),
        (lambda f: f.assign(site=[object()] * len(f)), "'site' must be string"),
        (
            lambda f: f.assign(example=[None, *range(len(f) - 1)]),
            "'example' has 1 missing values, the first in row 0",
        ),
        (lambda f: f.assign(side="upper"), "must be one of top, bottom, not 'upper' \\(row 0\\)"),
        (lambda f: pd.concat([f, f.iloc[3:4]]), "two rows with the same keys.*'rank': 3"),
        (lambda f: pd.concat([f, f[["rank"]]], axis=1), "column names must be different texts"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        validate("examples", change(samples.examples()))
    assert "'examples'" in str(caught.value)


def test_a_statistic_must_be_a_number():
    with pytest.raises(InvalidArgumentError, match="column 'name' must be double, not"):
        validate("neurons", samples.neurons().assign(name="x"))
