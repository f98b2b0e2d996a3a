"""The example that trains a fact model."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from neuronwise.data import encode, facts, hash_model, load_model

pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "examples" / "train_fact_model.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_fact_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train(script, tmp_path):
    def run(name, *options):
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        sizes = "--layers 1 --width 16 --ffn 24 --heads 2 --facts 12 --relations P36 P19 --batch 24"
        folder = tmp_path / name
        try:
            return folder, script.main(
                [*sizes.split(), "--threads", str(threads), "--out", str(folder), *options]
            )
        finally:
            torch.set_rng_state(state)

    return run


@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_a_trained_folder_is_read_back(train, kind, capsys):
    folder, accuracies = train("model", "--kind", kind, "--steps", "20", "--dropout", "0.1")
    shown = capsys.readouterr().out
    assert "12 facts of 2 relations" in shown
    assert f"acc_heldout_patterns {accuracies['acc_heldout_patterns']:.4f}" in shown
    loaded, known = load_model(folder), facts(folder)
    assert type(loaded.model).__name__ == {"gpt": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}[kind]
    assert len(known) == 12 and known.skipped == 0 and known.name == "model"
    assert {name: len(group) for name, group in known.by_relation().items()} == {"P19": 6, "P36": 6}
    listed = json.loads((folder / "facts.json").read_text())
    assert listed["kind"] == kind and listed["acc_train_patterns"] == accuracies["acc_train_patterns"]
    for field, accuracy in (("prompts", "acc_train_patterns"), ("held_out", "acc_heldout_patterns")):
        pairs = [(text, fact.answer) for fact in known for text in getattr(fact, field)]
        prompts = encode(loaded.tokenizer, loaded.model, *zip(*pairs, strict=True))
        with torch.no_grad():
            logits = loaded.model(**prompts.inputs).logits
        best = logits[torch.arange(len(prompts)), prompts.positions[:, 0]].argmax(-1)
        assert (best == prompts.answers[:, 0]).double().mean().item() == accuracies[accuracy]


def test_the_seed_decides_everything(train):
    models = [train(str(n), "--steps", "3", "--seed", str(n // 2))[0] for n in range(3)]
    hashes = [hash_model(load_model(folder).model) for folder in models]
    assert hashes[0] == hashes[1] != hashes[2]
    assert facts(models[0]) == facts(models[1]) != facts(models[2])


def test_training_teaches_the_facts(train):
    _, accuracies = train("model", "--steps", "150", "--rate", "0.02")
    assert accuracies["acc_train_patterns"] == 1.0
    assert accuracies["acc_heldout_patterns"] > 0.5
