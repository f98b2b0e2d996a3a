"""Corpora of texts: files, lists, rows, streams; truncated or split, never lost silently."""

import gzip
import json
import pickle

import cloudpickle
import pytest
import torch

from neuronwise.data import Corpus, batches, corpus
from neuronwise.errors import DataError, EmptyCorpusError, InvalidArgumentError


def _texts(corpus_, start=0, stop=1000):
    return ["".join(example.tokens[1:]).removeprefix(" ") for example in corpus_.examples(start, stop)]


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffOne day\r\n\n  \nthe cat sat\nlast, no line end".encode())
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_lines_of_a_text_file(lines, tokenizer, packed):
    if packed:
        (lines.parent / "lines.txt.gz").write_bytes(gzip.compress(lines.read_bytes()))
        lines = lines.parent / "lines.txt.gz"
    read = corpus(lines, tokenizer=tokenizer)
    assert (read.name, read.kind, len(read)) == ("lines", "text", 3)
    assert _texts(read) == ["One day", "the cat sat", "last, no line end"]
    assert _texts(read, 1, 2) == ["the cat sat"] and _texts(read, 0, 1) == ["One day"]
    assert read.examples(3, 9) == [] and read.examples(2, 2) == []
    assert [example.index for example in read.examples(1, 9)] == [1, 2]
    assert [example.index for example in read] == [0, 1, 2]
    json.dumps(read.describe())


