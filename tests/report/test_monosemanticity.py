import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError, NeuronIndexError
from neuronwise.observe import Monosemanticity
from neuronwise.report import monosemanticity as view
from neuronwise.sites import NeuronSet, Site
from tests.report.pages import HOSTILE, Page, manifest

MEASURES = ("kurtosis", "hoyer", "population_sparsity")


def made(
    *, sites=2, width=4, bases=("neuron", "rotated"), positions=1, name=None, per_neuron=True, unit="feature"
):
    """Kurtosis grows with layer and neuron; hoyer falls; neuron 0 is dead; the last site has no hoyer."""
    names = [name or f"layers.{layer}.mlp:input" for layer in range(sites)]
    layers = pd.array(range(sites), dtype="Int32")
    frame = {
        "path": [one.split(":")[0] for one in names],
        "tensor": "input",
        "stack": "layers",
        "layer": layers,
    }
    where = pd.DataFrame({"site": names, **frame, "kind": "ffn", "width": width, "axis": -1})
    where["call"] = pd.array([None] * sites, dtype="Int32")
    units, rows = [], []
    for layer, site in enumerate(names):
        for measure in MEASURES:
            for basis in bases:
                value = {"kurtosis": 3.0 + layer, "hoyer": 0.25, "population_sparsity": 0.5}[measure]
                value = (
                    np.nan if measure == "hoyer" and layer == sites - 1 else value / (1 + (basis != "neuron"))
                )
                counts = {"n_live": width - 1, "n_near_dead": 0, "n_dead": 1, "n": 1234, "n_reference": 1000}
                place = {"site": site, "layer": layer, "measure": measure, "basis": basis}
                rows.append(place | dict.fromkeys(("mean", "median", "low", "high"), value) | counts)
            if measure == "population_sparsity" or not per_neuron:
                continue
            for position in range(positions):
                for neuron in range(width):
                    value = 100.0 * layer + neuron if measure == "kurtosis" else -neuron / 8
                    place = {"site": site, "layer": layer, "measure": measure, "position": position}
                    units.append(place | {"neuron": neuron, "value": value, "live": neuron > 0})
    columns = ["site", "layer", "measure", "position", "neuron", "value", "live"]
    tables = {
        "sites": where,
        "unit_measures": pd.DataFrame(units, columns=columns),
        "site_measures": pd.DataFrame(rows),
    }
    parameters = {
        "unit": unit,
        "reference": "half of the examples",
        "skipped": {"auc": f"{names[0]}: no labels"},
    }
    about = manifest("monosemanticity", action={"name": "monosemanticity", "parameters": parameters})
    return Monosemanticity(tables, about)


def test_page_shows_maps_liveness_measures_and_extremes(tmp_path):
    written = Page(made().report(tmp_path / "page.html"))
    assert "3 measures of 2 sites, on 1,234 positions" in written.text
    assert "The neurons" in written.text and "A random rotation" in written.text
    assert "Principal components" not in written.text
    assert "Layer 0 3 0 1 1,234 1,000" in written.text
    highest = written.text.index("layers.1.mlp:input[3] 103")
    assert highest < written.text.index("layers.0.mlp:input[1] 1.00") and "input[0]" not in written.text
    assert (
        "how few samples carry the activation" in written.text
        and "an offset makes any unit look dense" in written.text
    )
    assert "layers.0.mlp:input: no labels" in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


def test_plot_scales_each_measure_over_layers_and_bases():
    ax = made().plot()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["kurtosis", "hoyer", "population sparsity"]
    assert [text.get_text() for text in ax.texts] == ["3.0", "0.25", "0.50", "4.0", "–", "0.50"]
    strength = [patch.get_alpha() for patch in ax.patches]
    assert len(strength) == 5  # one is not defined
    # Kurtosis of both bases goes from 1.5 to 4.
    assert strength[3] == max(strength) and strength[0] == pytest.approx(0.06 + 0.49 * 1.5 / 2.5)
    assert view.plot(made(), basis="rotated").patches[0].get_alpha() == pytest.approx(0.06)
    with pytest.raises(InvalidArgumentError, match="basis 'pca' was not measured"):
        view.plot(made(), basis="pca")


def test_many_layers_get_maps_that_scroll_and_have_no_numbers(tmp_path):
    result = made(sites=13)
    assert not result.plot().texts
    source = Page(result.report(tmp_path / "page.html")).source
    assert "Map of measures by layers: the neurons" in source
    assert "Map of measures" not in Page(made().report(tmp_path / "few.html")).source


def test_neurons_asked_for_are_listed_with_all_measures(tmp_path):
    result = made()
    chosen = NeuronSet.of({result.sites[1]: [0, 2]})
    written = Page(result.report(tmp_path / "page.html", neurons=chosen))
    assert "layers.1.mlp:input[2] yes 102 −0.250" in written.text and "[0] no 100 0" in written.text
    with pytest.raises(NeuronIndexError, match="has 4 neurons"):
        wide = Site("layers.1.mlp", "input", width=9, layer=1, stack="layers")
        result.report(tmp_path / "b.html", neurons=NeuronSet.of({wide: [8]}))
    with pytest.raises(InvalidArgumentError, match="only of sites"):
        made(per_neuron=False).report(tmp_path / "b.html", neurons=chosen)
    with pytest.raises(InvalidArgumentError, match="unit='element'"):
        made(positions=2).report(tmp_path / "b.html", neurons=chosen)


def test_elements_are_named_by_their_position(tmp_path):
    written = Page(made(positions=2, unit="element").report(tmp_path / "page.html"))
    assert "layers.1.mlp:input[3], position 1 103" in written.text


def test_measures_of_sites_alone(tmp_path):
    written = Page(made(per_neuron=False, bases=("neuron",)).report(tmp_path / "page.html"))
    assert "most extreme" not in written.text and "the same in all maps" not in written.text


def test_same_bytes_and_escaped(tmp_path):
    first = made().report(tmp_path / "a.html").read_bytes()
    assert made().report(tmp_path / "b.html").read_bytes() == first
    written = Page(made(sites=1, name=HOSTILE + ":input").report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in written.source and len(written.scripts) == 1
