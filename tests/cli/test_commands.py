"""Every command on the bundled model: what it answers, as tables and as JSON."""

import csv
import io
import json

import pandas as pd
import pytest
import torch

import neuronwise as nw
from neuronwise.cli.options import _Cast
from tests.cli.conftest import MODEL


def document(done, code=0):
    """The one JSON document on standard output."""
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout)


def test_sites_lists_every_site_with_its_weights(run):
    answer = document(run("sites", MODEL, "--json"))
    assert answer["neurons"] == 860
    assert [row["layer"] for row in answer["sites"]] == [0, 1, 2, 3, 4]
    first = answer["sites"][0]
    assert first["site"] == "model.layers.0.mlp.down_proj:input"
    assert (
        first["reads"] == "gate: model.layers.0.mlp.gate_proj.weight, up: model.layers.0.mlp.up_proj.weight"
    )
    assert first["writes"] == "model.layers.0.mlp.down_proj.weight"


def test_sites_as_a_table_names_weights_shortly_and_has_no_control_codes(run):
    done = run("sites", MODEL)
    assert "860 neurons in 5 sites" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "layers.3" in line)
    assert row.split() == [
        "model.layers.3.mlp.down_proj:input",
        "3",
        "ffn",
        "172",
        "gate_proj,",
        "up_proj",
        "down_proj",
    ]
    assert "\x1b" not in done.stdout


def test_where_picks_found_sites_first_and_takes_modules_by_hand_otherwise(run):
    answer = document(run("sites", MODEL, "--where", "model.layers.3.*", "--where", "model.norm", "--json"))
    assert [row["site"] for row in answer["sites"]] == [
        "model.layers.3.mlp.down_proj:input",
        "model.norm:output",
    ]
    assert [row["kind"] for row in answer["sites"]] == ["ffn", "module"]


def test_observe_saves_what_the_library_would_and_shows_the_most_selective(observed):
    folder, done = observed
    activity = nw.load(folder)
    loaded = nw.load_model(MODEL)
    stories = nw.corpus("stories", tokenizer=loaded.tokenizer, max_length=64)
    texts = [
        loaded.tokenizer.decode(e.inputs["input_ids"], skip_special_tokens=True)
        for e in stories.examples(0, 4)
    ]
    same = nw.observe(
        loaded.model, nw.corpus(texts, tokenizer=loaded.tokenizer, max_length=64), reducers=["extremes"]
    )
    assert activity.to_frame()["max"].equals(same.to_frame()["max"])
    best = activity.to_frame().nlargest(1, "kurtosis").iloc[0]
    lines = done.stdout.splitlines()
    first = lines[next(n for n, line in enumerate(lines) if line.startswith("layer") and "text" in line) + 2]
    assert first.split()[:2] == [str(best["layer"]), str(best["neuron"])]
    assert activity.manifest.model["name"] == MODEL
    assert f"neuronwise report {folder}" in done.stdout


def test_observe_takes_sites_reducers_labels_and_own_files(run, tmp_path):
    words = [("the", "DET"), ("dog", "NOUN"), ("ran", "VERB")]
    rows = "\n".join(f"{n}\t{w}\t_\t{p}\t_\t_\t_\t_\t_\t_" for n, (w, p) in enumerate(words, 1))
    corpus = tmp_path / "tiny.conllu"
    corpus.write_text(rows + "\n\n" + rows + "\n\n", encoding="utf-8")
    done = run(
        *("observe", MODEL, corpus, "--label-field", "upos", "--sites", "*.4.*", "--threads", 1),
        *("--out", tmp_path / "out", "--json"),
    )
    answer = document(done)
    assert answer["folder"] == str(tmp_path / "out")
    assert [row["layer"] for row in answer["summary"]] == [4]
    means = nw.load(tmp_path / "out").tables["class_means"]
    assert set(means["label"].astype(str)) == {"DET", "NOUN", "VERB"}
    words = ("observe", MODEL, corpus, "--reducers", "extremes, active", "--label-field", "upos")
    done = run(*words, "--out", tmp_path / "out", "--overwrite", "--json")
    assert set(document(done)["tables"]) == {"sites", "neurons", "class_means", "promoted"}
    assert document(done)["selective"] == []


def test_query_answers_as_table_json_and_csv(run, observed):
    folder, _ = observed
    sql = "SELECT layer, count(*) AS n, NULL AS nothing FROM neurons GROUP BY layer ORDER BY layer"
    rows = [{"layer": layer, "n": 172, "nothing": None} for layer in range(5)]
    assert document(run("query", folder, sql, "--json")) == rows
    table = list(csv.DictReader(io.StringIO(run("query", folder, sql, "--csv").stdout)))
    assert [(row["layer"], row["n"], row["nothing"]) for row in table] == [
        (str(i), "172", "") for i in range(5)
    ]
    assert run("query", folder, sql).stdout.splitlines()[2].split() == ["0", "172"]


def test_query_lists_tables_with_the_meaning_of_columns(run, observed):
    folder, _ = observed
    rows = document(run("query", folder, "--tables", "--json"))
    assert {row["table"] for row in rows} >= {"neurons", "examples", "contexts", "model", "provenance"}
    entry = next(row for row in rows if (row["table"], row["column"]) == ("examples", "position"))
    assert "token" in entry["meaning"]


def test_query_joins_folders_and_lists_only_tables_of_the_schema(run, observed, tmp_path):
    folder, _ = observed
    other = tmp_path / "other"
    nw.load(folder).save(other)
    rows = document(
        run("query", folder, other, "SELECT result, count(*) n FROM neurons GROUP BY 1 ORDER BY 1", "--json")
    )
    assert rows == [{"result": "activity", "n": 860}, {"result": "other", "n": 860}]
    tables = {row["table"] for row in document(run("query", folder, other, "--tables", "--json"))}
    assert not any("_of_" in name for name in tables)


