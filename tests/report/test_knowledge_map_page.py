import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import KnowledgeMap
from neuronwise.report import knowledge_map as view
from neuronwise.sites import NeuronSet
from tests.report.pages import HOSTILE, Page, manifest


def made(*, layers=3, each=4, heat=True, token="girl", prompt="a girl named [Y]", gap=0.001):
    sites = [f"layers.{layer}.mlp:input" for layer in range(layers)]
    keys = pd.MultiIndex.from_product([sites, range(each)], names=["site", "neuron"]).to_frame(index=False)
    layer = keys["site"].str.extract(r"(\d+)")[0].astype("Int32")
    sign = np.where(keys["neuron"] % 2, -1.0, 1.0)
    nodes = keys.assign(
        layer=layer, score=sign * (1 + keys["neuron"]), activation=1.0, start=0.5, explained=0.25, gap=gap
    )
    pairs = keys.merge(keys.rename(columns={"site": "to_site", "neuron": "to_neuron"}), how="cross")
    pairs = pairs[pairs["site"].map(sites.index) < pairs["to_site"].map(sites.index)].reset_index(drop=True)
    edges = pairs.assign(score=np.linspace(-1, 0.9, len(pairs)), score_sd=0.1)
    tables = {"map_nodes": nodes, "map_edges": edges}
    if heat:
        where = pd.MultiIndex.from_product(
            [[0], sites, [0, 1]], names=["prompt", "site", "position"]
        ).to_frame(index=False)
        where["layer"] = where["site"].str.extract(r"(\d+)")[0].astype("Int32")
        tables["map_positions"] = where.assign(token=token, positive=0.5, negative=-0.25)
    parameters = {
        "prompts": [prompt],
        "method": "joint_integrated_gradients",
        "target": "probability",
        "value": 0.93,
    }
    return KnowledgeMap(
        tables,
        manifest(
            "knowledge_map",
            action={"name": "knowledge_map", "parameters": parameters},
            data={"fact": "f", "answer": "Lily"},
        ),
    )


def test_page_shows_the_map_and_its_tables(tmp_path):
    written = Page(made().report(tmp_path / "page.html"))
    assert "Knowledge map: Lily" in written.text and "12 neurons in 3 layers, 48 edges" in written.text
    assert "the 18 strongest of 48 edges" in written.text and "“a girl named [Y]”" in written.text
    assert "layers.0.mlp:input[0] layers.1.mlp:input[0] −1.000 0.1000" in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


def test_page_without_positions_and_gap(tmp_path):
    written = Page(made(heat=False, gap=np.nan).report(tmp_path / "page.html"))
    assert "Where in the prompt" not in written.text and "Largest gap 0" not in written.text


def test_same_result_gives_the_same_bytes_and_text_is_escaped(tmp_path):
    first = made().report(tmp_path / "a.html").read_bytes()
    assert made().report(tmp_path / "b.html").read_bytes() == first
    written = Page(made(token=HOSTILE, prompt=HOSTILE).report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in written.source and len(written.scripts) == 1


def test_plot_has_a_row_for_each_layer_and_a_circle_for_each_neuron():
    ax = view.plot(made(), edges=10)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["Layer 0", "Layer 1", "Layer 2"]
    lines, circles = ax.collections[:2], ax.collections[2:]
    assert sum(len(group.get_segments()) for group in lines) == 10
    places = np.concatenate([group.get_offsets() for group in circles])
    assert len(places) == 12 and len({tuple(place) for place in places.tolist()}) == 12
    assert sorted(text.get_text() for text in ax.texts) == sorted(list("0123") * 3)
    sizes = np.concatenate([group.get_sizes() for group in circles])
    assert sizes.max() == 400 and len(np.unique(sizes)) == 4


def test_edges_that_pass_by_a_layer_make_a_bow():
    straight = view._curve((0.5, 0.0), (0.5, 1.0))
    assert (straight[:, 0] == 0.5).all()
    bow = view._curve((0.5, 0.0), (0.5, 2.0))
    assert bow[12].tolist() == pytest.approx([0.55, 1.0]) and bow[[0, -1], 0].tolist() == pytest.approx(
        [0.5, 0.5]
    )


def test_plot_of_positions():
    ax = view.plot_positions(made())
    assert len(ax.patches) == 12 and [t.get_text() for t in ax.get_xticklabels()] == ["girl", "girl"]
    with pytest.raises(InvalidArgumentError, match="no prompt 3"):
        view.plot_positions(made(), prompt=3)
    with pytest.raises(InvalidArgumentError, match="heat_map=True"):
        view.plot_positions(made(heat=False))


def test_neurons_cannot_be_chosen(tmp_path):
    with pytest.raises(InvalidArgumentError, match="leave neurons= out"):
        made().report(tmp_path / "page.html", neurons=NeuronSet())
