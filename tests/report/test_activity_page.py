import base64
import hashlib

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

import neuronwise as nw
from neuronwise.errors import InvalidArgumentError, NeuronIndexError, SiteNotFoundError, WriteError
from neuronwise.report.activity import page
from neuronwise.sites import NeuronSet, Site, Sites
from neuronwise.store import Result
from tests.report.pages import HOSTILE, Page, activity

TABLES = ("examples", "contexts", "histogram", "coactivation", "promoted", "class_means")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of an activity that has every table."""
    return Page(activity().report(tmp_path_factory.mktemp("report") / "page.html"))


def test_page_needs_nothing_else(whole):
    assert all(reference.startswith(("#", "data:")) for reference in whole.references)
    assert not {"link", "iframe", "object", "embed", "base"} & set(whole.tags)
    assert "http:" not in whole.source and "https:" not in whole.source
    assert "@import" not in whole.source
    assert whole.source.count("url(") == whole.source.count("url(#")


def test_ids_are_unique_and_links_lead_somewhere(whole):
    assert len(whole.ids) == len(set(whole.ids))
    assert {ref[1:] for ref in whole.references if ref.startswith("#")} <= set(whole.ids)


def test_page_runs_only_its_own_script(whole):
    script = next(text for values, text in whole.scripts if not values)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in whole.meta["Content-Security-Policy"]
    assert len(whole.scripts) == 2


def test_page_tells_what_was_run(whole):
    for fact in ("tiny", "Tiny", "1,234", "abababababab", "words", "cdcdcdcdcdcd", "2026-01-02 03:04:05 UTC"):
        assert fact in whole.text
    assert "12 neurons in 2 sites" in whole.text


def test_overview_counts_the_dead(whole):
    assert "Layer 0 6 1 0 0.583 0.500" in whole.text  # neurons, dead, nearly dead, sparsity, median active


def test_most_selective_neurons_have_a_section(whole):
    wanted = {f"n{site}-{neuron}" for site in (0, 1) for neuron in (5, 4, 3, 2, 1)}
    assert {name for name in whole.ids if name.startswith("n") and "-" in name} == wanted
    assert whole.ids.index("n0-5") < whole.ids.index("n0-4")


def test_section_shows_every_table(whole):
    mean = activity().rows("neurons", site="layers.0.mlp:input", neuron=5)["mean"].item()
    assert f"Mean {mean:.2f} ± 0.10".replace("-", "−") in whole.text
    assert "Excess kurtosis 12.50" in whole.text
    assert "Promotes cat↵ 1.25" in whole.text and "Demotes cat↵ 1.25" in whole.text
    assert "Correlates with neuron 0 −0.500" in whole.text
    assert "50 % quantile 0.2500" in whole.text
    assert "20.0 example 0, position 3" in whole.text and "−20.0 example 0, position 3" in whole.text
    assert "Mean for each upos" in whole.text and "$x$ 名" in whole.text
    assert 'class="p8 peak"' in whole.source and 'class="n4"' in whole.source


def test_table_holds_every_neuron_with_its_values(whole):
    data, frame = whole.data, activity().to_frame()
    assert data["neuron"] == frame["neuron"].tolist() and data["total"] == len(frame)
    assert [data["sites"][place]["name"] for place in data["site"]] == frame["site"].tolist()
    columns = {column["key"]: column["values"] for column in data["columns"]}
    assert np.allclose(columns["mean"], frame["mean"], rtol=1e-3)
    assert columns["kurtosis"] == frame["kurtosis"].tolist()
    assert {words["label"]: words["values"][0] for words in data["words"]} == {
        "Top tokens": [" cat↵"], "Bottom tokens": [" cat↵"], "Promotes": [" cat↵"],
    }  # fmt: skip
    assert data["sections"]["1:5"] == "n1-5"


def test_text_of_others_is_escaped(tmp_path):
    result = activity(
        width=1,
        token=HOSTILE,
        model={"name": HOSTILE, "class": HOSTILE, "parameters": 1},
        data={"name": HOSTILE, "examples": 10},
    )
    written = Page(result.report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in written.source
    assert len(written.scripts) == 2
    assert HOSTILE in written.text
    assert written.data["words"][0]["values"][0] == [HOSTILE]


def test_same_result_gives_the_same_bytes(tmp_path):
    result = activity(sites=1, width=2)
    first = result.report(tmp_path / "a.html").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert result.report(tmp_path / "b.html").read_bytes() == first
    loaded = nw.load(result.save(tmp_path / "result"))
    assert loaded.report(tmp_path / "c.html").read_bytes() == first


def test_settings_of_matplotlib_stay_as_they_are(tmp_path):
    matplotlib.use("agg")
    before = dict(matplotlib.rcParams)
    result = activity(sites=1, width=2)
    result.report(tmp_path / "page.html")
    result.plot()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("missing", [*((table,) for table in TABLES), TABLES])
def test_missing_tables_are_left_out(tmp_path, missing):
    written = Page(activity(sites=1, width=2, without=missing).report(tmp_path / "page.html"))
    assert "n0-1" in written.ids
    assert len(written.ids) == len(set(written.ids))


def test_missing_statistics_are_left_out(tmp_path):
    full = activity(without=TABLES)
    neurons = full.to_frame()[["site", "layer", "neuron", "n", "nonfinite"]]
    bare = type(full)({"sites": full.tables["sites"], "neurons": neurons}, full.manifest)
    written = Page(bare.report(tmp_path / "page.html"))
    assert "Dead" not in written.text
    assert bare.plot().get_title(loc="left") == "Values of the neurons"


def test_long_table_is_cut_and_says_so(tmp_path):
    result = activity(sites=1, width=50)
    chosen = NeuronSet.of({result.sites[0]: [0, 49]})
    written = Page(page(result, tmp_path / "page.html", neurons=chosen, rows=10))
    assert written.data["neuron"] == [0, *range(41, 50)]  # the highest, and what has a section
    assert "10 of the 50 neurons" in written.text
    with pytest.raises(InvalidArgumentError, match="rows"):
        page(result, tmp_path / "page.html", rows=0)


def test_there_are_not_too_many_sections(tmp_path):
    result = activity(sites=45, width=2, without=TABLES)
    written = Page(result.report(tmp_path / "page.html"))
    assert sum(name.endswith("-1") for name in written.ids) == 40
    assert not any(name.endswith("-0") for name in written.ids)


def test_neurons_to_show_can_be_chosen(tmp_path):
    result = activity()
    chosen = NeuronSet.parse("0:0 1:2,3", result.sites)
    written = Page(result.report(tmp_path / "page.html", neurons=chosen))
    assert [name for name in written.ids if name.startswith("n") and "-" in name] == ["n0-0", "n1-2", "n1-3"]
    assert 'href="#n1-3"' in written.source  # neuron 2 goes with neuron 3
    empty = Page(result.report(tmp_path / "page.html", neurons=NeuronSet()))
    assert "Neurons in full" not in empty.text


def test_neurons_that_were_not_observed_are_refused(tmp_path):
    result = activity()
    with pytest.raises(SiteNotFoundError, match=r"layers\.0"):
        result.report(
            tmp_path / "page.html", neurons=NeuronSet.of({Site("layers.9.mlp", "input", width=6): [0]})
        )
    with pytest.raises(NeuronIndexError, match="6 neurons"):
        result.report(
            tmp_path / "page.html", neurons=NeuronSet.of({Site("layers.0.mlp", "input", width=9): [8]})
        )
    assert not (tmp_path / "page.html").exists()


def test_values_that_are_not_finite_are_pointed_out(tmp_path):
    full = activity(without=TABLES)
    neurons = full.to_frame()
    neurons.loc[7, "nonfinite"] = 1234
    neurons.loc[7, ["mean", "kurtosis"]] = np.nan
    bad = type(full)({"sites": full.tables["sites"], "neurons": neurons}, full.manifest)
    written = Page(bad.report(tmp_path / "page.html"))
    assert "1 neuron had activations that are NaN or infinite, 1,234 in all" in written.text
    assert "Layer 1, neuron 1: 1,234" in written.text
    columns = {column["key"]: column["values"] for column in written.data["columns"]}
    assert columns["kurtosis"][7] is None and columns["nonfinite"][7] == 1234


def test_page_is_whole_or_not_there(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        activity(sites=1, width=2, without=TABLES).report(tmp_path / "file" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pictures_and_classes_of_a_vision_model(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    images = torch.rand(12, 1, 8, 8)
    corpus = nw.corpus(images, labels={"kind": ["<dot>", "bar"] * 6})
    sites = Sites([Site("1", "output", width=3, axis=1, kind="conv"), Site("4", "input", width=3)])
    result = nw.observe(model.eval(), corpus, sites)
    written = Page(result.report(tmp_path / "page.html"))
    pictures = [
        reference for reference in written.references if reference.startswith("data:image/png;base64,")
    ]
    assert len(pictures) >= 10 * 3
    assert 'class="spot"' in written.source
    row = result.examples(sites[0], 0).iloc[0]
    left, top = 100 * (row["position"] % 8 + 0.5) / 8, 100 * (row["position"] // 8 + 0.5) / 8
    assert f"left:{left:.1f}%;top:{top:.1f}%" in written.source
    assert "<dot>" in written.text and "Mean for each kind" in written.text
    assert "1:output" in written.text  # sites without layers go by their names


def test_examples_without_tokens_or_images_are_a_table(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    result = nw.observe(model, nw.corpus(torch.randn(30, 3)), Site("2", "input", width=4))
    written = Page(result.report(tmp_path / "page.html"))
    assert "Activation Example Position" in written.text
    assert (
        "so many positions that there is no lowest example" in written.text
    )  # rectified neurons are often 0


def test_plot_draws_on_the_axes_it_is_given():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    result: Result = activity()
    assert result.plot(ax) is ax
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1"]
    median = ax.lines[0].get_ydata()
    assert median == pytest.approx([6.25, 6.25])
    assert result.plot().figure is not ax.figure
