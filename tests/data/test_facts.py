"""Facts: their form, files of facts with good and bad lines, and the formats of others."""

import gzip
import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronwise.data import (
    SLOT,
    Fact,
    Facts,
    Probe,
    Relation,
    bundled,
    facts,
    read_counterfact,
    read_fact_model,
    read_facts,
    read_pararel,
    read_relations,
    write_facts,
)
from neuronwise.errors import DataError, FactError, InvalidArgumentError, WriteError

PARIS = {"prompts": ["The capital of France is [Y]"], "answer": "Paris"}


def capital(country, city, **more):
    return Fact([f"The capital of {country} is {SLOT}"], city, relation="P36", subject=country, **more)


CAPITALS = Facts(
    [
        capital("France", "Paris", id="fr", new_answer="Lyon", held_out=["France's capital is [Y]"]),
        capital(
            "Spain", "Madrid", id="es", probes=[Probe("neighbour", "Spain, with its capital [Y]", "Madrid")]
        ),
        capital("Italy", "Rome", id="it", contrast=[capital("Peru", "Lima")]),
        Fact(["Marie Curie worked as a [Y]"], "physicist", id="mc", relation="P106", subject="Marie Curie"),
        Fact(["Grass is [Y]"], "green"),
    ]
)


def lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# --- one fact


def test_a_fact_keeps_its_lists_as_tuples_and_makes_an_id_of_its_content():
    fact = Fact(["a [Y]"], "b", held_out=["c [Y]"])
    assert fact.prompts == ("a [Y]",) and fact.held_out == ("c [Y]",)
    assert fact == Fact(("a [Y]",), "b", held_out=("c [Y]",)) and hash(fact) == hash(Fact(*_parts(fact)))
    ids = {Fact(["a [Y]"], "b").id, Fact(["a [Y]"], "c").id, fact.id, Fact(["a [Y]"], "b", subject="a").id}
    assert len(ids) == 4 and all(len(name) == 16 for name in ids)
    with pytest.raises(AttributeError):
        fact.answer = "c"


def _parts(fact):
    return fact.prompts, fact.answer, fact.id, fact.relation, fact.subject, fact.held_out


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": ["The capital of France is"]}, r"'The capital of France is' has no slot"),
        ({"prompts": ["[Y] is [Y]"]}, r"'\[Y\] is \[Y\]' has 2 slots"),
        ({"held_out": ["[Y] or [Y] or [Y]"]}, "has 3 slots"),
        ({"prompts": "The capital of France is [Y]"}, "'prompts' must be a list, not str"),
        ({"prompts": [7]}, "'prompts' must be a list of texts; one of them is int 7"),
        ({"prompts": None}, "'prompts' must be a list, not NoneType"),
        ({"answer": ""}, "answer must be text without space"),
        ({"answer": " Paris"}, "space before it belongs to the prompt"),
        ({"answer": 3}, "'answer' must be text, not int 3"),
        ({"answer": "\ud800"}, "not valid Unicode"),
        ({"new_answer": "Paris"}, "which is the answer already"),
        ({"new_answer": " "}, "new_answer must be text"),
        ({"relation": None}, "'relation' must be text"),
        ({"id": 4}, "'id' must be text, not int 4"),
        ({"prompt": ["a [Y]"]}, r"no field 'prompt'\. Closest names \(of 9\): prompts"),
        ({"probes": [{"kind": "neighbor", "prompt": "a [Y]", "answer": "b"}]}, "'neighbor'.*neighbour"),
        ({"probes": [{"kind": [], "prompt": "a [Y]", "answer": "b"}]}, "'kind' must be text"),
        ({"probes": [{"kind": "sister", "prompt": "a", "answer": "b"}]}, "'a' has no slot"),
        ({"probes": [{"kind": "sister", "prompt": "a [Y]"}]}, "probe has no 'answer'"),
        ({"probes": {"kind": "sister"}}, "'probes' must be a list, not dict"),
        ({"probes": ["a"]}, "'probes' must be a list of objects; one of them is str 'a'"),
        ({"contrast": [{"answer": "b"}]}, "fact has no 'prompts'"),
        ({"contrast": [{**PARIS, "contrast": [PARIS]}]}, "must not have contrast facts itself"),
    ],
)
def test_what_cannot_be_a_fact_is_named(values, message):
    with pytest.raises(FactError, match=message):
        Fact.from_dict({**PARIS, **values})


