"""Patches: exact undo, order, other models, files."""

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neuronwise.data import hash_model, load_model
from neuronwise.edit import Change, LowRank, Patch, applied_patches, save_model, set_slot
from neuronwise.edit._changes import digest
from neuronwise.errors import InvalidArgumentError, PatchError, WriteError
from neuronwise.sites import find_sites
from tests.edit import zoo
from tests.models import make


def net(dtype=torch.float32, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).to(dtype)


def low_rank(model, seed=0, name="2.weight", scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = model.get_parameter(name).shape
    left = scale * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    right = torch.randn(2, columns, generator=generator, dtype=torch.float64)
    change = LowRank(name, left, right, digest(model.get_parameter(name)))
    return Patch.of(model, [change], "made up", parameters={"seed": seed})


def slots(model, index=(1, 3), value=7.0):
    weight = model[2].weight.detach()
    places = torch.tensor(index)
    old = weight[:, places]
    change = Change("2.weight", old, torch.full_like(old, value), places, 1)
    return Patch.of(model, [change], "by hand", parameters={"value": value})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("make_patch", [low_rank, slots])
def test_apply_changes_and_undo_restores_every_bit(dtype, make_patch):
    model = net(dtype)
    with torch.no_grad():
        model[2].weight[0, 0], model[2].weight[1, 1], model[2].weight[2, 3] = -0.0, torch.nan, torch.inf
    patch, before = make_patch(model), zoo.trace(model)
    old = model[2].weight.detach().clone()
    patch.apply(model)
    change = patch.changes[0]
    if isinstance(change, LowRank):
        expected = (old.double() + change.left @ change.right).to(dtype)
        assert torch.equal(model[2].weight.nan_to_num(), expected.nan_to_num())
    else:
        assert bool((model[2].weight[:, [1, 3]] == 7).all())
        assert torch.equal(model[2].weight[:, [0, 2, 4]], old[:, [0, 2, 4]])
    assert hash_model(model) != before[0]
    patch.undo(model)
    assert zoo.trace(model) == before


def test_a_whole_parameter_can_be_changed():
    model = net()
    bias = model[2].bias.detach()
    patch = Patch.of(model, [Change("2.bias", bias, bias + 1)], "bias", parameters={})
    with patch.applied(model):
        assert torch.equal(model[2].bias, bias + 1) or bool((model[2].bias != 0).any())
    assert torch.equal(model[2].bias, bias)


def test_adding_and_subtracting_would_not_be_exact():
    """The reason for keeping copies: this is what a naive undo gives."""
    model = net(torch.bfloat16)
    patch, before = low_rank(model, scale=100.0), hash_model(model)
    with patch.applied(model):
        product = (patch.changes[0].left @ patch.changes[0].right).to(torch.bfloat16)
        assert not torch.equal(model[2].weight.detach() - product, net(torch.bfloat16)[2].weight)
    assert hash_model(model) == before


def test_patches_are_undone_in_reverse_order_only():
    model = net()
    before = hash_model(model)
    first, second = low_rank(model, 0), low_rank(model, 1)
    first.apply(model)
    middle = hash_model(model)
    second.apply(model)
    assert applied_patches(model) == (first, second)
    with pytest.raises(PatchError, match=r"applied after.*reverse order"):
        first.undo(model)
    second.undo(model)
    assert hash_model(model) == middle
    first.undo(model)
    assert hash_model(model) == before
    assert applied_patches(model) == ()
    with pytest.raises(PatchError, match="not on this model"):
        first.undo(model)


def test_applying_twice_is_refused(tmp_path):
    model = net()
    patch = slots(model)
    again = Patch.load(patch.save(tmp_path / "p.safetensors"))
    with patch.applied(model):
        inside = hash_model(model)
        for one in (patch, again):
            with pytest.raises(PatchError, match="already"):
                one.apply(model)
        assert hash_model(model) == inside


@pytest.mark.parametrize("nested", [False, True])
def test_an_exception_inside_the_block_leaves_no_trace(nested):
    model = net()
    before = zoo.trace(model)
    with pytest.raises(KeyError), slots(model).applied(model):
        if nested:
            low_rank(model).apply(model)
        raise KeyError
    assert zoo.trace(model) == before


def test_a_patch_undone_inside_its_block_is_an_error():
    model = net()
    before, patch = hash_model(model), slots(model)
    with pytest.raises(PatchError, match="undone inside"), patch.applied(model):
        patch.undo(model)
    assert hash_model(model) == before


def test_an_error_while_writing_takes_back_what_was_written(monkeypatch):
    model = net()
    before = zoo.trace(model)
    patch = slots(model) | low_rank(model)
    monkeypatch.setattr(LowRank, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        patch.apply(model)
    assert zoo.trace(model) == before


def test_a_tied_weight_is_refused_unless_wanted():
    model = make("tied").model
    weight = model.embed.weight.detach()
    index = torch.tensor([2])
    for name, other in (("embed.weight", "head.weight"), ("head.weight", "embed.weight")):
        patch = Patch.of(model, [Change(name, weight[index], weight[index] + 1, index)], "row", parameters={})
        before = hash_model(model)
        with pytest.raises(PatchError, match=f"{name} is the same tensor as {other}"):
            patch.apply(model)
        assert hash_model(model) == before
        with patch.applied(model, shared=True):
            assert torch.equal(model.head.weight, model.embed.weight)
            assert hash_model(model) != before
        assert hash_model(model) == before


def test_composition_makes_the_changes_in_order():
    model = net()
    before = hash_model(model)
    one, two = slots(model, (1, 3), 7.0), slots(model, (3, 4), 9.0)
    with one.applied(model), two.applied(model):
        nested = model[2].weight.detach().clone()
    both = one | two
    with both.applied(model):
        assert torch.equal(model[2].weight, nested)
    assert hash_model(model) == before
    assert both.method == "by hand | by hand"
    assert nested[0, 1] == 7 and nested[0, 3] == 9
    with pytest.raises(TypeError):
        one | 3


@pytest.mark.parametrize("make_patch", [low_rank, slots])
def test_a_saved_patch_does_the_same(make_patch, tmp_path):
    model = net(torch.bfloat16)
    patch = make_patch(model)
    with patch.applied(model):
        edited = hash_model(model)
    path = patch.save(tmp_path / "deep" / "patch.safetensors")
    assert [file.name for file in path.parent.iterdir()] == ["patch.safetensors"]
    loaded = Patch.load(path)
    assert loaded == patch and hash(loaded) == hash(patch) and loaded.loaded
    with loaded.applied(model):
        assert hash_model(model) == edited


def test_the_file_of_a_low_rank_patch_is_small(tmp_path):
    model = nn.Linear(300, 200)
    path = low_rank(model, name="weight").save(tmp_path / "patch.safetensors")
    assert path.stat().st_size < model.weight.numel() * 4 / 10


def test_a_loaded_patch_for_another_model_names_both_hashes(tmp_path):
    model, other = net(), net(seed=1)
    loaded = Patch.load(slots(model).save(tmp_path / "patch.safetensors"))
    before = zoo.trace(other)
    with pytest.raises(PatchError, match=f"{hash_model(model)}.*{hash_model(other)}"):
        loaded.apply(other)
    assert zoo.trace(other) == before


def test_a_loaded_patch_goes_on_top_of_another(tmp_path):
    model = net()
    first, second = low_rank(model, 0), low_rank(model, 1)
    loaded = Patch.load(second.save(tmp_path / "patch.safetensors"))
    before = hash_model(model)
    with first.applied(model), second.applied(model):
        both = hash_model(model)
    with first.applied(model), loaded.applied(model):
        assert hash_model(model) == both
    assert hash_model(model) == before


@pytest.mark.parametrize("make_patch", [low_rank, slots])
def test_a_patch_made_in_this_process_is_checked_too(make_patch):
    patch, other = make_patch(net()), net(seed=1)
    before = hash_model(other)
    with pytest.raises(PatchError, match="other values"):
        patch.apply(other)
    with pytest.raises(PatchError, match="shape"):
        patch.apply(net(torch.float64) if make_patch is slots else nn.Sequential(*net()[:2], nn.Linear(5, 6)))
    with pytest.raises(PatchError, match=r"no parameter '2\.weight'"):
        patch.apply(nn.Linear(2, 2))
    with pytest.raises(PatchError, match="meta device"):
        patch.apply(net().to("meta"))
    assert hash_model(other) == before


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({}, "not a patch"),
        ({"format": "neuronwise.patch", "version": "9"}, "version '9'.*newer"),
        ({"format": "neuronwise.patch", "version": "1"}, "not a whole patch"),
        (
            {"format": "neuronwise.patch", "version": "1", "base": "", "method": "m", "parameters": "{}"}
            | {"facts": "[]", "changes": json.dumps([{"kind": "values", "parameter": "w", "axis": 0}])},
            "not a whole patch.*incomplete",
        ),
    ],
)
def test_a_file_that_is_no_patch_is_refused(metadata, match, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"0.old": torch.ones(2)}, path, metadata)
    with pytest.raises(PatchError, match=match):
        Patch.load(path)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(PatchError, match="Cannot read"):
        Patch.load(path)
    with pytest.raises(PatchError, match="Cannot read"):
        Patch.load(tmp_path / "missing")


