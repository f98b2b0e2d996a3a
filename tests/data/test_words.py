"""Words with labels: CoNLL-U and Hugging Face datasets."""

import cloudpickle
import pytest

from neuronwise.data import batches, corpus
from neuronwise.errors import DataError, InvalidArgumentError

CONLLU = """# text = Cats don't sleep
1\tCats\tcat\tNOUN\tNNS\tNumber=Plur\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\tMood=Ind|Number=Plur\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tsleep\tsleep\tVERB\tVB\t_\t0\troot\t_\t_
4.1\tempty\t_\tVERB\t_\t_\t_\t_\t_\t_

# text = Lily!
1\tLily\tLily\tPROPN\tNNP\tNumber=Sing\t0\troot\t_\t_
2\t!\t!\tPUNCT\t.\t_\t1\tpunct\t_\t_

"""


@pytest.fixture
def treebank(tmp_path):
    pytest.importorskip("conllu")
    path = tmp_path / "small.conllu"
    path.write_text(CONLLU, encoding="utf-8", newline="")
    return path


def test_every_token_has_the_labels_of_its_word(treebank, tokenizer):
    read = corpus(treebank, tokenizer=tokenizer, label_fields=("upos", "Number"))
    assert (read.kind, len(read)) == ("words", 2)
    assert read.labels == {
        "upos": ("AUX", "NOUN", "PART", "PROPN", "PUNCT", "VERB"),
        "Number": ("Plur", "Sing"),
    }
    example, lily = read.examples(0, 2)
    words, tags, numbers = [], [], []
    for token, tag, number in zip(
        example.tokens, example.labels["upos"].tolist(), example.labels["Number"].tolist(), strict=True
    ):
        if token.startswith(" "):
            words.append("")
            tags.append(set())
            numbers.append(set())
        if tag >= 0:
            words[-1] += token.strip()
            tags[-1].add(read.labels["upos"][tag])
            numbers[-1].add(number)
    assert words == ["Cats", "do", "n't", "sleep"]
    assert tags == [{"NOUN"}, {"AUX"}, {"PART"}, {"VERB"}]
    assert numbers == [{0}, {0}, {-1}, {-1}]
    assert example.labels["upos"][0] == -1, "the special token belongs to no word"
    assert any(count > 1 for count in map(len, (words[0], words[3]))) and example.length > 5, (
        "words are split"
    )
    assert "".join(lily.tokens[1:]).replace(" ", "") == "Lily!"


def test_columns_by_default_and_windows_line_ends(treebank, tokenizer):
    whole = corpus(treebank, tokenizer=tokenizer)
    assert set(whole.labels) == {"upos", "xpos", "deprel"}
    other = treebank.with_name("windows.conllu")
    other.write_bytes(CONLLU.replace("\n", "\r\n").encode())
    windows = corpus(other, tokenizer=tokenizer)
    assert [example.tokens for example in windows] == [example.tokens for example in whole]
    (batch,) = batches(whole.examples(0, 2), pad=whole.pad)
    assert batch.labels["deprel"].shape == batch.mask.shape
    assert (batch.labels["deprel"][~batch.mask] == -1).all()


def test_labels_stay_with_their_words_when_a_sentence_is_split(treebank, tokenizer):
    whole = corpus(treebank, tokenizer=tokenizer, label_fields=["upos"])
    split = corpus(treebank, tokenizer=tokenizer, label_fields=["upos"], max_length=4, long="split")
    assert len(split) > len(whole)
    assert _pairs(split) == _pairs(whole)


def _pairs(read):
    return [
        (token, tag)
        for example in read
        for token, tag in zip(example.tokens, example.labels["upos"].tolist(), strict=True)
        if token != "<s>"
    ]


def test_bad_treebanks_say_where(treebank, tokenizer):
    with pytest.raises(DataError, match="'Numbr'"):
        corpus(treebank, tokenizer=tokenizer, label_fields=["Numbr"])
    treebank.write_text(CONLLU + "1 this is\tno treebank\n")
    with pytest.raises(DataError, match=r"line 13: not a CoNLL-U sentence"):
        corpus(treebank, tokenizer=tokenizer)
    assert len(corpus(treebank, tokenizer=tokenizer, on_error="skip")) == 2


def test_words_keep_their_spaces_with_byte_level_tokenizers(bytelevel, wordpiece):
    rows = [{"text": ["hi", "hi", "you"], "tag": ["x", "y", "z"]}]
    (example,) = corpus(rows, tokenizer=bytelevel, label_fields=["tag"]).examples(0, 1)
    assert example.tokens == ("hi", " hi", " ", "y", "o", "u")
    assert example.labels["tag"].tolist() == [0, 1, 2, 2, 2, 2]
    rows = [{"text": ["the", "cats"], "tag": ["x", "y"]}]
    (example,) = corpus(rows, tokenizer=wordpiece, label_fields=["tag"]).examples(0, 1)
    assert example.tokens == ("[CLS]", " the", " cat", "s", "[SEP]")
    assert example.labels["tag"].tolist() == [-1, 0, 1, 1, -1]


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "NAME"])),
            "sentence": datasets.Value("string"),
            "mood": datasets.ClassLabel(names=["bad", "good", "never"]),
        }
    )
    rows = {
        "tokens": [["Lily", "ran"], ["a", "dog"]],
        "tags": [[1, 0], [0, 0]],
        "sentence": ["Lily ran", ""],
        "mood": [1, -1],
    }
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(tmp_path / "many")
    return tmp_path


def test_datasets_folder(saved, tokenizer):
    read = corpus(saved / "one", tokenizer=tokenizer, text_field="tokens", label_fields=("tags", "mood"))
    assert read.labels == {"tags": ("O", "NAME"), "mood": ("bad", "good", "never")}
    first, second = read.examples(0, 2)
    assert set(first.labels["tags"].tolist()) == {-1, 0, 1}
    assert (int(first.labels["mood"]), int(second.labels["mood"])) == (1, -1)
    copy = cloudpickle.loads(cloudpickle.dumps(read))
    assert [example.tokens for example in copy] == [example.tokens for example in read]
    assert copy.fingerprint == read.fingerprint
    texts = corpus(saved / "one", tokenizer=tokenizer, text_field="sentence")
    assert len(texts) == 1, "blank texts are left out"


def test_datasets_with_splits(saved, tokenizer):
    options = {"tokenizer": tokenizer, "text_field": "tokens"}
    with pytest.raises(DataError, match="train, test"):
        corpus(saved / "many", **options)
    assert len(corpus(saved / "many", split="test", **options)) == 1
    assert len(corpus(saved / "many", split="train", **options)) == 2
    with pytest.raises(InvalidArgumentError, match="no splits"):
        corpus(saved / "one", split="train", **options)
    with pytest.raises(DataError, match=r"no column 'text'.*tokens"):
        corpus(saved / "one", tokenizer=tokenizer)


def test_a_dataset_object(saved, tokenizer):
    import datasets

    dataset = datasets.load_from_disk(str(saved / "one"))
    read = corpus(dataset, tokenizer=tokenizer, text_field="tokens")
    assert len(read) == 2 and len(read.fingerprint) == 64
