"""Tiny random models of the families in the table of architectures, one batch for each."""

from dataclasses import dataclass

import pytest
import torch

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
VISION = {name: size for name, size in SIZES.items() if name != "vocab_size"} | {
    "image_size": 8,
    "patch_size": 4,
}
GPT = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Row:
    """What is true of one family: sites in all, their stacks, and the roles of what they read."""

    config: str
    model: str
    options: dict
    stacks: tuple[str, ...]
    sites: int = 2
    roles: tuple[str, ...] = ("in",)
    inputs: str = "text"


GATED = ("gate", "up")
FAMILIES = {
    "bert": Row("BertConfig", "BertForMaskedLM", SIZES, ("bert.encoder.layer",)),
    "roberta": Row("RobertaConfig", "RobertaForMaskedLM", SIZES, ("roberta.encoder.layer",)),
    "electra": Row("ElectraConfig", "ElectraForMaskedLM", SIZES, ("electra.encoder.layer",)),
    "distilbert": Row(
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
        ("distilbert.transformer.layer",),
    ),
    "albert": Row(
        "AlbertConfig",
        "AlbertForMaskedLM",
        SIZES | {"embedding_size": 8, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
        ("albert.encoder.albert_layer_groups",),
        sites=8,
    ),
    "gpt2": Row("GPT2Config", "GPT2LMHeadModel", GPT, ("transformer.h",)),
    "gptj": Row("GPTJConfig", "GPTJForCausalLM", GPT | {"rotary_dim": 4}, ("transformer.h",)),
    "gpt_neox": Row("GPTNeoXConfig", "GPTNeoXForCausalLM", SIZES, ("gpt_neox.layers",)),
    "bloom": Row(
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": 50, "hidden_size": 6, "n_layer": 2, "n_head": 2},
        ("transformer.h",),
    ),
    "opt": Row(
        "OPTConfig",
        "OPTForCausalLM",
        {k: v for k, v in SIZES.items() if k != "intermediate_size"}
        | {"ffn_dim": 24, "word_embed_proj_dim": 8},
        ("model.decoder.layers",),
    ),
    "bart": Row(
        "BartConfig",
        "BartForConditionalGeneration",
        {"vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        | {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 2},
        ("model.encoder.layers", "model.decoder.layers"),
        inputs="pairs",
    ),
    "llama": Row("LlamaConfig", "LlamaForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "mistral": Row("MistralConfig", "MistralForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "qwen2": Row("Qwen2Config", "Qwen2ForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "qwen3": Row("Qwen3Config", "Qwen3ForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "gemma": Row("GemmaConfig", "GemmaForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "gemma2": Row("Gemma2Config", "Gemma2ForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "gemma3": Row("Gemma3TextConfig", "Gemma3ForCausalLM", GROUPED, ("model.layers",), roles=GATED),
    "phi": Row("PhiConfig", "PhiForCausalLM", SIZES, ("model.layers",)),
    "phi3": Row("Phi3Config", "Phi3ForCausalLM", SIZES | SPECIAL, ("model.layers",), roles=GATED),
    "modernbert": Row(
        "ModernBertConfig", "ModernBertForMaskedLM", SIZES | SPECIAL, ("model.layers",), roles=GATED
    ),
    "t5": Row(
        "T5Config",
        "T5ForConditionalGeneration",
        T5,
        ("encoder.block", "decoder.block"),
        sites=4,
        inputs="pairs",
    ),
    "t5-gated": Row(
        "T5Config",
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu"},
        ("encoder.block", "decoder.block"),
        sites=4,
        roles=GATED,
        inputs="pairs",
    ),
    "vit": Row("ViTConfig", "ViTForImageClassification", VISION, ("vit.layers",), inputs="images"),
    "clip": Row(
        "CLIPConfig",
        "CLIPModel",
        {"text_config": SIZES, "vision_config": VISION, "projection_dim": 8},
        ("text_model.encoder.layers", "vision_model.encoder.layers"),
        sites=4,
        inputs="both",
    ),
}


def build(family, *, device="cpu"):
    """Make the tiny model of a family, its weights and biases random, in evaluation mode."""
    row = FAMILIES[family]
    config = getattr(transformers, row.config)(**row.options)
    torch.manual_seed(0)
    with torch.device(device):
        model = getattr(transformers, row.model)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def batch(family):
    """Make keyword arguments for one forward pass."""
    ids = torch.arange(3, 13).view(2, 5)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kinds = {
        "text": {"input_ids": ids},
        "pairs": {"input_ids": ids, "decoder_input_ids": ids[:, :3]},
        "images": {"pixel_values": images},
        "both": {"input_ids": ids, "pixel_values": images},
    }
    return kinds[FAMILIES[family].inputs]