def test_pieces_between_separators_across_chunks(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("neuronwise.data.records._CHUNK", 7)
    path = tmp_path / "stories.txt"
    path.write_text("one two\nthree\n<|story|>\n\n<|story|>\nfour\n<|story|>\nfive six\n", encoding="utf-8")
    read = corpus(path, tokenizer=tokenizer, separator="<|story|>")
    assert _texts(read) == ["one two\nthree", "four", "five six"]


def test_what_is_read_does_not_depend_on_the_blocks(tokenizer):
    stories = corpus("stories", tokenizer=tokenizer)
    assert len(stories) == 300
    whole = stories.examples(10, 30)
    parts = [*stories.examples(25, 30), *stories.examples(10, 17), *stories.examples(17, 25)]
    for example in parts:
        same = whole[example.index - 10]
        assert torch.equal(same.inputs["input_ids"], example.inputs["input_ids"])
    assert {example.inputs["input_ids"][0].item() for example in whole} == {1}


def test_a_corpus_goes_to_another_process(lines, tokenizer):
    read = corpus(lines, tokenizer=tokenizer)
    read.examples(0, 2)
    copy = cloudpickle.loads(cloudpickle.dumps(read))
    assert isinstance(copy, Corpus) and _texts(copy) == _texts(read)
    assert copy.fingerprint == read.fingerprint
    lines.write_text("something else altogether\n")
    with pytest.raises(DataError, match="was changed"):
        cloudpickle.loads(cloudpickle.dumps(read)).examples(0, 1)


def test_the_fingerprint_is_of_content_and_settings_not_of_the_place(lines, tmp_path, tokenizer):
    moved = tmp_path / "elsewhere" / "other.txt"
    moved.parent.mkdir()
    moved.write_bytes(lines.read_bytes())
    first = corpus(lines, tokenizer=tokenizer).fingerprint
    assert corpus(moved, tokenizer=tokenizer).fingerprint == first
    assert corpus(lines, tokenizer=tokenizer, max_length=5).fingerprint != first
    moved.write_bytes(lines.read_bytes() + b"!")
    assert corpus(moved, tokenizer=tokenizer).fingerprint != first


def test_long_texts_are_truncated_and_counted(tokenizer):
    read = corpus(["the", "Once upon a time there was a cat"], tokenizer=tokenizer, max_length=4)
    assert [example.length for example in read.examples(0, 2)] == [2, 4]
    read.examples(0, 2)
    assert read.describe()["truncated"] == 1


def test_long_texts_can_be_split_without_loss(tokenizer):
    texts = ["the cat", "Once upon a time there was a little cat", "the end"]
    whole = corpus(texts, tokenizer=tokenizer)
    split = corpus(texts, tokenizer=tokenizer, max_length=5, long="split")
    assert len(split) > len(whole) == 3
    assert max(example.length for example in split) == 5
    assert "".join(_texts_raw(split)) == "".join(_texts_raw(whole))
    assert [example.index for example in split.examples(1, 3)] == [1, 2]
    one_by_one = [split.examples(n, n + 1)[0].tokens for n in range(len(split))]
    assert one_by_one == [example.tokens for example in split]
    assert len(corpus(texts, tokenizer=tokenizer, max_length=5, stride=2, long="split")) > len(split)
    with pytest.raises(InvalidArgumentError, match="no room"):
        corpus(texts, tokenizer=tokenizer, max_length=3, stride=2, long="split")


def _texts_raw(read):
    return ["".join(example.tokens[1:]) for example in read]


def test_json_lines_with_labels(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"body": "good cat", "mood": "glad", "n": 10},
        {"body": " ", "mood": "x", "n": 1},
        {"body": "bad", "mood": None, "n": 9},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    read = corpus(path, tokenizer=tokenizer, text_field="body", label_fields=("mood", "n"))
    assert read.labels == {"mood": ("glad",), "n": ("9", "10")}
    assert [int(example.labels["mood"]) for example in read] == [0, -1]
    assert [int(example.labels["n"]) for example in read] == [1, 0]
    (batch,) = batches(read.examples(0, 2), pad=read.pad)
    assert batch.labels["n"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"text": "a"', "not valid JSON"),
        (b"[1, 2]", "expected an object"),
        (b'{"txt": "a"}', "no field 'text'.*txt"),
        (b'{"text": 3}', "string or a list of words"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, tokenizer, bad, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + bad + b'\n"also fine"\n')
    with pytest.raises(DataError, match=f"line 3: .*{message}"):
        corpus(path, tokenizer=tokenizer)
    read = corpus(path, tokenizer=tokenizer, on_error="skip")
    assert _texts(read) == ["fine", "also fine"]
    assert read.describe()["skipped"] == 1


def test_json_list(tmp_path, tokenizer):
    path = tmp_path / "rows.json"
    path.write_text('[{"text": "one"}, "two", {"text": ""}]')
    assert _texts(corpus(path, tokenizer=tokenizer)) == ["one", "two"]
    path.write_text('[{"text": "one"}, 5]')
    with pytest.raises(DataError, match="example 1"):
        corpus(path, tokenizer=tokenizer)
    path.write_text('{"text": "one"}\n{"text": "two"}')
    with pytest.raises(DataError, match=r"name the file \.jsonl"):
        corpus(path, tokenizer=tokenizer)
    path.write_text('{"text": "one"}')
    with pytest.raises(DataError, match="must hold a list"):
        corpus(path, tokenizer=tokenizer)


def test_lists_of_texts_and_rows(tokenizer):
    read = corpus(["a cat", "", "a dog"], tokenizer=tokenizer, labels=[1, 0, 2])
    assert read.labels == {"label": ("1", "2")}
    assert [int(example.labels["label"]) for example in read] == [0, 1]
    rows = [{"text": ["a", "cat"], "tag": ["x", None]}]
    read = corpus(rows, tokenizer=tokenizer, label_fields=["tag"], labels={"kind": ["k"]})
    assert read.kind == "words"
    (example,) = read.examples(0, 1)
    assert example.labels["kind"] == 0 and example.labels["tag"][0] == -1 and example.labels["tag"][1] == 0
    with pytest.raises(DataError, match="2 texts but labels"):
        corpus(["a", "b"], tokenizer=tokenizer, labels=[1])
    with pytest.raises(DataError, match="has 1 entries for 2 words"):
        corpus([{"text": ["a", "b"], "tag": ["x"]}], tokenizer=tokenizer, label_fields=["tag"])
    with pytest.raises(DataError, match="not a list of words"):
        corpus([{"text": "a b", "tag": ["x"]}], tokenizer=tokenizer, label_fields=["tag"])
    with pytest.raises(DataError, match="must be a class"):
        corpus([{"text": "a b", "tag": 0.5}], tokenizer=tokenizer, label_fields=["tag"])


def test_transform_changes_the_inputs(tokenizer):
    read = corpus(["a cat"], tokenizer=tokenizer, transform=_with_decoder)
    (example,) = read.examples(0, 1)
    assert torch.equal(example.inputs["decoder_input_ids"], example.inputs["input_ids"])
    assert read.describe()["transform"].endswith("_with_decoder")


def _with_decoder(inputs):
    return {**inputs, "decoder_input_ids": inputs["input_ids"]}


def test_a_stream_is_read_forwards_once(tokenizer):
    read = corpus((text for text in ["one", "", "two", "three", "four"]), tokenizer=tokenizer)
    assert read.length() is None
    with pytest.raises(TypeError, match="not known"):
        len(read)
    assert "stream" in repr(read)
    empty = read.fingerprint
    assert _texts(read, 0, 1) == ["one"]
    assert read.fingerprint != empty
    assert [example.index for example in read.examples(2, 3)] == [2]
    with pytest.raises(DataError, match="forwards, once"):
        read.examples(1, 2)
    assert _texts(read, 3, 10) == ["four"]
    assert read.examples(4, 5) == []
    with pytest.raises(DataError, match="other processes"):
        pickle.dumps(read)


def test_a_stream_has_the_examples_of_the_list(tokenizer):
    texts = ["Once upon a time there was a cat", "the end"]
    for options in ({}, {"max_length": 4}, {"max_length": 4, "long": "split"}):
        stream = corpus(iter(texts), tokenizer=tokenizer, **options)
        whole = corpus(texts, tokenizer=tokenizer, **options)
        assert [example.tokens for example in stream.examples(0, 99)] == [e.tokens for e in whole]


def test_empty_sources_are_named(tmp_path, tokenizer):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    for source in (empty, [], iter(()), ["", " "]):
        with pytest.raises(EmptyCorpusError):
            corpus(source, tokenizer=tokenizer)


def test_text_needs_a_tokenizer(lines):
    for source in (lines, ["a"], iter(["a"])):
        with pytest.raises(DataError, match="tokenizer"):
            corpus(source)
    with pytest.raises(DataError, match="got list"):
        corpus(["a"], tokenizer=[1])


def test_nonsense_is_refused_with_what_is_accepted(tmp_path, tokenizer):
    (tmp_path / "notes.docx").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.txt.gz").write_bytes(b"not gzip at all")
    for source in (3, None, object(), b"bytes", {}.keys, [object()], iter([object()]), {"a": 1}):
        with pytest.raises(DataError, match="Accepted are"):
            corpus(source, tokenizer=tokenizer)
    for name in ("missing.txt", "notes.docx", "empty"):
        with pytest.raises(DataError, match="Accepted are"):
            corpus(tmp_path / name, tokenizer=tokenizer)
    with pytest.raises(DataError, match="Cannot read"):
        corpus(tmp_path / "broken.txt.gz", tokenizer=tokenizer)
    whole = gzip.compress(b"some text\n" * 1000)
    (tmp_path / "cut.txt.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="Cannot read"):
        corpus(tmp_path / "cut.txt.gz", tokenizer=tokenizer)


def test_options_that_do_not_go_with_the_source_are_refused(lines, tokenizer):
    with pytest.raises(InvalidArgumentError, match="takes no size"):
        corpus(lines, tokenizer=tokenizer, size=3)
    with pytest.raises(InvalidArgumentError, match="on_error"):
        corpus(lines, tokenizer=tokenizer, on_error="ignore")
    with pytest.raises(InvalidArgumentError, match="long must be"):
        corpus(lines, tokenizer=tokenizer, long="wrap")
    with pytest.raises(InvalidArgumentError, match="separator"):
        corpus(lines, tokenizer=tokenizer, separator="")


def test_a_corpus_is_returned_as_it_is(tokenizer):
    read = corpus(["a"], tokenizer=tokenizer)
    assert corpus(read) is read


def test_slow_tokenizers_read_texts_but_not_words():
    transformers = pytest.importorskip("transformers")
    slow = transformers.ByT5Tokenizer()
    assert not slow.is_fast
    read = corpus(["a cat", "on"], tokenizer=slow, max_length=4)
    assert [example.tokens for example in read] == [("a", " ", "c", "</s>"), ("o", "n", "</s>")]
    assert read.describe()["truncated"] is None and len(read.fingerprint) == 64
    with pytest.raises(InvalidArgumentError, match="fast tokenizer"):
        corpus(["a cat"], tokenizer=slow, max_length=4, long="split")
    with pytest.raises(DataError, match="fast tokenizer"):
        corpus([{"text": ["a", "cat"]}], tokenizer=slow).examples(0, 1)


def test_a_forked_child_does_not_move_the_place_in_the_file(lines, tokenizer):
    records = corpus(lines, tokenizer=tokenizer)._records
    records.read(0, 1)
    handle = records._open()
    records._owner = -1
    assert records._open() is not handle, "another process opens the file for itself"


def test_default_columns_that_a_conllu_file_does_not_fill_are_left_out(tokenizer, tmp_path):
    pytest.importorskip("conllu")
    path = tmp_path / "bare.conllu"
    rows = ["1\tOne\tone\tNUM\t_\t_\t2\tnummod\t_\t_", "2\tday\tday\tNOUN\t_\t_\t0\troot\t_\t_"]
    path.write_text("\n".join(rows) + "\n\n", encoding="utf8")
    words = corpus(path, tokenizer=tokenizer)
    assert set(words.labels) == {"upos", "deprel"}
    assert set(words.examples(0, 1)[0].labels) == {"upos", "deprel"}
    with pytest.raises(DataError, match="xpos"):
        corpus(path, tokenizer=tokenizer, label_fields=("xpos",))
