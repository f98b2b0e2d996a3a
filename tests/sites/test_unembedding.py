import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from neuronwise.errors import InvalidArgumentError
from neuronwise.sites import NeuronSet, Sites, find_sites, promoted_tokens, unembedding
from neuronwise.sites._trace import trace
from tests.sites.families import build


class Decoder:
    def decode(self, ids):
        return f"<{ids[0]}>"


def byte_level(tokens):
    """A byte-level tokenizer, like GPT-2's, with these tokens and as many others as the model has."""
    letters = sorted(ByteLevel.alphabet())
    words = dict.fromkeys([*tokens, *letters])
    rules = Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    rules.pre_tokenizer, rules.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=rules)


def test_it_is_the_product_with_the_folded_norm():
    model = build("llama")
    site = find_sites(model)[1]
    frame = promoted_tokens(model, NeuronSet.of({site: [4, 9]}), k=3)
    vectors = model.model.layers[1].mlp.down_proj.weight.T * model.model.norm.weight
    logits = (vectors @ model.lm_head.weight.T)[[4, 9]]
    names = ["site", "layer", "neuron", "side", "rank", "token_id", "token", "logit"]
    assert frame.columns.tolist() == names and len(frame) == 2 * 2 * 3
    for number, neuron in enumerate((4, 9)):
        rows = frame[frame["neuron"] == neuron]
        up, down = rows[rows["side"] == "promotes"], rows[rows["side"] == "demotes"]
        order = logits[number].argsort(descending=True).tolist()
        assert up["token_id"].tolist() == order[:3] and up["rank"].tolist() == [0, 1, 2]
        assert down["token_id"].tolist() == order[::-1][:3]
        assert up["logit"].iloc[0] == pytest.approx(logits[number].max().item(), rel=1e-5)
    assert frame["layer"].eq(1).all() and frame["token"].isna().all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "gemma", "phi", "gptj", "bloom"])
def test_a_push_along_the_value_vector_moves_the_logits_that_way(family):
    """The derivative of the logits by the final hidden state agrees, once the norm's own scale is divided out."""
    model = build(family).double()
    site = find_sites(model)[1]
    head = model.get_output_embeddings()
    frame = promoted_tokens(model, NeuronSet.of({site: [5]}), k=head.weight.shape[0])
    found = frame[frame["side"] == "promotes"].set_index("token_id")["logit"].sort_index().to_numpy()
    value = site.value_vectors(model)[5].detach()
    base = next(m for m in model.modules() if hasattr(m, "ln_f") or hasattr(m, "layers") or hasattr(m, "h"))
    norm = next(
        getattr(m, name)
        for m in model.modules()
        for name in ("ln_f", "final_layer_norm", "final_layernorm", "norm")
        if hasattr(m, name) and (hasattr(m, "h") or hasattr(m, "layers"))
    )
    project = getattr(base, "project_out", None)

    def logits(hidden):
        out = norm(hidden)
        out = project(out) if project is not None else out
        return out @ head.weight.T

    # At a hidden state that is orthogonal to the value (and to the mean), only the linear part of the norm acts.
    hidden = torch.randn(value.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    basis = torch.stack([value, value - value.mean()])
    hidden = hidden - hidden.mean()
    hidden = hidden - torch.linalg.lstsq(basis.T, hidden.unsqueeze(1)).solution.squeeze(1) @ basis
    _, moved = torch.autograd.functional.jvp(logits, hidden, value)
    centred = isinstance(norm, nn.LayerNorm)
    scale = (hidden.var(unbiased=False) if centred else hidden.pow(2).mean()).sqrt().item()
    assert found == pytest.approx((moved * scale).detach().numpy(), rel=1e-3, abs=1e-4)


def test_tokens_are_shown_as_text():
    """Of a byte-level tokenizer neither the letters that stand for bytes, nor those for spaces and line ends."""
    model = build("gpt2")
    tokenizer = byte_level(["the", "Ġthe", "Ġ", "Ċ", "Ã©", "Ã", "©"])
    whole = model.get_output_embeddings().weight.shape[0]
    frame = promoted_tokens(model, NeuronSet.of({find_sites(model)[0]: [0]}), tokenizer, k=whole)
    shown = frame.set_index("token_id")["token"]
    shown = shown[~shown.index.duplicated()]
    assert [shown[number] for number in range(7)] == [
        "the",
        " the",
        " ",
        "\n",
        "é",
        "\ufffd",
        "\ufffd",
    ]
    frame = promoted_tokens(model, find_sites(model)[0], Decoder(), k=1)
    assert (frame["token"] == "<" + frame["token_id"].astype(str) + ">").all()


def test_batches_change_nothing_and_k_may_exceed_the_vocabulary():
    model = build("llama")
    whole = promoted_tokens(model, find_sites(model), k=99)
    parts = promoted_tokens(model, find_sites(model), k=99, batch=7)
    assert len(whole) == 2 * 24 * 2 * 50
    assert whole.drop(columns="logit").equals(parts.drop(columns="logit"))
    assert whole["logit"].to_numpy() == pytest.approx(parts["logit"].to_numpy(), rel=1e-5, abs=1e-6)
    assert promoted_tokens(model, NeuronSet()).empty


@pytest.mark.parametrize("family", ["vit", "clip"])
def test_models_without_tokens_say_so(family):
    model = build(family)
    assert unembedding(model) is None
    with pytest.raises(InvalidArgumentError, match="no unembedding"):
        promoted_tokens(model, find_sites(model))


def test_what_cannot_be_read_is_refused():
    assert unembedding(build("llama")) is not None
    assert unembedding(nn.Linear(2, 2)) is None
    albert = build("albert")
    with pytest.raises(InvalidArgumentError, match="reads 8"):
        promoted_tokens(albert, find_sites(albert))
    meta = build("llama", device="meta")
    with pytest.raises(InvalidArgumentError, match="meta device"):
        promoted_tokens(meta, find_sites(meta))
    model = build("llama")
    for wrong in ({"k": 0}, {"batch": 0}):
        with pytest.raises(InvalidArgumentError, match="at least 1"):
            promoted_tokens(model, find_sites(model), **wrong)


def test_sites_of_a_wrapped_model_are_read_too():
    wrapper = nn.ModuleDict({"inner": build("gpt2")})
    assert unembedding(wrapper) is not None and trace(wrapper) is None
    frame = promoted_tokens(wrapper, find_sites(wrapper), k=1)
    plain = promoted_tokens(wrapper["inner"], find_sites(wrapper["inner"]), k=1)
    assert frame["token_id"].tolist() == plain["token_id"].tolist()


def test_sites_read_from_a_table_are_looked_up_in_the_model():
    model = build("llama")
    sites = find_sites(model)
    addresses = Sites.from_frame(sites.to_frame())
    assert addresses[0].writes is None
    assert promoted_tokens(model, addresses[:1]).equals(promoted_tokens(model, sites[:1]))
