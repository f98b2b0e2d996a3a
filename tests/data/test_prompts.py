"""Prompts as batches: the slot's place and the answer's tokens, for every style of model and tokenizer."""

import pytest
import torch

from neuronwise.data import answer_id, encode, load_model, read_fact_model
from neuronwise.errors import DataError, FactError, InvalidArgumentError

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "the capital of France is Paris . the capital of Spain is Madrid , a girl named Lily and New York City"
LONG = [
    "The capital of France is [Y].",
    "the capital is [Y]",
    "the capital of Spain , the girl named Lily , is [Y] .",
]


def fast(backend, **options):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **options)


@pytest.fixture(scope="module")
def wordpiece():
    """In the manner of BERT: WordPiece, [CLS] and [SEP], lower case."""
    words = [*dict.fromkeys(TEXT.lower().split()), "##s", "town"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]")
    )
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {
        name: f"[{name[:-6].upper()}]"
        for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    return fast(backend, **names, model_max_length=24)


@pytest.fixture(scope="module")
def bytelevel():
    """In the manner of GPT-2: byte-level BPE with the space in the token, no special tokens, no padding token."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    backend.train_from_iterator([TEXT, "Yes"] * 4, trainer)
    end = "<|endoftext|>"
    return fast(backend, bos_token=end, eos_token=end, unk_token=end)


@pytest.fixture(scope="module")
def roberta(bytelevel):
    """Byte-level BPE with a mask that takes the space before it."""
    backend = tokenizers.Tokenizer.from_str(bytelevel.backend_tokenizer.to_str())
    backend.add_special_tokens(["<s>", "</s>", "<pad>"])
    backend.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    ids = {name: backend.token_to_id(name) for name in ("<s>", "</s>")}
    backend.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
    )
    return fast(backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", mask_token="<mask>")


@pytest.fixture(scope="module")
def unigram():
    """In the manner of T5: SentencePiece with sentinels and </s> at the end."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys(TEXT.split())]
    pieces += [(letter, -8.0) for letter in sorted({*TEXT.replace(" ", "")} | {"."})]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    backend.add_special_tokens(["<extra_id_0>", "<extra_id_1>"])
    return fast(backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny(kind, vocabulary):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=vocabulary, max_position_embeddings=24, **size)
        model = transformers.BertForMaskedLM(config)
    elif kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocabulary,
            n_positions=32,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocabulary, **size))
    elif kind == "t5":
        config = transformers.T5Config(
            vocab_size=vocabulary,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.BartConfig(
            vocab_size=vocabulary, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24,
            decoder_ffn_dim=24, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32,
            pad_token_id=0, bos_token_id=0, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
    return model.double().eval()


@pytest.fixture(scope="module", params=["bert", "roberta", "gpt2", "llama", "t5", "bart"])
def pair(request, wordpiece, bytelevel, roberta, unigram):
    """A tokenizer and a tiny random model of its kind."""
    tokenizer = {
        "bert": wordpiece,
        "roberta": roberta,
        "gpt2": bytelevel,
        "t5": unigram,
        "bart": bytelevel,
    }.get(request.param)
    if tokenizer is None:
        tokenizer = load_model("stories260k").tokenizer
    kind = "bert" if request.param == "roberta" else request.param
    return tokenizer, tiny(kind, len(tokenizer))


@torch.no_grad()
def at_answers(model, prompts):
    """The model's log probabilities (prompt, answer token, vocabulary) where the answers are predicted."""
    logits = model(**prompts.inputs).logits
    rows = torch.arange(len(prompts))[:, None]
    return logits[rows, prompts.positions.clamp(min=0)].log_softmax(-1)


def log_probability(model, prompts):
    """The log probability of each answer: the sum over its tokens."""
    table = at_answers(model, prompts)
    each = table.gather(-1, prompts.answers.clamp(min=0)[..., None])[..., 0]
    return each.masked_fill(prompts.answers < 0, 0.0).sum(-1)


# --- every style


def test_a_padded_batch_is_the_same_as_single_prompts(pair):
    tokenizer, model = pair
    answers = ["Paris", "Madrid", "Lily"]
    if "Llama" in type(model).__name__:
        answers = ["Tim", "little", "big"]
    batch = encode(tokenizer, model, LONG, answers)
    lengths = batch.inputs["attention_mask"].sum(1)
    assert (
        len(set(lengths.tolist())) == 3
        and batch.inputs["attention_mask"].shape == batch.inputs["input_ids"].shape
    )
    together = at_answers(model, batch)
    for row, (text, answer) in enumerate(zip(LONG, answers, strict=True)):
        alone = encode(tokenizer, model, [text], answer)
        assert alone.inputs["attention_mask"].all()
        torch.testing.assert_close(at_answers(model, alone)[0], together[row], rtol=0, atol=1e-10)
        assert alone.answers.tolist() == batch.answers[row : row + 1].tolist()
        assert alone.positions.tolist() == batch.positions[row : row + 1].tolist()


def test_the_slot_alone_is_enough_where_something_comes_before_it(pair):
    tokenizer, model = pair
    answer = "big" if "Llama" in type(model).__name__ else "the"
    if model.config.model_type in ("gpt2", "bart"):
        with pytest.raises(FactError, match="nothing to predict the answer from"):
            encode(tokenizer, model, ["[Y]"], answer)
        return
    prompts = encode(tokenizer, model, ["[Y]"], answer)
    assert torch.isfinite(log_probability(model, prompts)).all()


def test_an_answer_for_all_prompts_or_one_each(pair):
    tokenizer, model = pair
    answer = "big" if "Llama" in type(model).__name__ else "Lily"
    assert torch.equal(
        encode(tokenizer, model, ["the [Y]", "a [Y]"], answer).answers,
        encode(tokenizer, model, ["the [Y]", "a [Y]"], [answer, answer]).answers,
    )
    with pytest.raises(InvalidArgumentError, match="2 prompts, but 1 answers"):
        encode(tokenizer, model, ["the [Y]", "a [Y]"], [answer])
    with pytest.raises(InvalidArgumentError, match="no prompt"):
        encode(tokenizer, model, [], [])


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ("the capital is", "Paris", "'the capital is' has no slot"),
        ("[Y] is [Y]", "Paris", "has 2 slots"),
        ("the capital is [Y]", "", "answer must be text"),
        ("the capital is [Y]", " Paris", "space before it belongs to the prompt"),
        ("the " * 600 + "[Y]", "Paris", "too long.*slot would be cut off"),
    ],
)
def test_prompts_and_answers_that_cannot_be_used(pair, prompt, answer, message):
    tokenizer, model = pair
    if len(prompt) > 600:
        prompt, answer = "a " * 1200 + "[Y]", "big" if "Llama" in type(model).__name__ else answer
        if model.config.model_type in ("llama", "t5"):
            with pytest.raises(FactError, match=message):
                encode(tokenizer, model, [prompt], answer, max_length=40)
            return
    with pytest.raises(FactError, match=message) as caught:
        encode(tokenizer, model, [prompt], answer)
    assert isinstance(caught.value, DataError)