def test_a_copy_of_a_patched_model_can_be_undone_and_pickled():
    model = net()
    before, patch = hash_model(model), low_rank(model)
    with patch.applied(model):
        twin, sent = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        edited = hash_model(model)
    for one in (twin, sent):
        assert hash_model(one) == edited
        patch.undo(one)
        assert hash_model(one) == before


def test_controls_are_as_large_elsewhere_and_seeded():
    model = net()
    rank, values = low_rank(model), slots(model)
    for patch in (rank, values):
        one, same, other = (patch.control(model, seed=seed) for seed in (0, 0, 1))
        assert one == same and one != other
        assert one.changes[0].norm() == pytest.approx(patch.changes[0].norm(), rel=1e-6)
        before = hash_model(model)
        with one.applied(model):
            assert hash_model(model) != before
        assert hash_model(model) == before
    assert not {1, 3} & set(values.control(model).changes[0].index.tolist())
    assert rank.control(model).changes[0].left.shape == rank.changes[0].left.shape


def test_a_patch_says_what_it_is():
    model = net()
    frame = (slots(model) | low_rank(model)).to_frame()
    assert frame["kind"].tolist() == ["values", "low rank"]
    assert frame["size"].tolist() == [2, 2]
    assert repr(slots(model)) == "<Patch by hand: 2.weight>"
    with pytest.raises(InvalidArgumentError, match="plain JSON"):
        Patch((), "m", parameters={"x": torch.ones(1)})
    with pytest.raises(InvalidArgumentError, match="differ"):
        Change("w", torch.ones(2), torch.ones(3))
    with pytest.raises(InvalidArgumentError, match="factors"):
        LowRank("w", torch.ones(2, 1), torch.ones(2, 2), "")


def test_an_edited_model_is_saved_as_a_folder(tmp_path):
    model, tokenizer = zoo.language_model("gpt2")
    site = find_sites(model)[0]
    patch = set_slot(model, site, 3, torch.ones(16))
    before, config = zoo.trace(model), copy.deepcopy(model.config.__dict__)
    with patch.applied(model):
        edited = model.state_dict()[site.writes.parameter].clone()
    folder = save_model(model, tmp_path / "edited", tokenizer=tokenizer, patch=patch)
    assert zoo.trace(model) == before
    assert model.config.__dict__ == config
    loaded = load_model(folder)
    assert torch.equal(loaded.model.state_dict()[site.writes.parameter], edited)
    assert loaded.tokenizer("the capital")["input_ids"] == tokenizer("the capital")["input_ids"]
    note = json.loads((folder / "neuronwise_edit.json").read_text())
    assert note["patches"][0]["method"] == "set_slot" and note["patches"][0]["base"] == before[0]
    assert note["sha256"] == hash_model(loaded.model)
    with pytest.raises(WriteError, match="exists"):
        save_model(model, folder)
    with pytest.raises(InvalidArgumentError, match="save_pretrained"):
        save_model(net(), tmp_path / "plain")
