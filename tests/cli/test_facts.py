"""The commands on facts: what they answer and save, and how they fail."""

import json

import pytest
import torch

import neuronwise as nw
from neuronwise.data import Fact, encode, write_facts
from neuronwise.edit import EditEvaluation, Patch
from neuronwise.errors import PatchError
from neuronwise.knowledge import Effect, KnowledgeMap, KnowledgeNeurons
from neuronwise.knowledge.editors import editors
from neuronwise.sites import NeuronSet
from tests.cli.test_commands import document
from tests.cli.test_failures import failed

GPT, EDITS = "fact-gpt", "facts-edits"
FEW = ("--relation", "P36", "--each", 2)


@pytest.fixture(scope="module")
def gpt():
    return nw.load_model(GPT)


@pytest.fixture(scope="module")
def located(run, tmp_path_factory):
    """A folder of the located neurons of two facts that have new answers, and the answer of the command."""
    folder = tmp_path_factory.mktemp("facts") / "neurons"
    done = run("facts", "locate", GPT, EDITS, *FEW, "--threads", 1, "--out", folder, "--json")
    return folder, document(done)


@pytest.fixture(scope="module")
def edited(run, located, tmp_path_factory):
    """The first located fact edited: the answer, the patch and the model folder."""
    place = tmp_path_factory.mktemp("edited")
    patch, folder = place / "one.safetensors", place / "model"
    words = ("--method", "fine", "--from", located[0], "--patch", patch, "--model-out", folder)
    done = run("facts", "edit", GPT, EDITS, *words, "--set", "steps=60", "--set", "kl_factor=0", "--json")
    return document(done), patch, folder


@pytest.fixture
def own_file(tmp_path):
    """A file of one fact that the stories model knows, between two lines that cannot be used."""
    path = tmp_path / "girls.jsonl"
    prompts = ("Once upon a time, there was a little girl named [Y]", "There was a girl named [Y]")
    write_facts([Fact(prompts, "Lily", id="girl", relation="name", new_answer="Tim")], path)
    path.write_text(
        "{nonsense\n" + path.read_text("utf-8") + '{"prompts": ["no slot"], "answer": "x"}\n', "utf-8"
    )
    return path


def page_of(run, folder):
    page = folder.parent / f"{folder.name}.html"
    assert document(run("report", folder, "--out", page, "--json"))["report"] == str(page)
    return page.read_text("utf-8")


def says(loaded, fact):
    """The most likely token in the slot of each of a fact's prompts."""
    prompts = encode(loaded.tokenizer, loaded.model, fact.prompts, fact.answer)
    with torch.no_grad():
        logits = loaded.model(**prompts.inputs).logits
    top = logits[torch.arange(len(prompts)), prompts.positions[:, 0]].argmax(-1)
    return [loaded.tokenizer.decode([token]).strip() for token in top.tolist()]


def test_locate_saves_what_the_library_would(run, located, gpt):
    folder, answer = located
    found = nw.load(folder)
    assert isinstance(found, KnowledgeNeurons) and answer["folder"] == str(folder)
    facts = nw.data.facts(EDITS, limit=2, relations_only=["P36"])
    assert [row["fact"] for row in answer["facts"]] == found.ids == sorted(fact.id for fact in facts)
    same = nw.knowledge.locate(gpt.model, gpt.tokenizer, facts)
    assert {fact: set(found.neurons(fact)) for fact in found.ids} == {
        fact: set(same.neurons(fact)) for fact in found.ids
    }
    assert all(len(found.neurons(fact)) for fact in found.ids)
    assert answer["problems"] == [] and answer["skipped_lines"] == 0
    assert found.manifest.model["name"] == GPT
    assert found.ids[0] in page_of(run, folder)


def test_locate_by_elimination_with_other_settings(run, tmp_path):
    words = (
        "--relation",
        "P36",
        "--each",
        1,
        "--method",
        "elimination",
        "--k",
        5,
        "--out",
        tmp_path / "silenced",
    )
    done = run("facts", "locate", GPT, EDITS, *words)
    assert done.exit_code == 0, done.stderr
    found = nw.load(tmp_path / "silenced")
    assert [len(found.neurons(fact, refined=False)) for fact in found.ids] == [5]
    assert f"neuronwise report {tmp_path / 'silenced'}" in done.stdout