# --- masked models


def test_masked_prompts(wordpiece):
    model = tiny("bert", len(wordpiece))
    prompts = encode(
        wordpiece, model, ["[Y] is the capital of France.", "The capital is [Y]"], ["paris", "Madrid"]
    )
    assert prompts.masked and prompts.texts[1] == "The capital is [Y]" and len(prompts) == 2
    shown = [wordpiece.convert_ids_to_tokens(row.tolist()) for row in prompts.inputs["input_ids"]]
    assert shown[0] == ["[CLS]", "[MASK]", "is", "the", "capital", "of", "france", ".", "[SEP]"]
    assert shown[1] == ["[CLS]", "the", "capital", "is", "[MASK]", "[SEP]", *["[PAD]"] * 3]
    assert prompts.positions.tolist() == [[1], [4]]
    assert wordpiece.convert_ids_to_tokens(prompts.answers[:, 0].tolist()) == ["paris", "madrid"]
    with pytest.raises(
        FactError, match=r"'girls' is 2 tokens, \['girl', '##s'\].*A masked model fills in one token"
    ):
        encode(wordpiece, model, ["a [Y]"], "girls", multi_token=True)
    with pytest.raises(FactError, match=r"does not know the answer 'Berlin': it becomes \['\[UNK\]'\]"):
        encode(wordpiece, model, ["a [Y]"], "Berlin")
    with pytest.raises(FactError, match="has that token 2 times"):
        encode(wordpiece, model, ["a [MASK] [Y]"], "girl")
    with pytest.raises(InvalidArgumentError, match="for causal models"):
        encode(wordpiece, model, ["a [Y]"], "girl", padding_side="left")


