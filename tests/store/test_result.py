from __future__ import annotations

import copy
import pickle
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import AddressError, InvalidArgumentError, NotAResultError
from neuronwise.store import Result, load_result, result, validate

from . import samples


def test_round_trip(tmp_path):
    made = samples.toy()
    folder = made.save(tmp_path / "deep" / "run")
    loaded = samples.Toy.load(folder)
    assert loaded == made
    for name in made.tables:
        pd.testing.assert_frame_equal(loaded.tables[name], made.tables[name])
    assert loaded.arrays["gram"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert sorted(path.name for path in folder.iterdir()) == [
        "arrays.safetensors",
        "examples.parquet",
        "manifest.json",
        "neurons.parquet",
    ]
    assert loaded.manifest.files["examples.parquet"].rows == len(samples.examples())


def test_pickled_and_copied_whole_also_from_a_folder(tmp_path):
    made = samples.toy()
    loaded = samples.Toy.load(made.save(tmp_path / "run"))
    for one in (made, loaded):
        again = pickle.loads(pickle.dumps(one))  # our own bytes, of a moment ago
        assert type(again) is samples.Toy
        assert again == copy.deepcopy(one) == made
        assert again.manifest.created == one.manifest.created


def test_same_content_same_bytes(tmp_path):
    one, two = samples.toy().save(tmp_path / "one"), samples.toy().save(tmp_path / "two")
    for path in one.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_tables_are_read_when_asked_for_and_once(tmp_path, monkeypatch):
    folder = samples.toy().save(tmp_path / "run")
    read: list[str] = []
    monkeypatch.setattr(result, "read_table", lambda path, name: read.append(name) or samples.neurons())
    loaded = samples.Toy.load(folder)
    assert list(loaded.tables) == ["neurons", "examples"]
    assert "neurons" in loaded.tables
    assert repr(loaded) == "Toy(toy: neurons[9], examples[72]; arrays count, gram)"
    assert read == []
    loaded.to_frame()
    loaded.to_frame()
    assert read == ["neurons"]


def test_what_a_caller_does_to_a_table_does_not_reach_the_result():
    made = samples.toy()
    for frame in (made.tables["neurons"], made.to_frame(), made.rows("neurons")):
        frame.loc[0, "mean"] = 99.0
        frame["new"] = 1
    assert made == samples.toy()
    with pytest.raises(TypeError):
        made.tables["neurons"] = samples.neurons()
    with pytest.raises(AttributeError):
        made.manifest = samples.manifest()
    with pytest.raises(ValueError, match="read-only"):
        made.arrays["gram"][0] = 1


def test_what_a_caller_does_to_what_was_given_does_not_reach_the_result():
    frame, array = samples.neurons(), np.zeros(2)
    made = samples.Toy({"neurons": frame}, samples.manifest(), {"zero": array})
    frame.loc[0, "mean"] = 99.0
    array[0] = 1
    assert made.to_frame()["mean"][0] == 0
    assert made.arrays["zero"].tolist() == [0, 0]


def test_equality():
    made = samples.toy()
    assert made == samples.toy(created="2020-01-01T00:00:00+00:00")
    assert made != samples.toy(shift=1e-12)
    assert made != samples.toy(seed=4)
    assert made != Result(made.tables, made.manifest, made.arrays)
    assert made != samples.Toy(made.tables, made.manifest, {**made.arrays, "count": np.array([1.0, 2.0])})
    assert made != "toy"
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


@pytest.mark.parametrize("stored", [False, True])
def test_rows(tmp_path, stored):
    made = samples.toy()
    if stored:
        made = samples.Toy.load(made.save(tmp_path / "run"))
    whole = validate("examples", samples.examples())
    site = samples.SITES[1]

    def expect(mask):
        return whole[mask].reset_index(drop=True)

    of_site = whole["site"] == site
    got = made.rows("examples", site=site, neuron=1)
    pd.testing.assert_frame_equal(got, expect(of_site & (whole["neuron"] == 1)))
    pd.testing.assert_frame_equal(
        made.rows("examples", site=site, neuron=np.array([2, 0])),
        expect(of_site & whole["neuron"].isin([0, 2])),
    )
    pd.testing.assert_frame_equal(
        made.rows("examples", example=[7, 14]), expect(whole["example"].isin([7, 14]))
    )
    pd.testing.assert_frame_equal(made.rows("examples"), whole)
    nothing = made.rows("examples", site="nowhere", neuron=0)
    assert len(nothing) == 0
    pd.testing.assert_series_equal(nothing.dtypes, whole.dtypes)
    with pytest.raises(AddressError, match=r"no table 'example'.*examples"):
        made.rows("example")
    with pytest.raises(InvalidArgumentError, match="'neurons' has no column 'example'"):
        made.rows("neurons", example=3)


def test_rows_reads_across_row_groups(tmp_path):
    count = 20_000
    frame = pd.DataFrame(
        {
            "site": np.repeat(["b:input", "a:input"], count),
            "layer": pd.array([None] * (2 * count), dtype="Int32"),
            "neuron": np.tile(np.arange(count), 2),
            "n": 1,
            "nonfinite": 0,
            "mean": np.arange(2 * count),
        }
    )
    made = samples.Toy({"neurons": frame}, samples.manifest())
    loaded = samples.Toy.load(made.save(tmp_path / "run"))
    got = loaded.rows("neurons", site="a:input", neuron=[5, count - 1])
    assert got["mean"].tolist() == [count + 5, 2 * count - 1]
    assert got["site"].tolist() == ["a:input"] * 2
    assert got["layer"].isna().all()


def test_long_tables_cost_a_few_bytes_a_row(tmp_path):
    neurons, places, offsets = 100, 40, 25
    index = pd.MultiIndex.from_product(
        [range(neurons), ["top", "bottom"], range(places // 2), range(offsets)],
        names=["neuron", "side", "rank", "offset"],
    )
    frame = index.to_frame(index=False)
    random = np.random.default_rng(0)
    token = np.minimum(random.zipf(1.2, len(frame)), 30_000) - 1
    frame = frame.assign(
        site="layers.0.down:input",
        token_id=token,
        token=[f"tok{number}" for number in token],
        value=random.standard_normal(len(frame)),
    )
    folder = samples.Toy({"contexts": frame}, samples.manifest()).save(tmp_path / "run")
    # 3.7 of it are the values, which are noise here and cannot be made smaller; the whole table is 76 in memory.
    assert (folder / "contexts.parquet").stat().st_size / len(frame) < 8


def test_load_of_another_kind(tmp_path):
    folder = samples.toy().save(tmp_path / "run")

    class Other(Result):
        kind = "other"

    with pytest.raises(NotAResultError, match="kind 'toy', not 'other'"):
        Other.load(folder)
    with pytest.raises(InvalidArgumentError, match="kind 'toy', not 'other'"):
        Other({}, samples.manifest())


def test_load_result_picks_the_class_by_kind(tmp_path, monkeypatch):
    folder = samples.toy().save(tmp_path / "run")
    plain = load_result(folder)
    assert type(plain) is Result
    assert plain.manifest.kind == "toy"
    assert len(plain.to_frame()) == len(samples.neurons())
    monkeypatch.setattr(result, "KINDS", {"toy": "tests.store.samples:Toy"})
    assert load_result(folder) == samples.toy()


def test_saving_a_loaded_result_over_itself(tmp_path):
    folder = samples.toy().save(tmp_path / "run")
    loaded = samples.Toy.load(folder)
    loaded.save(folder, overwrite=True)
    assert loaded == samples.toy() == samples.Toy.load(folder)


def test_html_is_escaped_and_says_what_it_is(tmp_path):
    loaded = samples.Toy.load(samples.toy().save(tmp_path / "run"))
    html = loaded._repr_html_()
    assert "tiny &lt;llama&gt;" in html
    assert "<llama>" not in html
    assert "stories" in html
    assert str(tmp_path) in html
    assert html.count("<tr") == 6
    assert "no tables" in Result({}, samples.manifest())._repr_html_()


def test_views_come_from_the_module_of_the_kind(tmp_path, monkeypatch):
    made = samples.toy()
    with pytest.raises(InvalidArgumentError, match="kind 'toy' has no picture"):
        made.plot()
    package, module = ModuleType("neuronwise.report"), ModuleType("neuronwise.report.toy")
    module.plot = lambda result, ax: (result, ax)  # type: ignore[attr-defined]
    module.page = lambda result, path, *, neurons, title: (path, neurons, title)  # type: ignore[attr-defined]
    for part in (package, module):
        part.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(part.__name__, None)
        monkeypatch.setitem(sys.modules, part.__name__, part)
    assert made.plot("axes") == (made, "axes")
    assert made.report("x.html", title="Hello") == ("x.html", None, "Hello")


def test_an_unknown_table_lists_the_closest():
    with pytest.raises(AddressError, match=r"no 'neuron'.*neurons"):
        samples.toy().tables["neuron"]