def test_a_fact_is_an_object_with_prompts_and_answer():
    for values, message in (
        ([], "must be an object with prompts and answer, not list"),
        ({}, "no 'prompts'"),
    ):
        with pytest.raises(FactError, match=message):
            Fact.from_dict(values)
    with pytest.raises(FactError, match="'probes' must be a list of Probe objects"):
        Fact(["a [Y]"], "b", probes=[{"kind": "sister"}])
    with pytest.raises(FactError, match="must not have contrast facts itself"):
        Fact(["a [Y]"], "b", contrast=[CAPITALS["it"]])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PROMPT = st.tuples(TEXT, TEXT).map(SLOT.join).filter(lambda text: text.count(SLOT) == 1)
ANSWER = TEXT.map(str.strip).filter(bool)
FACT = st.builds(
    Fact,
    st.lists(PROMPT, min_size=1, max_size=3),
    ANSWER,
    id=TEXT,
    relation=TEXT,
    subject=TEXT,
    held_out=st.lists(PROMPT, max_size=2),
    probes=st.lists(st.builds(Probe, st.sampled_from(["sister", "symmetry"]), PROMPT, ANSWER), max_size=2),
)


@given(FACT)
def test_a_fact_survives_json(fact):
    assert Fact.from_dict(json.loads(json.dumps(fact.to_dict()))) == fact


# --- many facts


def test_facts_are_a_sequence_by_place_and_by_id():
    assert len(CAPITALS) == 5 and CAPITALS[0] is CAPITALS["fr"] and CAPITALS[-1].answer == "green"
    assert isinstance(CAPITALS[1:3], Facts) and [fact.id for fact in CAPITALS[1:3]] == ["es", "it"]
    assert "es" in CAPITALS and CAPITALS[1] in CAPITALS and "xx" not in CAPITALS
    assert CAPITALS[:0] == Facts() and Facts(list(CAPITALS)) == CAPITALS != CAPITALS[:4]
    assert hash(Facts(list(CAPITALS))) == hash(CAPITALS)
    with pytest.raises(FactError, match=r"no fact 'f'.*fr"):
        CAPITALS["f"]
    with pytest.raises(FactError, match="Two facts have the id 'fr'"):
        Facts([CAPITALS[0], CAPITALS[0]])
    with pytest.raises(FactError, match="not dict"):
        Facts([PARIS])


def test_facts_by_relation_and_what_they_say_of_themselves():
    grouped = CAPITALS.by_relation()
    assert {name: len(group) for name, group in grouped.items()} == {"P36": 3, "P106": 1, "": 1}
    described = CAPITALS.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["facts"] == 5 and described["fingerprint"] == CAPITALS.fingerprint
    assert Facts(list(CAPITALS), name="other").fingerprint == CAPITALS.fingerprint
    assert CAPITALS[:4].fingerprint != CAPITALS.fingerprint
    assert repr(CAPITALS) == "<Facts 'facts': 5 facts of 3 relations>"