def test_the_space_before_a_mask_belongs_to_the_answer(roberta):
    model = tiny("bert", len(roberta))
    prompts = encode(roberta, model, ["the capital is [Y] .", "the capital,[Y]"], ["Paris", ","])
    assert roberta.convert_ids_to_tokens(prompts.answers[:, 0].tolist()) == ["ĠParis", ","]
    mask = prompts.inputs["input_ids"] == roberta.mask_token_id
    assert (
        mask.sum(1).tolist() == [1, 1] and mask.nonzero()[:, 1].tolist() == prompts.positions[:, 0].tolist()
    )
    shown = roberta.convert_ids_to_tokens(prompts.inputs["input_ids"][0].tolist())
    assert shown[shown.index("<mask>") - 1] == "Ġis"


def test_what_follows_the_slot_is_cut_and_the_slot_is_not(wordpiece):
    model = tiny("bert", len(wordpiece))
    text = "the capital [Y] " + "is " * 40
    prompts = encode(wordpiece, model, [text], "Paris", max_length=8)
    shown = wordpiece.convert_ids_to_tokens(prompts.inputs["input_ids"][0].tolist())
    assert shown == ["[CLS]", "the", "capital", "[MASK]", "is", "is", "is", "[SEP]"]
    assert encode(wordpiece, model, [text], "Paris").inputs["input_ids"].shape == (1, 24), "the model's limit"
    assert encode(wordpiece, model, [text], "Paris", max_length=5).positions.tolist() == [[3]]
    with pytest.raises(FactError, match="up to its slot it takes 5 tokens and 4 are allowed"):
        encode(wordpiece, model, [text], "Paris", max_length=4)
    with pytest.raises(InvalidArgumentError, match="max_length must be 1 or more"):
        encode(wordpiece, model, [text], "Paris", max_length=0)


# --- causal models


def test_causal_prompts(bytelevel):
    model = tiny("gpt2", len(bytelevel))
    prompts = encode(bytelevel, model, ["the capital of France is [Y].", "Yes, [Y]"], ["Paris", "the"])
    assert not prompts.masked and prompts.positions.tolist() == [[4], [1]]
    assert bytelevel.convert_ids_to_tokens(prompts.answers[:, 0].tolist()) == ["ĠParis", "Ġthe"]
    assert prompts.inputs["input_ids"][1, 2:].tolist() == [bytelevel.eos_token_id] * 3, (
        "no padding token: the end's"
    )
    with pytest.raises(FactError, match=r"goes on after its slot, with 'is big'"):
        encode(bytelevel, model, ["the [Y] is big"], "Paris")


def test_an_answer_that_is_one_token_only_without_the_space(bytelevel):
    model = tiny("gpt2", len(bytelevel))
    (token,) = bytelevel("Yes")["input_ids"]
    assert encode(bytelevel, model, ["the,[Y]"], "Yes").answers.tolist() == [[token]]
    with pytest.raises(
        FactError,
        match=r"'Yes' is \d tokens.*one token, \['Yes'\], at the start of a text, but here.*after a space",
    ):
        encode(bytelevel, model, ["the [Y]"], "Yes")
    with pytest.raises(
        FactError, match=r"'Paris' is \d tokens.*one token, \['ĠParis'\], after a space, but here"
    ):
        encode(bytelevel, model, ["the,[Y]"], "Paris")


def test_an_answer_that_grows_together_with_the_text_before_it(bytelevel, wordpiece):
    for tokenizer, kind in ((bytelevel, "gpt2"), (wordpiece, "bert")):
        model = tiny(kind, len(tokenizer))
        with pytest.raises(
            FactError, match=r"cannot be told apart from the text before it, 'the capi'.*space before"
        ):
            encode(tokenizer, model, ["the capi[Y]"], "tal")


def test_an_answer_of_several_tokens_needs_to_be_asked_for(bytelevel):
    model = tiny("gpt2", len(bytelevel))
    with pytest.raises(
        FactError, match=r"'New York' is 2 tokens, \['ĠNew', 'ĠYork'\], not one\. multi_token=True"
    ):
        encode(bytelevel, model, ["a girl and [Y]"], "New York")


@torch.no_grad()
def step_by_step(model, ids, answer, **more):
    """The answer's log probability, one token and one forward pass after the other."""
    total = 0.0
    for token in answer:
        key = "decoder_input_ids" if more else "input_ids"
        logits = model(**more, **{key: torch.tensor([ids])}).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("side", ["right", "left"])