def test_report_writes_one_page_with_the_neurons_asked_for(run, observed, tmp_path):
    folder, _ = observed
    page = tmp_path / "page.html"
    answer = document(
        run("report", folder, "--out", page, "--neurons", "3:17", "--title", "A <title>", "--json")
    )
    assert answer == {"report": str(page), "bytes": page.stat().st_size}
    text = page.read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in text
    assert "A <title>" not in text


def test_ablate_by_hand_matches_the_library(run, tmp_path):
    common = (MODEL, "stories", "--limit", 3, "--max-length", 48, "--controls", 2)
    answer = document(
        run("ablate", *common, "--neurons", "0:114,143 3:75", "--out", tmp_path / "effect", "--json")
    )
    assert answer["neurons"] == {
        "model.layers.0.mlp.down_proj:input": [114, 143],
        "model.layers.3.mlp.down_proj:input": [75],
    }
    frame = nw.load(tmp_path / "effect").to_frame()
    assert [row["change"] for row in answer["ablation"]] == pytest.approx(list(frame["change"]))
    assert [row["seed"] for row in answer["ablation"]] == [None, 0, 1]
    random = [row["change"] for row in answer["ablation"][1:]]
    assert answer["random_mean"] == pytest.approx(sum(random) / 2)
    loaded = nw.load_model(MODEL)
    sites = nw.find_sites(loaded.model)
    stories = nw.corpus("stories", tokenizer=loaded.tokenizer, max_length=48)
    texts = [
        loaded.tokenizer.decode(e.inputs["input_ids"], skip_special_tokens=True)
        for e in stories.examples(0, 3)
    ]
    chosen = nw.NeuronSet.parse("0:114,143 3:75", sites)
    corpus = nw.corpus(texts, tokenizer=loaded.tokenizer, max_length=48)
    assert answer["change"] == pytest.approx(nw.ablate(loaded.model, corpus, chosen, controls=0).change)


def test_ablate_chooses_from_a_result_and_says_so_when_that_is_the_same_corpus(run, observed):
    folder, _ = observed
    words = ("ablate", MODEL, "stories", "--limit", 2, "--max-length", 64, "--from", folder, "--controls", 0)
    done = run(*words, "--by", "max", "--top", 3, "--how", "mean")
    assert done.exit_code == 0
    assert "by 3 chosen neurons" in done.stdout
    assert "the same corpus" in done.stderr
    top = document(run(*words, "--by", "max", "--top", 3, "--json"))["neurons"]
    expected = nw.load(folder).neurons("max").top(3)
    assert {site: set(neurons) for site, neurons in top.items()} == {
        site.name: set(expected.indices(site).tolist()) for site in expected.sites
    }
    low = document(run(*words, "--by", "max", "--top", 3, "--lowest", "--json"))["neurons"]
    assert low != top


def test_ablate_scales_by_a_value(run):
    words = (
        "ablate",
        MODEL,
        "stories",
        "--limit",
        2,
        "--max-length",
        32,
        "--neurons",
        "2:*",
        "--controls",
        0,
        "--json",
    )
    same = document(run(*words, "--how", "scale", "--value", 1))
    assert same["change"] == pytest.approx(0, abs=1e-7)
    assert same["random_mean"] is None
    zero, scaled = document(run(*words)), document(run(*words, "--how", "scale", "--value", 0))
    assert scaled["change"] == pytest.approx(zero["change"])
    assert zero["change"] > 0.01


def test_check_reports_each_check(run):
    answer = document(run("check", MODEL, "--where", "*.0.*", "--json"))
    assert answer["passed"] is True
    assert {row["name"] for row in answer["checks"]} >= {"outputs unchanged", "model untouched"}
    assert "All checks passed." in run("check", MODEL, "--text", "A dog.").stdout


def test_models_of_two_sides_get_the_text_on_both(tmp_path, run):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=512, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=1
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    nw.load_model(MODEL).tokenizer.save_pretrained(tmp_path / "t5")
    words = ("observe", tmp_path / "t5", "stories", "--limit", 3, "--max-length", 16, "--reducers", "moments")
    answer = document(run(*words, "--out", tmp_path / "out", "--json"))
    assert len(answer["summary"]) == 2
    frame = pd.DataFrame(nw.load(tmp_path / "out").to_frame())
    assert (frame["n"] == 48).all()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_type_of_the_weights_can_be_chosen(run, tmp_path, dtype):
    assert document(run("sites", MODEL, "--dtype", dtype, "--device", "cpu", "--json"))["neurons"] == 860
    words = (MODEL, "stories", "--limit", 2, "--max-length", 16, "--dtype", dtype)
    document(run("observe", *words, "--reducers", "moments", "--out", tmp_path / "out", "--json"))
    assert nw.load(tmp_path / "out").manifest.model["dtypes"] == [dtype]
    assert (
        document(run("ablate", *words, "--neurons", "0:1", "--controls", 0, "--json"))["change"] is not None
    )
    assert document(run("check", MODEL, "--where", "*.0.*", "--dtype", dtype, "--json"))["passed"] is True


def test_arrays_get_the_type_that_was_asked_for():
    cast = _Cast("bfloat16")
    inputs = cast({"x": torch.ones(2, dtype=torch.float64), "ids": torch.arange(2)})
    assert (inputs["x"].dtype, inputs["ids"].dtype) == (torch.bfloat16, torch.int64)
    assert cast(torch.ones(2)).dtype == torch.bfloat16
