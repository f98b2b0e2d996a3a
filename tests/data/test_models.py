"""Loading models and weights, and their cards."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import neuronwise as nw
from neuronwise.data import bundled, hash_model, load_model, load_weights, model_card
from neuronwise.errors import DataError, UnsafeFileError

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball."
)


def test_the_bundled_model_writes_the_documented_story(small):
    prompt = small.tokenizer("Once upon a time", return_tensors="pt")
    ids = small.model.generate(**prompt, max_new_tokens=60, do_sample=False)[0]
    assert small.tokenizer.decode(ids, skip_special_tokens=True).startswith(STORY)
    assert small.name == "stories260k" and not small.model.training
    assert sum(p.numel() for p in small.model.parameters()) == 260_032


def test_the_bundled_tokenizer_gives_the_text_back(tokenizer):
    for text in (STORY, "a\nb", "Ünïcode ☃", "two words"):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_bundled_files_are_named(tmp_path):
    assert bundled("stories").is_file() and bundled("stories260k").is_dir()
    with pytest.raises(DataError, match="stories260k"):
        bundled("stories260")
    with pytest.raises(DataError, match="corpus, not a model"):
        load_model("stories")


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "model"
    shutil.copytree(bundled("stories260k"), target)
    return target


def test_a_folder_loads_as_asked(folder, small):
    loaded = load_model(folder, dtype=torch.float64)
    assert loaded.name == "model" and loaded.tokenizer is not None
    assert next(loaded.model.parameters()).dtype == torch.float64
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.warns(UserWarning, match=r"no weights for score\.weight"):
        bare = load_model(str(folder), task="SequenceClassification")
    assert bare.tokenizer is None and type(bare.model).__name__ == "LlamaForSequenceClassification"
    with pytest.raises(DataError, match="CausalLM"):
        load_model(folder, task="CausalLMs")


def test_a_model_without_a_named_class_is_the_bare_one(folder):
    config = json.loads((folder / "config.json").read_text())
    for architectures in ([], ["NoSuchModel"]):
        (folder / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
        assert type(load_model(folder).model).__name__ == "LlamaModel"


def test_pickles_are_refused_unless_allowed(folder, small):
    (folder / "model.safetensors").unlink()
    torch.save(small.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin.*allow_pickle=True"):
        load_model(folder)
    assert hash_model(load_model(folder, allow_pickle=True).model) == hash_model(small.model)


def test_a_pickle_that_runs_code_is_never_run(folder, tmp_path):
    import pickle

    marker = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil(str(marker))))
    with pytest.raises(UnsafeFileError):
        load_model(folder)
    with pytest.raises(DataError):
        load_model(folder, allow_pickle=True)
    assert not marker.exists()


class _Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def test_what_is_no_model_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no weights"):
        load_model(tmp_path / "empty")
    with pytest.raises(DataError, match="is a file"):
        load_model(folder / "model.safetensors")
    with pytest.raises(DataError, match="is not there"):
        load_model(tmp_path / "missing")
    with pytest.raises(DataError, match="Cannot load the model 'no/such-model'"):
        load_model("no/such-model", local_files_only=True)
    (folder / "model.safetensors").write_bytes(b"noise")
    with pytest.raises(DataError, match="Cannot load"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match="no config"):
        load_model(folder)


def test_loading_leaves_logging_and_progress_bars_as_they_were(folder, capfd):
    from transformers.utils import logging as chatter

    level = logging.getLogger("transformers").level
    bars = chatter.is_progress_bar_enabled()
    load_model(folder)
    assert logging.getLogger("transformers").level == level
    assert chatter.is_progress_bar_enabled() == bars
    assert capfd.readouterr() == ("", "")


def test_load_weights(tmp_path):
    model, other = (
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)),
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)),
    )
    path = tmp_path / "w.safetensors"
    save_file(model.state_dict(), path)
    load_weights(other, path)
    assert hash_model(other) == hash_model(model)
    before = hash_model(other)
    save_file({"0.weight": torch.zeros(2, 3), "new": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"Missing in the file: 0\.bias.*Not in the model: new"):
        load_weights(other, path)
    assert hash_model(other) == before
    load_weights(other, path, strict=False)
    assert not other[0].weight.any() and hash_model(other) != before
    save_file({"0.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(DataError, match=r"0\.weight: \(3, 3\) in the file, \(2, 3\) in the model"):
        load_weights(other, path, strict=False)
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="No weight"):
        load_weights(other, path, strict=False)


def test_load_weights_of_tied_and_meta_models(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    save_file({"a.weight": torch.eye(2)}, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model["b"].weight, torch.eye(2))
    with torch.device("meta"):
        empty = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False)})
    load_weights(empty, tmp_path / "w.safetensors")
    assert torch.equal(empty["a"].weight, torch.eye(2))


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "ckpt", "pkl"])
def test_load_weights_refuses_pickles(tmp_path, ending):
    path = tmp_path / f"w.{ending}"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UnsafeFileError, match="safetensors"):
        load_weights(nn.Linear(2, 2), path)


def test_load_weights_refuses_nonsense(tmp_path):
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 40)
    for name in ("noise.safetensors", "missing.safetensors"):
        with pytest.raises(DataError, match="Cannot read"):
            load_weights(nn.Linear(2, 2), tmp_path / name)


def test_the_hash_sees_every_bit_and_nothing_else(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    first = hash_model(model)
    monkeypatch.setattr("neuronwise.data.weights._CHUNK", 8)
    assert hash_model(model) == first, "the size of the pieces does not matter"
    model.train(not model.training)
    assert hash_model(model) == first
    with torch.no_grad():
        model[0].weight[2, 4] = torch.nextafter(model[0].weight[2, 4], torch.tensor(9.0))
    assert hash_model(model) != first
    changed = hash_model(model)
    model[1].running_mean += 1
    assert hash_model(model) != changed
    assert hash_model(nn.Linear(2, 2).bfloat16()) is not None
    with torch.device("meta"):
        assert hash_model(nn.Linear(2, 2)) is None


def test_model_card(small):
    card = model_card(small.model, small.name)
    assert json.loads(json.dumps(card)) == card
    assert card["parameters"] == 260_032 and card["dtypes"] == ["float32"] and card["devices"] == ["cpu"]
    assert card["class"].endswith("LlamaForCausalLM") and card["config"]["model_type"] == "llama"
    assert card["sha256"] == hash_model(small.model)
    assert model_card(nn.Linear(3, 2))["config"] is None


def test_importing_the_room_imports_no_optional_package():
    code = (
        "import sys, neuronwise.data\n"
        "loaded = {'transformers', 'tokenizers', 'datasets', 'PIL', 'conllu'} & set(sys.modules)\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_load_weights_does_without_the_number_of_batches_that_a_norm_has_seen(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    older = {k: v + 1 for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(older, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert (model[1].running_var == 2).all()


@pytest.mark.parametrize(("family", "expected"), [("gpt2", 24), ("roberta", 22)])
def test_a_tokenizer_without_a_limit_gets_that_of_the_model(tmp_path, small, family, expected):
    """RoBERTa's positions begin behind the number of its padding token, 1."""
    import transformers

    sizes = {"vocab_size": 512, "max_position_embeddings": 24, "pad_token_id": 1}
    if family == "gpt2":
        config = transformers.GPT2Config(**sizes, n_embd=8, n_layer=1, n_head=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    else:
        config = transformers.RobertaConfig(
            **sizes, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
        transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path)
    limit = small.tokenizer.model_max_length
    small.tokenizer.model_max_length = int(1e30)
    small.tokenizer.save_pretrained(tmp_path)
    small.tokenizer.model_max_length = limit
    loaded = load_model(tmp_path)
    assert loaded.tokenizer.model_max_length == expected
    activity = nw.observe(loaded.model, nw.corpus([STORY], tokenizer=loaded.tokenizer), reducers=["moments"])
    assert (activity.to_frame()["n"] == expected).all()
    with pytest.raises(DataError, match=r"longest example has [234]\d positions.*24 positions.*max_length="):
        nw.observe(loaded.model, nw.corpus([STORY], tokenizer=loaded.tokenizer, max_length=40))
