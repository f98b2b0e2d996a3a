import time

import numpy as np
import pandas as pd
import pytest

from neuronwise.errors import FactError, InvalidArgumentError, NeuronIndexError, SiteNotFoundError
from neuronwise.knowledge import KnowledgeNeurons
from neuronwise.report.knowledge import page
from neuronwise.sites import NeuronSet, Site
from tests.report.pages import HOSTILE, Page, manifest

WIDTH = 50
NAMES = [f"layers.{layer}.mlp:input" for layer in range(3)]


def located(
    facts=6, relations=2, *, prompts=4, neurons=3, answer="Lily", problems=(), method="ig", relation="P{}"
):
    """Facts whose neurons are 0, 1, ... of every layer, the first of them shared by all; one neuron a side is weak."""
    ids = [f"f{at:05d}" for at in range(facts)]
    known = pd.DataFrame(
        {
            "fact": ids, "relation": [relation.format(at % relations) for at in range(facts)], "subject": answer,
            "answer": answer, "prompts": prompts, "p": 0.5, "log_p": -0.7, "right": 0.75, "jaccard": 0.25,
            "r1_squared": 0.5, "gap": 1e-3, "share": 0.7, "neurons": neurons,
        }
    )  # fmt: skip
    if prompts == 1:
        known[["jaccard", "r1_squared"]] = np.nan
    each = pd.DataFrame({"rank": range(neurons + 1)})
    rows = (
        known[["fact"]].merge(pd.DataFrame({"side": ["most", "least"]}), how="cross").merge(each, how="cross")
    )
    number = rows["fact"].str[1:].astype(int)
    own = 1 + (number + rows["rank"]) % (WIDTH // 2 - 1)
    rows = rows.assign(
        neuron=np.where(rows["rank"] == 0, 0, own) + (rows["side"] == "least") * 25,
        site=[NAMES[rank % 3] for rank in rows["rank"]], layer=rows["rank"] % 3,
        prompts=np.where(rows["rank"] == neurons, 1, prompts),
        score=np.where(rows["side"] == "most", 1.0, -1.0) / (1 + rows["rank"]), refined=rows["rank"] < neurons,
    )  # fmt: skip
    rows = rows.drop_duplicates(["fact", "side", "site", "neuron"])
    names = sorted({relation.format(at) for at in range(relations)} - {""})
    overlap = {"share": 0.7, "rounds": 0, "neurons": 3.0, "shared_within": 1.5, "jaccard_within": 0.125}
    table = pd.DataFrame(
        [{"relation": name, "facts": facts // relations, **overlap} for name in [*names, ""]]
    )
    if not names:
        table[["shared_within", "jaccard_within"]] = np.nan
    tables = {
        "sites": pd.DataFrame(
            {
                "site": NAMES, "path": [name.split(":")[0] for name in NAMES], "tensor": "input",
                "call": pd.array([None] * 3, dtype="Int32"), "stack": "layers", "layer": [0, 1, 2],
                "kind": "ffn", "width": WIDTH, "axis": -1,
            }
        ),
        "facts": known,
        "fact_neurons": rows,
        "relations": table.assign(shared_across=0.75 if relations > 1 else np.nan),
        "hubs": pd.DataFrame(
            {
                "site": NAMES[:1], "layer": [0], "neuron": [0], "kind": "hub", "relation": relation.format(0),
                "facts": facts, "share": 1.0, "share_of_relation": 1.0, "relations": relations,
            }
        ),
        "fact_problems": pd.DataFrame(list(problems), columns=["fact", "reason"]),
    }  # fmt: skip
    parameters = {
        "method": method,
        "target": "probability",
        "refinement": {"share": 0.7, "rule": "official"},
        "k": 5,
    }
    action = {"name": "locate", "parameters": parameters}
    data = {"name": "facts", "facts": facts, "fingerprint": "ef" * 32, "skipped": 2}
    return KnowledgeNeurons(tables, manifest("knowledge", action=action, data=data))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    result = located(problems=[("bad1", "no slot"), ("bad2", "unknown answer")])
    return Page(result.report(tmp_path_factory.mktemp("report") / "page.html"))


def test_page_is_whole_and_needs_nothing_else(written):
    assert all(reference.startswith("#") for reference in written.references)
    assert len(written.ids) == len(set(written.ids))
    assert {ref[1:] for ref in written.references} <= set(written.ids)
    assert "http:" not in written.source and "https:" not in written.source


def test_agreement_is_always_there_with_what_it_means(written, tmp_path):
    assert "Agreement of prompts: sets 0.25 Jaccard index" in written.text
    assert "Agreement of prompts: scores 0.50 R1²" in written.text
    assert "the neurons belong to the wordings, not to the fact" in written.text
    single = Page(located(prompts=1).report(tmp_path / "page.html"))
    assert "Agreement of prompts – Every fact has one prompt" in single.text


def test_findings_problems_and_tables(written):
    text = written.text
    assert "6 facts of 2 relations, looked for among 150 neurons in 3 sites" in text
    assert "Answered right 75%" in text and "Neurons a fact 3.00 on average, median 3" in text
    assert (
        "Overlap of facts 1.5 neurons that two facts of one relation share (Jaccard 0.12), against 0.75"
        in text
    )
    assert "Largest completeness gap 0.0010" in text
    assert "2 facts could not be looked at" in text and "2 lines of the file could not be read" in text
    assert "bad1 no slot" in text and "bad2 unknown answer" in text
    assert "Layer 0 50 1.00 33.3% 1 100.0% 1.00" in text  # every fact has neuron 0 of it, and one against it
    assert "P0 3 75% 3.00 0.25 0.50 1.50 0.12 0.750 0.70" in text
    assert "Layer 0 · 0 hub 6 100.0% 2 P0 100.0%" in text


def test_a_fact_shows_its_neurons_of_both_sides(written):
    assert sum(name.startswith("fact") and name[4:].isdigit() for name in written.ids) == 6
    assert "Layer 0 · 0 (4/4)" in written.source and "Layer 0 · 25 (4/4)" in written.source
    assert "Layer 0 0 most 1.00 4 of 4 yes" in written.text
    assert "Layer 0 25 least −1.00 4 of 4 yes" in written.text
    assert "0.250 1 of 4 no" in written.text


def test_text_of_others_is_escaped(tmp_path):
    result = located(answer=HOSTILE, relation=HOSTILE + "{}", problems=[(HOSTILE, HOSTILE)])
    shown = Page(result.report(tmp_path / "page.html", title=HOSTILE))
    assert "<script>alert" not in shown.source and len(shown.scripts) == 1
    assert f"{HOSTILE} → {HOSTILE}" in shown.text


def test_neurons_choose_the_facts_that_have_them(tmp_path):
    result = located(facts=12)
    site = result.sites[1]
    index = int(result.neurons("f00003").indices(site)[0])
    shown = Page(result.report(tmp_path / "a.html", neurons=NeuronSet.of({site: [index]})))
    wanted = (
        {fact for fact, own in result.sets().items() if index in own.indices(site.name)} if index else set()
    )
    assert {fact for fact in result.ids if f"id {fact} " in shown.text} == wanted == {"f00003"}
    none = Page(result.report(tmp_path / "b.html", neurons=NeuronSet.of({site: [WIDTH - 1]})))
    assert "No fact has one of these neurons." in none.text


def test_wrong_choices_are_errors(tmp_path):
    result, path = located(), tmp_path / "page.html"
    with pytest.raises(SiteNotFoundError):
        result.report(path, neurons=NeuronSet.of({Site("other", "input", width=9): [1]}))
    with pytest.raises(NeuronIndexError, match="has 50 neurons"):
        result.report(path, neurons=NeuronSet.of({Site("layers.0.mlp", "input", width=99): [70]}))
    with pytest.raises(FactError, match="no fact 'f0000'"):
        page(result, path, facts=["f0000"])
    with pytest.raises(InvalidArgumentError, match="not both"):
        page(result, path, facts=["f00000"], neurons=NeuronSet())
    assert not path.exists()


def test_facts_by_id_in_that_order(tmp_path):
    shown = Page(page(located(), tmp_path / "page.html", facts=["f00004", "f00001"]))
    assert shown.text.index("id f00004") < shown.text.index("id f00001") and "id f00000" not in shown.text


def test_the_first_facts_of_every_relation_are_shown(tmp_path):
    result = located(facts=90, relations=30)
    shown = Page(result.report(tmp_path / "page.html"))
    assert sum(name.startswith("fact") and name[4:].isdigit() for name in shown.ids) == 24
    assert all(f"id f000{at:02d} " in shown.text for at in range(24))
    assert "The first facts of each relation" in shown.text


def test_facts_without_relations_and_elimination(tmp_path):
    shown = Page(located(relations=1, relation="", method="elimination").report(tmp_path / "page.html"))
    assert "Overlap of facts" not in shown.text and "relations" not in shown.ids
    assert "found by elimination" in shown.text and "what the answer's probability loses" in shown.text


def test_tens_of_thousands_of_facts_make_a_small_page(tmp_path):
    result = located(
        facts=20_000, relations=500, problems=[(f"bad{at}", "no slot " * 20) for at in range(5000)]
    )
    before = time.process_time()
    path = result.report(tmp_path / "page.html")
    assert time.process_time() - before < 30
    assert path.stat().st_size < 3_000_000
    text = Page(path).text
    assert "The first 50 of 5,000" in text and "The 200 largest of 500 relations" in text


def test_same_result_gives_the_same_bytes(tmp_path):
    first = located().report(tmp_path / "a.html").read_bytes()
    assert located().report(tmp_path / "b.html").read_bytes() == first


def test_plot_draws_most_and_least_of_every_layer():
    ax = located().plot()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "2"]
    assert [[round(bar.get_height(), 6) for bar in bars] for bars in ax.containers] == [[1, 1, 1]] * 2
    assert ax.get_ylabel() == "Neurons a fact"