def test_answers_of_several_tokens_are_teacher_forced(bytelevel, side):
    model = tiny("gpt2", len(bytelevel))
    texts = ["a girl and [Y]", "the capital of France is [Y].", "Lily, [Y]"]
    answers = ["New York City", "Paris", "Madrid, a"]
    prompts = encode(bytelevel, model, texts, answers, multi_token=True, padding_side=side)
    assert prompts.answers.shape == prompts.positions.shape == (3, 3)
    assert (prompts.answers < 0).sum(1).tolist() == [0, 2, 0]
    assert torch.equal(prompts.answers < 0, prompts.positions < 0)
    found = log_probability(model, prompts)
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        before = bytelevel(text.partition(" [Y]")[0])["input_ids"]
        tokens = bytelevel(f" {answer}")["input_ids"]
        assert prompts.answers[row][: len(tokens)].tolist() == tokens
        assert found[row].item() == pytest.approx(step_by_step(model, before, tokens), abs=1e-10)
    assert ("position_ids" in prompts.inputs) == (side == "left")


def test_a_beginning_token_is_kept_and_an_ending_one_dropped(bytelevel):
    backend = tokenizers.Tokenizer.from_str(bytelevel.backend_tokenizer.to_str())
    end = "<|endoftext|>"
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{end} $A {end}", special_tokens=[(end, backend.token_to_id(end))]
    )
    tokenizer = fast(backend, bos_token=end, eos_token=end)
    prompts = encode(tokenizer, tiny("gpt2", len(tokenizer)), ["the [Y]", "[Y]"], ["Paris", "the"])
    shown = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in prompts.inputs["input_ids"]]
    assert shown == [[end, "the"], [end, end]] and prompts.positions.tolist() == [[1], [0]]
    assert prompts.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_the_stories_model_knows_lily():
    loaded = load_model("stories260k")
    prompts = encode(
        loaded.tokenizer,
        loaded.model,
        ["Once upon a time, there was a little girl named [Y]", "One day, a girl named [Y]."],
        "Lily",
    )
    assert loaded.tokenizer.convert_ids_to_tokens(prompts.answers[:, 0].tolist()) == ["▁Lily"] * 2
    assert prompts.inputs["input_ids"][:, 0].tolist() == [loaded.tokenizer.bos_token_id] * 2
    assert log_probability(loaded.model, prompts).exp()[0].item() == pytest.approx(0.93, abs=0.01)


@pytest.mark.parametrize("name", ["fact-gpt", "fact-bert"])
def test_the_bundled_fact_models_know_their_facts(name):
    loaded, known = load_model(name), read_fact_model(name)
    assert loaded.name == name
    accuracy = {}
    for field in ("prompts", "held_out"):
        pairs = [(text, fact.answer) for fact in known[::7] for text in getattr(fact, field)]
        prompts = encode(loaded.tokenizer, loaded.model, *zip(*pairs, strict=True))
        assert prompts.masked == (name == "fact-bert")
        found = at_answers(loaded.model, prompts)[:, 0].argmax(-1)
        accuracy[field] = (found == prompts.answers[:, 0]).double().mean().item()
    assert accuracy["prompts"] > 0.999
    assert accuracy["held_out"] > 0.82


def test_words_that_the_fact_models_do_not_have():
    loaded = load_model("fact-gpt")
    with pytest.raises(FactError, match=r"does not know the answer 'Atlantis'"):
        encode(loaded.tokenizer, loaded.model, ["The capital of France is [Y]"], "Atlantis")


# --- encoder-decoders


def test_prompts_with_a_sentinel(unigram):
    model = tiny("t5", len(unigram))
    texts, answers = ["the capital [Y] is New", "[Y] is the capital"], ["Paris", "New York City"]
    prompts = encode(unigram, model, texts, answers, multi_token=True)
    assert not prompts.masked and prompts.positions.tolist() == [[1, -1, -1], [1, 2, 3]]
    assert unigram.convert_ids_to_tokens(prompts.answers[1].tolist()) == ["▁New", "▁York", "▁City"]
    shown = unigram.convert_ids_to_tokens(prompts.inputs["input_ids"][0].tolist())
    assert shown.count("<extra_id_0>") == 1 and shown[-1] == "</s>"
    sentinel = unigram.convert_tokens_to_ids("<extra_id_0>")
    assert prompts.inputs["decoder_input_ids"][:, :2].tolist() == [[0, sentinel]] * 2
    found = log_probability(model, prompts)
    for row, text in enumerate(texts):
        ids = torch.tensor([unigram(text.replace("[Y]", "<extra_id_0>"))["input_ids"]])
        tokens = [token for token in prompts.answers[row].tolist() if token >= 0]
        direct = step_by_step(model, [0, sentinel], tokens, input_ids=ids)
        assert found[row].item() == pytest.approx(direct, abs=1e-10)


