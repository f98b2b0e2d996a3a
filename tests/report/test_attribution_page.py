import pytest
import torch

import neuronwise as nw
from neuronwise.attribute import LogProbability, attribute
from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import NeuronSet, Site
from tests.attribute.models import case
from tests.report.pages import HOSTILE, Page


def found(**options):
    one = case("blocks")
    return attribute(one.model, one.inputs, LogProbability(one.answers), sites=one.sites, **options)


def test_page_shows_layers_extremes_and_completeness(tmp_path):
    result = found()
    written = Page(result.report(tmp_path / "page.html"))
    assert "layer 2, neuron" in written.text and "42 neurons of 3 sites, 3 examples" in written.text
    assert "largest gap between the sum" in written.text and "layers.1.down:input" in written.text
    assert "Layers and positions" not in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


def test_several_positions_have_a_map(tmp_path):
    written = Page(found(positions="all").report(tmp_path / "page.html"))
    assert "Layers and positions, first example" in written.text
    assert any(f'<i class="{sign}8">' in written.source for sign in "pn")


def test_methods_whose_scores_need_not_add_up(tmp_path):
    written = Page(found(method="ablation").report(tmp_path / "page.html"))
    assert "need not add up" in written.text


def test_neurons_asked_for_are_listed(tmp_path):
    result = found()
    site = result.sites[1]
    written = Page(result.report(tmp_path / "page.html", neurons=NeuronSet.of({site: [3]})))
    assert "The neurons asked for" in written.text
    with pytest.raises(InvalidArgumentError, match="no scores"):
        result.report(tmp_path / "b.html", neurons=NeuronSet.of({Site("other", "input", width=4): [0]}))


def test_same_bytes_and_escaped(tmp_path):
    result = found()
    first = result.report(tmp_path / "a.html", title=HOSTILE).read_bytes()
    assert result.report(tmp_path / "b.html", title=HOSTILE).read_bytes() == first
    assert b"<script>alert" not in first


def test_plot_has_a_bar_for_each_layer():
    ax = found().plot()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["layer 0", "layer 1", "layer 2"]


def test_a_loaded_result_shows_the_same(tmp_path):
    result = found()
    result.save(tmp_path / "kept")
    assert nw.load(tmp_path / "kept").summary() == result.summary()
    assert torch.is_grad_enabled()