def test_map_takes_the_first_located_fact_and_its_neurons(run, located, tmp_path):
    answer = document(
        run("facts", "map", GPT, EDITS, "--from", located[0], "--out", tmp_path / "map", "--json")
    )
    found, neurons = nw.load(tmp_path / "map"), nw.load(located[0])
    first = next(fact for fact in nw.data.facts(EDITS) if fact.id in neurons.ids)
    assert isinstance(found, KnowledgeMap) and answer["fact"]["id"] == first.id
    assert len(answer["tables"]["map_nodes"]) == len(neurons.neurons(first.id))
    assert "<svg" in page_of(run, tmp_path / "map")


def test_map_of_a_fact_by_id_without_located_neurons(run, tmp_path):
    done = run(
        "facts",
        "map",
        GPT,
        EDITS,
        "--fact",
        186,
        "--k",
        2,
        "--method",
        "gradient_x_activation",
        "--out",
        tmp_path / "m",
    )
    assert done.exit_code == 0, done.stderr
    nodes = nw.load(tmp_path / "m").tables["map_nodes"]
    assert nodes.groupby("site").size().tolist() == [2] * 4
    assert "Monaco" in done.stdout


@pytest.mark.parametrize(("command", "factor"), [("suppress", 0.0), ("amplify", 2.0)])
def test_suppress_and_amplify(run, located, tmp_path, command, factor):
    few = (*FEW, "--controls", 1, "--others", 1, "--threads", 1)
    answer = document(
        run("facts", command, GPT, EDITS, "--from", located[0], *few, "--out", tmp_path / "effect", "--json")
    )
    found = nw.load(tmp_path / "effect")
    assert isinstance(found, Effect) and found.factors == (factor,)
    rows = {(row["probe"], row["measure"], row["neurons"]): row["value"] for row in answer["effect"]}
    chosen, random = (rows["own", "delta_log_p", name] for name in ("chosen", "random"))
    assert chosen != random
    assert abs(chosen) > 2 * abs(random) or command == "amplify"  # P is near 1 already
    assert "own prompts" in page_of(run, tmp_path / "effect")


def test_a_factor_of_one_changes_nothing_and_unlocated_facts_are_said(run, located):
    words = ("--relation", "P36", "--controls", 0, "--others", 0, "--factor", 1)
    done = run("facts", "suppress", GPT, EDITS, "--from", located[0], *words, "--json")
    answer = document(done)
    changes = [row["value"] for row in answer["effect"] if row["measure"] == "delta_log_p"]
    assert changes and changes == pytest.approx([0.0] * len(changes), abs=1e-6)
    assert answer["problems"] and answer["folder"] is None
    assert f"{len(answer['problems'])} facts left out" in done.stderr


def test_edit_shows_before_and_after_of_the_first_located_fact(edited, located):
    answer, patch, folder = edited
    (fact,) = answer["facts"]
    known = nw.data.facts(EDITS)
    ids = nw.load(located[0]).ids
    assert fact["id"] == next(one.id for one in known if one.id in ids)
    assert (answer["method"], answer["patch"], answer["model"]) == ("fine", str(patch), str(folder))
    own = [row for row in answer["prompts"] if row["prompt"] in fact["prompts"]]
    assert [row["says_before"] for row in own] == [fact["answer"]]
    assert [row["says_after"] for row in own] == [fact["new_answer"]]
    others = [row for row in answer["prompts"] if row["right_before"] != fact["answer"]]
    assert len(others) == 3
    assert answer["changes"]


def test_a_saved_patch_applies_to_its_model_and_to_no_other(edited, gpt):
    answer, path, _ = edited
    fact = Fact.from_dict(answer["facts"][0])
    patch = Patch.load(path)
    with patch.applied(gpt.model):
        assert says(gpt, fact) == [fact.new_answer]
    assert says(gpt, fact) == [fact.answer]
    assert patch.facts[0]["id"] == fact.id
    with pytest.raises(PatchError):
        patch.apply(nw.load_model("stories260k").model)