def test_prompts_without_a_sentinel(bytelevel):
    model = tiny("bart", len(bytelevel))
    prompts = encode(
        bytelevel, model, ["a girl and [Y] .", "the [Y]"], ["New York", "Paris"], multi_token=True
    )
    assert prompts.positions.tolist() == [[0, 1], [0, -1]]
    assert prompts.inputs["decoder_input_ids"][:, 0].tolist() == [1, 1]
    ids = torch.tensor([bytelevel("a girl and")["input_ids"]])
    tokens = bytelevel(" New York")["input_ids"]
    direct = step_by_step(model, [1], tokens, input_ids=ids)
    assert log_probability(model, prompts)[0].item() == pytest.approx(direct, abs=1e-10)
    with pytest.raises(FactError, match="goes on after its slot"):
        encode(bytelevel, model, ["the [Y] of France"], "capital")
    model.config.decoder_start_token_id = None
    with pytest.raises(FactError, match="no decoder_start_token_id"):
        encode(bytelevel, model, ["the [Y]"], "Paris")


# --- the rest


def test_the_style_is_told_from_the_model(wordpiece, bytelevel):
    class Plain(torch.nn.Module):
        pass

    assert encode(wordpiece, Plain(), ["a [Y]"], "girl").masked
    assert not encode(wordpiece, Plain(), ["a [Y]"], "girl", style="causal").masked
    assert not encode(wordpiece, tiny("gpt2", len(wordpiece)), ["a [Y]"], "girl").masked
    assert not encode(bytelevel, Plain(), ["a [Y]"], "girl").masked
    with pytest.raises(FactError, match=r"no mask token.*style='causal'"):
        encode(bytelevel, tiny("bert", len(bytelevel)), ["a [Y]"], "girl")
    for options in ({"style": "mask"}, {"padding_side": "up"}):
        with pytest.raises(InvalidArgumentError, match="must be"):
            encode(wordpiece, Plain(), ["a [Y]"], "girl", **options)


def test_selecting_and_moving(bytelevel):
    model = tiny("gpt2", len(bytelevel))
    texts = ["the [Y]", "the capital of France is [Y]", "a girl named [Y]"]
    prompts = encode(bytelevel, model, texts, ["capital", "Paris", "Lily"])
    for rows, expected in (
        ([2, 0], [2, 0]),
        (slice(1, None), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
    ):
        part = prompts.select(rows)
        assert part.texts == tuple(texts[row] for row in expected)
        assert torch.equal(part.positions, prompts.positions[expected])
        assert torch.equal(part.answers, prompts.answers[expected])
        assert all(torch.equal(part.inputs[name], prompts.inputs[name][expected]) for name in prompts.inputs)
    moved = prompts.to("meta")
    assert moved.positions.is_meta and all(tensor.is_meta for tensor in moved.inputs.values())
    assert repr(prompts) == "<Prompts: 3 prompts, written on, input_ids (3, 5), attention_mask (3, 5)>"


def test_the_token_of_an_answer(bytelevel, wordpiece):
    assert bytelevel.convert_ids_to_tokens(answer_id(bytelevel, "Paris")) == "ĠParis"
    assert bytelevel.convert_ids_to_tokens(answer_id(bytelevel, "Yes", before="")) == "Yes"
    assert wordpiece.convert_ids_to_tokens(answer_id(wordpiece, "Paris")) == "paris"
    for answer, message in (("New York", "Choose an answer that is one token"), (" Paris", "space around")):
        with pytest.raises(FactError, match=message):
            answer_id(bytelevel, answer)


def test_a_tokenizer_that_changes_a_text_with_its_special_tokens_is_named():
    class Odd:
        def __call__(self, texts, *, add_special_tokens, **options):
            return {
                "input_ids": [[5, 1, 6] if add_special_tokens else [2] * len(text.split()) for text in texts]
            }

        pad_token_id = eos_token_id = unk_token_id = mask_token = None

    with pytest.raises(FactError, match=r"Odd changes a text's tokens.*\[2\] becomes \[5, 1, 6\]"):
        encode(Odd(), torch.nn.Linear(1, 1), ["a [Y]"], "b", style="causal")