def test_sisters_have_the_relation_but_another_answer_and_subject():
    many = Facts([capital(f"country {n}", f"city {n % 7}", id=str(n)) for n in range(40)])
    fact = many[0]
    every = many.sisters(fact)
    assert [other.id for other in every] == [str(n) for n in range(40) if n % 7]
    few = many.sisters(fact, 5, seed=1)
    assert len(few) == 5 and few == many.sisters(fact, 5, seed=1) != many.sisters(fact, 5, seed=2)
    assert many.sisters(fact, 100) == every and not many.sisters(fact, 0)
    twice = Facts([*many, capital("country 0", "another", id="twice")])
    assert "twice" not in twice.sisters(fact), "the same subject has the same prompt"
    assert not CAPITALS.sisters(CAPITALS["mc"]) and not CAPITALS.sisters(CAPITALS[-1])
    with pytest.raises(InvalidArgumentError, match="n must be 0 or more"):
        many.sisters(fact, -1)


# --- files of facts


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.gz"])
def test_written_facts_are_read_back(tmp_path, name):
    path = tmp_path / name
    write_facts(CAPITALS, path)
    found = read_facts(path)
    assert found == CAPITALS and found.name == "some" and found.fingerprint == CAPITALS.fingerprint
    assert found.skipped == 0 and found.problems == ()
    first = path.read_bytes()
    write_facts(iter(CAPITALS), path)
    assert path.read_bytes() == first and (first[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "facts.jsonl"
    write_facts(CAPITALS, path)
    with pytest.raises(FactError, match="Two facts"):
        write_facts([CAPITALS[0], CAPITALS[0]], path)
    assert read_facts(path) == CAPITALS
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        write_facts(CAPITALS, tmp_path / "file" / "facts.jsonl")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["facts.jsonl", "file"]


def test_bad_lines_are_counted_by_number_and_the_rest_goes_on(tmp_path):
    deep = ['{"prompts": ["[Y]"], "answer": "b", "contrast": [' * n + "]}" * n for n in (3, 400, 9000)]
    path = tmp_path / "mixed.jsonl"
    rows = [
        "\ufeff" + json.dumps(PARIS),
        "",
        "{",
        json.dumps({**PARIS, "anwser": "Paris"}),
        json.dumps({**PARIS, "prompts": ["no slot"]}),
        json.dumps({"prompts": ["Grass is [Y]"], "answer": "green"}),
        json.dumps(PARIS),
        "[]",
        "null",
        '{"prompts": ' + "[" * 950 + "]" * 950 + ', "answer": "b"}',
        *deep,
        json.dumps({**PARIS, "answer": "\ud800"}),
        json.dumps({"prompts": ["Snow is [Y]"], "answer": "white"}),
    ]
    path.write_bytes("\r\n".join(rows).encode() + b"\n\xff\xfe\n")
    found = read_facts(path)
    assert [fact.answer for fact in found] == ["Paris", "green", "white"]
    assert found.skipped == len(found.problems) == 12
    assert [problem.split(":")[0] for problem in found.problems] == [
        f"line {n}" for n in (3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 16)
    ]
    expected = (
        "not valid JSON",
        "'anwser'.*answer",
        "no slot",
        "that of line 1 already",
        "not list",
        "not NoneType",
        r"list of texts|not valid JSON",
        "must not have contrast facts itself",
    )
    for problem, text in zip(found.problems, expected, strict=False):
        assert re.search(text, problem), problem
    assert "not UTF-8" in found.problems[-1]
    assert "12 bad lines skipped" in repr(found) and found.describe()["skipped"] == 12


def test_a_file_without_a_fact_is_an_error(tmp_path):
    with pytest.raises(FactError, match=r"There is no fact in .*a\.jsonl\.$"):
        read_facts(lines(tmp_path / "a.jsonl"))
    with pytest.raises(FactError, match=r"1 could not be used: line 1: not valid JSON"):
        read_facts(lines(tmp_path / "b.jsonl", "x"))
    with pytest.raises(DataError, match=r"no file or folder 'nowhere\.jsonl'"):
        read_facts("nowhere.jsonl")
    whole = gzip.compress(json.dumps(PARIS).encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match="Cannot read"):
        read_facts(tmp_path / "cut.jsonl.gz")


def test_a_list_of_facts_in_one_json_file_is_read_too(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([PARIS, {"answer": "x"}], indent=1))
    found = facts(path)
    assert found[0].answer == "Paris" and found.problems == ("record 2: the fact has no 'prompts'.",)
    path.write_text("[1, ")
    with pytest.raises(DataError, match="not valid JSON"):
        read_facts(path)


def test_tens_of_thousands_of_facts_are_read_in_seconds(tmp_path):
    prompts = [f"subject {{}} and its pattern {n} [Y]" for n in range(9)]
    with gzip.open(tmp_path / "many.jsonl.gz", "wt", compresslevel=1) as file:
        for n in range(27_610):
            row = {"id": str(n), "prompts": [text.format(n) for text in prompts], "answer": f"a{n % 90}"}
            file.write(json.dumps(row) + "\n")
    start = time.perf_counter()
    found = facts(tmp_path / "many.jsonl.gz")
    # About a second on an ordinary machine; the bound leaves room for a busy one.
    assert time.perf_counter() - start < 10
    assert len(found) == 27_610 and found.skipped == 0


# --- PARAREL


def test_bundled_facts_of_pararel():
    found = read_pararel("facts-pararel")
    assert len(found) == 400 and found.skipped == 0 and found.name == "facts-pararel"
    assert {len(group) for group in found.by_relation().values()} == {40}
    assert len(read_relations("facts-pararel")) == 26
    known = {(f.relation, f.subject, f.answer) for f in read_fact_model("fact-gpt")}
    assert {(f.relation, f.subject, f.answer) for f in found} <= known


@pytest.mark.parametrize("causal", [True, False])
def test_held_out_patterns_are_those_of_the_relation_and_never_used(causal):
    found = read_pararel("facts-pararel", causal=causal, held_out=2)
    for name, group in found.by_relation().items():
        patterns = {
            (
                tuple(p.replace(f.subject, "[X]") for p in f.prompts),
                tuple(p.replace(f.subject, "[X]") for p in f.held_out),
            )
            for f in group
        }
        assert len(patterns) == 1, name
        ((used, held),) = patterns
        assert used and held and not set(used) & set(held)
        bare = [
            [text.partition(SLOT)[0].strip() for text in side if text.rstrip(" .").endswith(SLOT)]
            for side in (used, held)
        ]
        assert not set(bare[0]) & set(bare[1]), "the same but for a full stop"
        if causal:
            assert all(text.endswith(SLOT) for text in (*used, *held))
    assert found == read_pararel("facts-pararel", causal=causal, held_out=2)
    assert found != read_pararel("facts-pararel", causal=causal, held_out=2, seed=1)


def test_a_relation_parts_its_patterns():
    relation = Relation(
        "P", "", ("[X] is [Y].", "[X]  is [Y] .", "[X], a [Y]", "[Y] has [X]", "[X] is [Y] indeed")
    )
    used, held = relation.split(held_out=0)
    assert used == relation.patterns and held == ()
    used, held = relation.split(held_out=9)
    assert {*used, *held} == set(relation.patterns) and used
    assert ("[X] is [Y]." in used) == ("[X]  is [Y] ." in used)
    used, held = relation.split(held_out=1, causal=True)
    assert sorted([*used, *held]) == ["[X] is [Y]", "[X], a [Y]"] and len(used) == len(held) == 1


def test_part_of_pararel_can_be_read():
    found = read_pararel("facts-pararel", relations_only=["P36", "P19"], limit=5)
    assert {name: len(group) for name, group in found.by_relation().items()} == {"P19": 5, "P36": 5}
    assert found != read_pararel("facts-pararel", relations_only=["P36", "P19"], limit=5, seed=3)
    assert facts("facts-pararel", relations_only=["P36", "P19"], limit=5) == found
    with pytest.raises(FactError, match=r"no relation 'P360'.*P36"):
        read_pararel("facts-pararel", relations_only=["P360"])
    for options, message in (
        ({"relations_only": "P36"}, r"\['P36'\]"),
        ({"limit": -1}, "limit must be"),
        ({"held_out": -1}, "held_out must be"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            read_pararel("facts-pararel", **options)


def test_triples_of_ones_own(tmp_path):
    patterns = {"relation": "R", "label": "colour", "patterns": ["[X] is [Y].", "the [Y] [X]"]}
    lines(tmp_path / "relations.jsonl", patterns, {**patterns, "relation": "S", "patterns": ["a [Y] [X]"]})
    triple = {"relation": "R", "sub": "grass", "obj": "green", "uuid": "1"}
    path = lines(
        tmp_path / "triples.jsonl",
        triple,
        {**triple, "uuid": "2", "relation": "Q"},
        {**triple, "uuid": "3", "obj": None},
        {"relation": "R", "sub": "snow"},
        7,
        {**triple, "uuid": "1"},
        {"relation": "R", "sub": "snow", "obj": "white"},
        {**triple, "uuid": "5", "relation": "S"},
    )
    for source in (tmp_path, path):
        found = facts(source, held_out=0)
        assert [fact.answer for fact in found] == ["green", "white", "green"]
        assert found[0].prompts == ("grass is [Y].", "the [Y] grass") and found[0].id == "1"
        assert [p.split(":")[0] for p in found.problems] == [f"line {n}" for n in (2, 3, 4, 5, 6)]
    assert "no patterns for the relation 'Q'" in found.problems[0]
    assert "it has relation, sub" in found.problems[2] and "no object" in found.problems[3]
    causal = read_pararel(path, tmp_path / "relations.jsonl", causal=True)
    assert causal[0].prompts == ("grass is [Y]",) and "no pattern of 'S' ends" in causal.problems[-1]


def test_folders_and_patterns_that_are_not_there(tmp_path):
    lines(tmp_path / "triples.jsonl", {"relation": "R", "sub": "a", "obj": "b"})
    with pytest.raises(DataError, match=r"has no relations\.jsonl.*It has: triples\.jsonl"):
        read_pararel(tmp_path)
    with pytest.raises(DataError, match=r"has no relations\.jsonl"):
        facts(tmp_path / "triples.jsonl")
    for row, message in (
        ({"relation": "R", "patterns": ["[X] is"]}, r"line 1: the pattern '\[X\] is'"),
        ({"relation": "R", "patterns": []}, "must be a list"),
        ({"label": "x"}, "no field 'relation'"),
        ("{", "line 1: not valid JSON"),
    ):
        with pytest.raises(DataError, match=message):
            read_relations(lines(tmp_path / "relations.jsonl", row))
    with pytest.raises(DataError, match="no relation in"):
        read_relations(lines(tmp_path / "relations.jsonl"))


# --- CounterFact


def test_bundled_edit_requests_are_about_what_the_fact_models_know():
    found = read_counterfact("facts-edits")
    assert len(found) == 91 and found.skipped == 0
    answers = {(f.relation, f.subject): f.answer for f in read_fact_model("fact-bert")}
    words = set(json.loads((bundled("fact-bert") / "tokenizer.json").read_text())["model"]["vocab"])
    for fact in found:
        assert answers[fact.relation, fact.subject] == fact.answer
        assert fact.new_answer in words and fact.held_out
        for probe in fact.probes:
            assert probe.answer == {"neighbour": fact.answer, "attribute": fact.new_answer}[probe.kind]
    assert sum(probe.kind == "neighbour" for fact in found for probe in fact.probes) == 203


def test_counterfact_as_lines_and_as_a_list(tmp_path):
    request = {
        "prompt": "{} lies in",
        "relation_id": "P17",
        "subject": "Lyon",
        "target_true": {"str": "France", "id": "Q"},
    }
    request["target_new"] = {"str": " Haiti"}
    record = {
        "case_id": 3,
        "requested_rewrite": request,
        "paraphrase_prompts": ["Rain. Lyon is in "],
        "neighborhood_prompts": ["Nice lies in"],
        "attribute_prompts": ["Jacmel lies in"],
        "generation_prompts": ["Lyon is"],
    }
    bad = {**record, "case_id": 4, "requested_rewrite": {**request, "prompt": "Lyon lies in"}}
    worse = {**record, "case_id": 5, "paraphrase_prompts": "Lyon"}
    worst = {**record, "case_id": [6]}
    expected = Fact(
        ["Lyon lies in [Y]"],
        "France",
        id="3",
        relation="P17",
        subject="Lyon",
        held_out=["Rain. Lyon is in [Y]"],
        new_answer="Haiti",
        probes=[
            Probe("neighbour", "Nice lies in [Y]", "France"),
            Probe("attribute", "Jacmel lies in [Y]", "Haiti"),
        ],
    )
    (tmp_path / "list.json").write_text(json.dumps([record, bad, worse, {}, worst]))
    for path in (lines(tmp_path / "lines.jsonl", record, bad, worse, {}, worst), tmp_path / "list.json"):
        found = facts(path)
        assert list(found) == [expected] and found.skipped == 4
        assert "must have {} once" in found.problems[0] and "'paraphrase_prompts'" in found.problems[1]
        assert "no field 'requested_rewrite'" in found.problems[2] and "'case_id'" in found.problems[3]


# --- fact models


def test_facts_of_the_bundled_fact_models():
    gpt, bert = facts("fact-gpt"), facts("fact-bert")
    assert len(gpt) == len(bert) == 999 and gpt.skipped == bert.skipped == 0
    assert gpt.name == "fact-gpt" and len(gpt.by_relation()) == 10
    assert all(text.endswith(SLOT) for fact in gpt for text in (*fact.prompts, *fact.held_out))
    assert any(text.endswith(".") for fact in bert for text in fact.prompts)
    assert all(fact.held_out and not set(fact.held_out) & set(fact.prompts) for fact in (*gpt, *bert))
    assert read_fact_model(bundled("fact-gpt") / "facts.json") == gpt


def test_lists_beside_models_that_are_not_of_that_form(tmp_path):
    path = tmp_path / "facts.json"
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", "an object with kind, facts and relations"),
        ('{"kind": "gpt", "facts": [], "relations": []}', "an object with kind, facts and relations"),
        ('{"kind": "gpt", "facts": [], "relations": {"R": {}}}', r"relation R: no field 'train_patterns'"),
        ('{"kind": "gpt", "facts": [], "relations": {}}', "There is no fact in"),
        ('{"kind": "gpt", "facts": [1], "relations": {}}', "fact 1: no field 'relation'"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            facts(tmp_path)


# --- any source


def test_facts_of_anything(tmp_path):
    assert facts([PARIS])[0].answer == "Paris"
    assert facts(iter(CAPITALS)) == CAPITALS and facts(CAPITALS) is CAPITALS
    assert [f.id for f in facts(CAPITALS, relations_only=["P106"])] == ["mc"]
    assert len(facts(CAPITALS, limit=1)) == 3
    with pytest.raises(DataError, match="has no facts"):
        facts(tmp_path)
    with pytest.raises(DataError, match="'fact-gpt', 'fact-bert'"):
        facts("fact-gtp")
    assert facts(bundled("fact-gpt") / "facts.json") == facts("fact-gpt")
    with pytest.raises(FactError, match="1 could not be used"):
        facts(lines(tmp_path / "a.jsonl", "x"))
    with pytest.raises(FactError, match="must be an object"):
        facts(["a [Y]"])


def test_a_limit_keeps_what_was_wrong(tmp_path):
    path = lines(tmp_path / "a.jsonl", {**PARIS, "id": "1"}, "x", {**PARIS, "id": "2"})
    assert facts(path, limit=1).problems == facts(path).problems != ()