def test_a_saved_model_loads_and_says_the_new_answer(run, edited, located):
    answer, _, folder = edited
    fact = Fact.from_dict(answer["facts"][0])
    assert says(nw.load_model(folder), fact) == [fact.new_answer]
    done = run("facts", "suppress", folder, EDITS, *FEW, "--from", located[0], "--controls", 0, "--others", 0)
    assert done.exit_code == 0
    assert "other weights" in done.stderr


def test_rome_and_a_new_answer_by_option(run, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Once upon a time there was a dog.\nThe cat sat on the mat.\n", "utf-8")
    words = (
        "--fact",
        186,
        "--method",
        "rome",
        "--layer",
        1,
        "--layer",
        3,
        "--corpus",
        texts,
        "--new",
        "Lisbon",
    )
    quick = ("--set", "ridge=0.01", "--set", "steps=3", "--set", "prefixes=0")
    answer = document(run("facts", "edit", GPT, EDITS, *words, *quick, "--json"))
    assert [row["parameter"] for row in answer["changes"]] == ["transformer.h.1.mlp.c_proj.weight"]
    assert answer["facts"][0]["new_answer"] == "Lisbon" and answer["patch"] is None


def test_erase_a_fact_and_a_relation(run, located, tmp_path):
    folder, _ = located
    done = run("facts", "erase", GPT, EDITS, "--from", folder, "--patch", tmp_path / "gone.safetensors")
    assert done.exit_code == 0, done.stderr
    assert "Monaco -> (erased)" in done.stdout  # whatever new answer the file has
    found = nw.load(folder)
    patch = Patch.load(tmp_path / "gone.safetensors")
    listed = patch.parameters["neurons"]
    assert sum(map(len, listed.values())) == len(found.neurons(patch.facts[0]["id"]))
    assert all(not change.new.any() for change in patch.changes)
    words = ("--relation", "P36", "--neurons", 4, "--patch", tmp_path / "relation.safetensors", "--json")
    answer = document(run("facts", "erase", GPT, EDITS, "--from", folder, *words))
    assert sum(map(len, Patch.load(tmp_path / "relation.safetensors").parameters["neurons"].values())) == 4
    assert {fact["relation"] for fact in answer["facts"]} == {"P36"} and len(answer["facts"]) > 2
    assert all("new_answer" not in fact for fact in answer["facts"])


def test_evaluate_compares_methods_and_has_a_page(run, located, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Once upon a time there was a dog.\n", "utf-8")
    words = (
        "--method",
        "update_slots",
        "--method",
        "fine",
        "--set",
        "fine.steps=3",
        "--from",
        located[0],
        "--k",
        3,
    )
    few = (*FEW, "--controls", 1, "--corpus", texts)
    answer = document(
        run("facts", "evaluate", GPT, EDITS, *words, *few, "--out", tmp_path / "edits", "--json")
    )
    found = nw.load(tmp_path / "edits")
    assert isinstance(found, EditEvaluation) and answer["problems"] == []
    assert len(answer["edit_summary"]) == len(found.to_frame())
    kinds = {(row["method"], row["control"]) for row in answer["edit_summary"]}
    assert kinds == {("none", "none")} | {
        (m, c) for m in ("update_slots", "fine") for c in ("edit", "random")
    }
    assert found.value("fine", "kl") > 0
    text = page_of(run, tmp_path / "edits")
    assert "Reliability" in text and "Before and after: update_slots" in text


def test_erasing_alone_is_judged_by_what_is_gone(run, located, tmp_path):
    words = ("--from", located[0], "--relation", "P36", "--each", 1, "--controls", 0)
    done = run("facts", "evaluate", GPT, EDITS, "--method", "erase_slots", *words, "--out", tmp_path / "one")
    assert done.exit_code == 0 and done.stderr == ""
    assert f"neuronwise report {tmp_path / 'one'}" in done.stdout
    prompts = nw.load(tmp_path / "one").tables["edit_prompts"]
    assert set(prompts.loc[prompts["probe"] == "edit", "other"]) == {""}
    both = ("--method", "erase_slots", "--method", "update_slots")
    done = run("facts", "evaluate", GPT, EDITS, *both, *words, "--out", tmp_path / "two")
    assert done.exit_code == 0
    assert "judged by the new answers" in done.stderr


def test_a_file_of_ones_own_with_bad_lines(run, own_file, tmp_path):
    done = run("facts", "locate", "stories260k", own_file, "--out", tmp_path / "neurons", "--json")
    answer = document(done)
    assert (answer["skipped_lines"], [row["fact"] for row in answer["facts"]]) == (2, ["girl"])
    assert "2 lines of the file left out: line 1" in done.stderr and "line 3" in done.stderr
    done = run(
        "facts", "edit", "stories260k", own_file, "--method", "update_slots", "--from", tmp_path / "neurons"
    )
    assert done.exit_code == 0
    assert "Lily -> Tim" in done.stdout and "2 lines of the file left out" in done.stderr


def test_facts_that_cannot_be_used_are_3(run, own_file, located, tmp_path):
    out = ("--out", tmp_path / "out")
    assert failed(run("facts", "locate", GPT, tmp_path / "no.jsonl", *out), 3, "no.jsonl")
    assert failed(run("facts", "locate", GPT, EDITS, "--relation", "P99", *out), 3, "P99", "P39")
    assert failed(run("facts", "map", GPT, EDITS, "--fact", "18", *out), 3, "'18'", "188")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n", "utf-8")
    assert failed(run("facts", "locate", GPT, bad, *out), 3, "bad.jsonl")
    words = ("--fact", "girl", "--method", "update_slots", "--new")
    neurons = tmp_path / "neurons"
    assert run("facts", "locate", "stories260k", own_file, "--out", neurons).exit_code == 0
    done = run("facts", "edit", "stories260k", own_file, *words, "Wilhelmina", "--from", neurons)
    assert failed(done, 3, "Wilhelmina", "not one")
    assert failed(
        run("facts", "locate", "stories260k", EDITS, *FEW, *out), 3, "None of the 2 facts", "tokens"
    )
    assert failed(
        run("facts", "erase", GPT, EDITS, "--fact", "64", "--from", located[0]), 3, "'64'", "not located"
    )
    assert failed(run("facts", "map", GPT, GPT, "--from", located[0], *out), 3, "facts locate")
    assert failed(run("facts", "erase", GPT, GPT, "--from", located[0], "--relation", "P19"), 3, "P19")
    assert not (tmp_path / "out").exists()


def test_edits_of_which_none_can_be_made_are_3(run, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("A dog.\n", "utf-8")
    words = ("--method", "rome", "--corpus", texts, "--set", "rome.steps=1", "--set", "rome.prefixes=0")
    done = run("facts", "evaluate", GPT, EDITS, *FEW, *words, "--out", tmp_path / "out")
    assert failed(done, 3, "None of the 2 facts could be edited", "singular")
    assert failed(run("facts", "edit", GPT, EDITS, "--method", "rome", "--corpus", texts), 3, "singular")
    assert not (tmp_path / "out").exists()


def test_folders_in_use_and_results_of_another_kind_are_4(run, located, edited, tmp_path, monkeypatch):
    folder, (_, patch, model) = located[0], edited
    words = ("--controls", 0, "--others", 0, *FEW)
    assert (
        run("facts", "suppress", GPT, EDITS, "--from", folder, *words, "--out", tmp_path / "e").exit_code == 0
    )
    monkeypatch.setattr(nw, "load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    for command in ("suppress", "erase"):
        assert failed(run("facts", command, GPT, EDITS, "--from", tmp_path / "e"), 4, "effect")
    assert failed(run("facts", "edit", GPT, EDITS, "--method", "fine", "--from", tmp_path / "no"), 4)
    assert failed(run("facts", "locate", GPT, EDITS, "--out", folder), 4, "--overwrite")
    assert failed(run("facts", "map", GPT, EDITS, "--out", folder), 4, "--overwrite")
    assert failed(run("facts", "evaluate", GPT, EDITS, "--method", "rome", "--out", folder), 4, "--overwrite")
    assert failed(run("facts", "edit", GPT, EDITS, "--patch", patch), 4, "--overwrite")
    assert failed(run("facts", "edit", GPT, EDITS, "--patch", tmp_path, "--overwrite"), 4, "is a folder")
    assert failed(run("facts", "erase", GPT, EDITS, "--from", folder, "--model-out", model), 4, "--overwrite")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("edit", "--fact", 186, "--method", "rom"), ("rom", "rome")),
        (("edit", "--fact", 186, "--method", "rome"), ("corpus",)),
        (("edit", "--fact", 186, "--method", "fine"), ("located",)),
        (("edit", "--fact", 186, "--method", "fine", "--set", "stepz=3"), ("stepz", "steps")),
        (("edit", "--fact", 186, "--method", "fine", "--set", "steps=many"), ("steps", "int", "'many'")),
        (("edit", "--fact", 186, "--method", "update_slots", "--set", "strengths=[1]"), ("strengths", "[1]")),
        (("edit", "--fact", 186, "--method", "update_slots", "--set", "remove=5"), ("remove",)),
        (("edit", "--method", "rome", "--corpus", "stories", "--layer", 99), ("99", "0 of")),
        (("locate", "--method", "magic", "--out", "x"), ("magic",)),
        (("map", "--method", "magic", "--out", "x"), ("magic",)),
        (("evaluate", "--method", "fin", "--out", "x"), ("fine",)),
        (("evaluate", "--method", "rome", "--set", "fine.steps=3", "--out", "x"), ("fine",)),
    ],
)
def test_wrong_arguments_are_2(run, words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *rest = words
    assert failed(run("facts", command, GPT, EDITS, *rest), 2, *expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("erase", "--fact", "a", "--relation", "b"), "not both"),
        (("erase", "--neurons", 3), "--relation"),
        (("erase", "--relation", "P36", "--k", 3), "--neurons"),
        (("edit", "--method", "erase_slots"), "facts erase"),
        (("edit", "--method", "fine", "--set", "steps"), "NAME=VALUE"),
        (("evaluate", "--method", "fine", "--set", "steps=3", "--out", "x"), "METHOD.NAME=VALUE"),
        (("locate", "--rule", "mine", "--out", "x"), "--rule"),
        (("suppress", "--controls", -1), "--controls"),
    ],
)
def test_wrong_usage_is_2_and_shows_the_usage(run, located, words, expected):
    command, *rest = words
    source = () if command == "locate" else ("--from", located[0])
    done = run("facts", command, GPT, EDITS, *source, *rest)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: " in done.stderr
    assert expected in " ".join(done.stderr.split())


def test_a_fact_without_a_new_answer_needs_one(run):
    done = run("facts", "edit", GPT, GPT, "--method", "rome")
    assert done.exit_code == 2 and "--new" in done.stderr


def test_neurons_of_another_model_are_2_or_a_warning(run, own_file, located, tmp_path):
    words = ("--relation", "P36", "--neurons", 2)
    done = run("facts", "erase", "stories260k", EDITS, "--from", located[0], *words)
    assert failed(done, 2, "transformer.h", "another one")


def test_editors_take_plain_sets_and_the_first_of_them(gpt):
    fact = nw.data.facts(EDITS)["186"]
    site = nw.find_sites(gpt.model)[2]
    scored = NeuronSet.of({site: [1, 4, 9]}, scores={site: [0.1, 0.3, 0.2]})
    make = editors(gpt.model, gpt.tokenizer, ["erase_slots"], located={fact.id: scored}, k=2)["erase_slots"]
    assert json.loads(json.dumps(dict(make(fact).parameters)))["neurons"] == {site.name: [4, 9]}
