import pandas as pd
import pytest

from neuronwise.errors import InvalidArgumentError
from neuronwise.knowledge import Effect, Redundancy
from neuronwise.knowledge._effect_tables import MEASURES
from neuronwise.report import effect as view
from neuronwise.sites import NeuronSet
from tests.report.pages import HOSTILE, Page, manifest

PROBES = ("own", "sister", "other")


def made(*, factors=(0.0, 2.0), controls=3, fact="f0", problem="", name="tiny"):
    kinds = ["chosen", "random", "difference"] if controls else ["chosen"]
    keys = pd.MultiIndex.from_product(
        [factors, PROBES, MEASURES, kinds], names=["factor", "probe", "measure", "neurons"]
    )
    summary = keys.to_frame(index=False).assign(low=-0.75, high=-0.25, facts=7, seed_sd=float("nan"))
    summary["value"] = summary["neurons"].map({"chosen": -0.5, "random": -0.3125, "difference": -0.1875})
    summary.loc[summary["neurons"] == "random", "seed_sd"] = 0.02
    effects = pd.DataFrame(
        {"fact": [fact], "relation": "r", "neurons": "chosen", "seed": pd.array([None], "Int32")}
    )
    effects = effects.assign(factor=factors[0], probe="own", n_neurons=4, n_prompts=2)
    figures = ("p_before", "p_after", "log_p_before", "log_p_after", "right_before", "right_after")
    effects = effects.assign(**dict.fromkeys((*figures, "ratio_mean", "ratio_median"), 0.5))
    rows = [(0, fact, "own", problem, problem)] if problem else []
    problems = pd.DataFrame(rows, columns=["number", "fact", "probe", "prompt", "problem"])
    parameters = {"factors": list(factors), "controls": controls, "positions": "slot", "reference": "zero"}
    about = manifest(
        "effect",
        action={"name": "measure_effect", "parameters": parameters},
        model={"name": name},
        data={"name": "words", "facts": 7, "relations": {"r": 7}, "fingerprint": "ab" * 32},
    )
    return Effect({"effects": effects, "effect_summary": summary, "effect_problems": problems}, about)


def test_page_sets_the_chosen_beside_the_random(tmp_path):
    written = Page(made(problem="no such word").report(tmp_path / "page.html"))
    assert "Suppressed (× 0)" in written.text and "Doubled (× 2)" in written.text
    assert (
        "−50.0 % [−75.0 %, −25.0 %]" in written.text
        and "−31.2 %" in written.text
        and "−18.8 %" in written.text
    )
    assert "beside 3 random sets" in written.text and "no such word" in written.text
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))


def test_page_without_controls_or_problems(tmp_path):
    written = Page(made(controls=0, factors=(0.5,)).report(tmp_path / "page.html"))
    assert "Multiplied by 0.5" in written.text and "could not be measured" not in written.text


def test_same_result_gives_the_same_bytes_and_text_is_escaped(tmp_path):
    first = made().report(tmp_path / "a.html").read_bytes()
    assert made().report(tmp_path / "b.html").read_bytes() == first
    written = Page(made(fact=HOSTILE, problem=HOSTILE, name=HOSTILE).report(tmp_path / "page.html"))
    assert "<script>alert" not in written.source and len(written.scripts) == 1


def test_plot_has_a_pair_of_bars_for_each_kind_of_prompt():
    ax = made().plot()
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "own\nprompts",
        "sister\nfacts",
        "other\nfacts",
    ]
    assert [round(bar.get_height(), 4) for bar in ax.patches] == [-0.5] * 3 + [-0.3125] * 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["chosen", "random"]
    assert "log P" in view.plot(made(), measure="delta_log_p", factor=2.0).get_ylabel()


def test_wrong_arguments(tmp_path):
    with pytest.raises(InvalidArgumentError, match="all neurons changed"):
        made().report(tmp_path / "page.html", neurons=NeuronSet())
    with pytest.raises(InvalidArgumentError, match="no average"):
        view.plot(made(), measure="p")
    with pytest.raises(InvalidArgumentError, match="not measured; there are 0, 2"):
        view.plot(made(), factor=3.0)


def redundant(site="layers.0.mlp:input"):
    neurons = pd.DataFrame(
        {"rank": [0, 1], "site": site, "layer": pd.array([0, 0], "Int32"), "neuron": [3, 5]}
    )
    neurons = neurons.assign(score=[0.45, 0.44], drop=[0.06, 0.05], covered=[True, True])
    pair = {"site": site, "neuron": 3, "other_site": site, "other": 5, "drop": 0.06, "drop_other": 0.05}
    pairs = pd.DataFrame([pair | {"drop_both": 0.9, "synergy": 0.79, "covers": True}])
    parameters = {"p": 0.99, "keep": 0.8, "lose": 0.5, "share": 0.5}
    about = manifest(
        "redundancy",
        action={"name": "redundancy", "parameters": parameters},
        data={"fact": "f", "answer": "Lily"},
    )
    return Redundancy({"redundant_neurons": neurons, "redundant_pairs": pairs}, about)


def test_page_of_a_redundancy(tmp_path):
    written = Page(redundant().report(tmp_path / "page.html"))
    assert "1 of 1 pairs cover for each other" in written.text and "0.7900 yes" in written.text
    assert "stand in for each other: Lily" in written.text
    hostile = Page(redundant(HOSTILE).report(tmp_path / "page.html"))
    assert "<script>alert" not in hostile.source
    with pytest.raises(InvalidArgumentError, match="leave neurons= out"):
        redundant().report(tmp_path / "page.html", neurons=NeuronSet())


def test_plot_of_a_redundancy_marks_pairs_that_cover():
    ax = redundant().plot()
    assert ax.collections[1].get_offsets().tolist() == [[0.11, 0.9]]
