"""Torch models of every family with random weights, unusual sizes and options, and their outputs."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

SIZES = dict(vocab_size=67, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
SHIFTED = dict(SIZES, bos_token_id=0, eos_token_id=2, pad_token_id=1)  # RoBERTa's special ids
ENDS = dict(bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2, pad_token_id=0)
DISTIL = dict(vocab_size=67, dim=24, n_heads=4, hidden_dim=20)
FIVE = dict(num_labels=5)
PROTEINS = dict(SIZES, num_attention_heads=6, pad_token_id=1)
T5 = dict(vocab_size=67, d_model=24, d_ff=40, num_heads=3)

# family -> its models' settings; the first of each is tried with every head.
MODELS: dict[str, list[dict[str, Any]]] = {
    "bert": [
        dict(SIZES, max_position_embeddings=33, hidden_act="relu", layer_norm_eps=1e-5, **FIVE),
        dict(SIZES, type_vocab_size=5, num_hidden_layers=1, hidden_act="gelu_new"),
        dict(SIZES, num_attention_heads=1, intermediate_size=7, hidden_act="silu", tie_word_embeddings=False),
    ],
    "roberta": [
        dict(SHIFTED, max_position_embeddings=35, type_vocab_size=1, layer_norm_eps=1e-5, **FIVE),
        dict(SHIFTED, num_hidden_layers=3, type_vocab_size=2),
        dict(SHIFTED, num_attention_heads=12, intermediate_size=11, type_vocab_size=1, tie_word_embeddings=False),
    ],
    "xlm-roberta": [dict(SHIFTED, num_attention_heads=6, type_vocab_size=3)],
    "camembert": [dict(SHIFTED, type_vocab_size=1)],
    "distilbert": [
        dict(DISTIL, n_layers=2, activation="gelu", **FIVE),
        dict(DISTIL, n_layers=1, n_heads=2, hidden_dim=50, activation="relu", max_position_embeddings=19),
        dict(DISTIL, n_layers=3, n_heads=1, activation="gelu", tie_word_embeddings=False),
    ],
    "albert": [
        dict(SIZES, num_hidden_layers=3, embedding_size=10, hidden_act="gelu_new", max_position_embeddings=40),
        dict(SIZES, num_hidden_layers=4, num_hidden_groups=2, embedding_size=24, hidden_act="relu", **FIVE),
        dict(SIZES, num_hidden_groups=2, inner_group_num=2, embedding_size=36, hidden_act="gelu", type_vocab_size=3),
    ],
    "electra": [
        dict(SIZES, embedding_size=10, hidden_act="relu", **FIVE),
        dict(SIZES, embedding_size=24, num_hidden_layers=1, type_vocab_size=1, layer_norm_eps=1e-5),
        dict(SIZES, embedding_size=40, num_attention_heads=1, hidden_act="gelu_new", max_position_embeddings=21),
    ],
    "mpnet": [
        dict(SHIFTED, num_attention_heads=4, type_vocab_size=1, **FIVE),
        dict(SHIFTED, num_attention_heads=2, layer_norm_eps=1e-5),
        dict(SHIFTED, num_hidden_layers=1, max_position_embeddings=21),
    ],
    "modernbert": [
        dict(SIZES, **ENDS, num_hidden_layers=3, global_attn_every_n_layers=2, local_attention=8, **FIVE),
        dict(
            SIZES, **ENDS, global_attn_every_n_layers=2, local_attention=6, norm_bias=True, attention_bias=True,
            mlp_bias=True, classifier_bias=True, hidden_activation="silu", classifier_activation="relu",
            classifier_pooling="mean",
        ),
        dict(SIZES, **ENDS, num_hidden_layers=5, mlp_bias=True, decoder_bias=False, tie_word_embeddings=False),
    ],
    "nomic_bert": [
        dict(SIZES, num_attention_heads=2, hidden_act="silu", **FIVE),
        dict(SIZES, num_attention_heads=4, hidden_act="gelu", num_hidden_layers=1, type_vocab_size=4),
        dict(SIZES, num_attention_heads=6, rope_parameters=dict(rope_type="default", rope_theta=77.0)),
    ],
    "eurobert": [
        dict(SIZES, **ENDS, num_attention_heads=6, num_key_value_heads=2, **FIVE),
        dict(SIZES, **ENDS, num_attention_heads=4, attention_bias=True, mlp_bias=True, classifier_pooling="bos"),
        dict(
            SIZES, **ENDS, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu",
            classifier_pooling="mean", rope_parameters=dict(rope_type="default", rope_theta=250_000.0),
        ),
    ],
    "gte": [
        dict(SIZES, num_attention_heads=2, type_vocab_size=2, **FIVE),
        dict(SIZES, num_attention_heads=6, type_vocab_size=0, hidden_act="silu", layer_norm_eps=1e-5),
        dict(SIZES, num_attention_heads=4, num_hidden_layers=1, type_vocab_size=1, intermediate_size=7,
             rope_parameters=dict(rope_type="linear", rope_theta=77.0, factor=1.5), tie_word_embeddings=False),
    ],
    "gemma3_text": [
        dict(
            SIZES, **ENDS, num_hidden_layers=4, num_key_value_heads=1, head_dim=10, query_pre_attn_scalar=7,
            sliding_window=8, sliding_window_pattern=3, use_bidirectional_attention=True,
        ),
        dict(
            SIZES, **ENDS, num_key_value_heads=3, head_dim=8, sliding_window=4, sliding_window_pattern=2,
            num_hidden_layers=3, attention_bias=True, hidden_activation="silu", rms_norm_eps=1e-4,
        ),
        dict(
            SIZES, **ENDS, num_attention_heads=4, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16,
            sliding_window=5, use_bidirectional_attention=True, tie_word_embeddings=False,
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=500.0, factor=2.0),
                sliding_attention=dict(rope_type="default", rope_theta=90.0),
            ),
        ),
    ],
    "qwen3": [
        dict(SIZES, **ENDS, num_attention_heads=6, num_key_value_heads=2, head_dim=10, tie_word_embeddings=True),
        dict(
            SIZES, **ENDS, num_attention_heads=4, num_key_value_heads=1, head_dim=6, attention_bias=True,
            is_causal=False, rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0),
        ),
        dict(
            SIZES, **ENDS, num_hidden_layers=3, num_key_value_heads=3, head_dim=8, use_sliding_window=True,
            sliding_window=4, max_window_layers=1, hidden_act="gelu", rms_norm_eps=1e-4,
        ),
    ],
    "llama": [
        dict(SIZES, **ENDS, num_attention_heads=6, num_key_value_heads=2, is_causal=False),
        dict(SIZES, **ENDS, num_attention_heads=4, head_dim=10, attention_bias=True, mlp_bias=True, is_causal=False),
        dict(SIZES, **ENDS, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu"),
    ],
    "mistral": [
        dict(SIZES, **ENDS, num_attention_heads=6, num_key_value_heads=2, sliding_window=None, is_causal=False),
        dict(SIZES, **ENDS, num_attention_heads=4, num_key_value_heads=4, head_dim=10, sliding_window=5),
        dict(SIZES, **ENDS, num_key_value_heads=1, sliding_window=3, is_causal=False, tie_word_embeddings=True),
    ],
    "t5": [
        dict(T5, d_kv=10, num_layers=2),
        dict(T5, d_kv=8, num_layers=1, feed_forward_proj="gated-gelu", relative_attention_num_buckets=8),
        dict(T5, d_kv=4, num_layers=3, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-4),
    ],
    "umt5": [
        dict(T5, d_kv=10, num_layers=2),
        dict(T5, d_kv=8, num_layers=1, feed_forward_proj="relu"),
        dict(T5, d_kv=4, num_layers=3, relative_attention_num_buckets=8, layer_norm_epsilon=1e-4),
    ],
    "mt5": [dict(T5, d_kv=6, num_layers=1, feed_forward_proj="gated-gelu")],
    "xlm-roberta-xl": [
        dict(SHIFTED, max_position_embeddings=35, type_vocab_size=1, **FIVE),
        dict(SHIFTED, num_hidden_layers=3, type_vocab_size=2, hidden_act="relu"),
        dict(SHIFTED, num_attention_heads=4, intermediate_size=7, type_vocab_size=1, tie_word_embeddings=False),
    ],
    "roberta-prelayernorm": [
        dict(SHIFTED, max_position_embeddings=35, type_vocab_size=1, **FIVE),
        dict(SHIFTED, num_hidden_layers=1, type_vocab_size=2, layer_norm_eps=1e-5, hidden_act="silu"),
        dict(SHIFTED, num_attention_heads=2, intermediate_size=7, tie_word_embeddings=False),
    ],
    "megatron-bert": [
        dict(SIZES, max_position_embeddings=33, hidden_act="relu", layer_norm_eps=1e-5, **FIVE),
        dict(SIZES, type_vocab_size=5, num_hidden_layers=1, hidden_act="gelu_new"),
        dict(SIZES, num_attention_heads=1, intermediate_size=7, tie_word_embeddings=False),
    ],
    "ernie": [
        dict(SIZES, use_task_id=True, max_position_embeddings=33, hidden_act="relu", **FIVE),
        dict(SIZES, use_task_id=True, task_type_vocab_size=5, type_vocab_size=4, num_hidden_layers=1),
        dict(SIZES, num_attention_heads=1, intermediate_size=7, tie_word_embeddings=False),
    ],
    "esm": [
        dict(PROTEINS, position_embedding_type="rotary", token_dropout=True, mask_token_id=32, **FIVE),
        dict(PROTEINS, emb_layer_norm_before=True, num_hidden_layers=1, max_position_embeddings=30),
        dict(
            PROTEINS, position_embedding_type="rotary", num_attention_heads=2, rope_theta=77.0, layer_norm_eps=1e-5,
            emb_layer_norm_before=True, token_dropout=True, mask_token_id=5,
        ),
    ],
    "jina_embeddings_v3": [
        dict(SHIFTED, num_attention_heads=4, type_vocab_size=1, **FIVE),
        dict(SHIFTED, num_attention_heads=6, num_hidden_layers=3, type_vocab_size=3, hidden_act="relu"),
        dict(SHIFTED, num_attention_heads=2, intermediate_size=7, type_vocab_size=2, layer_norm_eps=1e-12,
             rope_parameters=dict(rope_type="linear", rope_theta=77.0, factor=1.5), tie_word_embeddings=False),
    ],
    "ultrabert": [
        dict(SIZES, **ENDS, num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=3, sliding_window=4,
             prediction_head_size=10, **FIVE),
        dict(SIZES, **ENDS, num_attention_heads=4, num_hidden_layers=4, sliding_window=3, attention_bias=True,
             mlp_bias=True, prediction_head_size=30, classifier_pooling="mean",
             layer_types=["full_attention", "sliding_attention"] * 2),
        dict(
            SIZES, **ENDS, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, hidden_act="gelu",
            layer_types=["full_attention"] * 2, prediction_head_size=7, rms_norm_eps=1e-4,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=500.0, factor=2.0),
                sliding_attention=dict(rope_type="default", rope_theta=90.0),
            ),
        ),
    ],
    "roformer": [
        dict(SIZES, num_attention_heads=2, embedding_size=10, rotary_value=True, hidden_act="relu", **FIVE),
        dict(SIZES, num_attention_heads=6, embedding_size=24, num_hidden_layers=1),
        dict(SIZES, num_attention_heads=4, type_vocab_size=5, hidden_act="gelu_new", max_position_embeddings=23),
    ],
    "longformer": [
        dict(SHIFTED, attention_window=[4, 8], type_vocab_size=1, max_position_embeddings=26, **FIVE),
        dict(SHIFTED, num_hidden_layers=3, attention_window=6, type_vocab_size=3, hidden_act="relu"),
        dict(
            SHIFTED, num_hidden_layers=5, attention_window=[4, 12, 4, 12, 4], num_attention_heads=4, type_vocab_size=1,
            intermediate_size=7, layer_norm_eps=1e-5, tie_word_embeddings=False,
        ),
    ],
    "deberta": [
        dict(SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False, **FIVE),
        dict(
            SIZES, relative_attention=True, pos_att_type=["p2c"], max_relative_positions=6, type_vocab_size=3,
            max_position_embeddings=30, pooler_hidden_act="tanh", hidden_act="relu",
        ),
        dict(SIZES, num_attention_heads=2, num_hidden_layers=1, layer_norm_eps=1e-3, type_vocab_size=2),
    ],
    "deberta-v2": [
        dict(
            SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
            position_buckets=6, max_position_embeddings=14, share_att_key=True, norm_rel_ebd="layer_norm", **FIVE,
        ),
        dict(
            SIZES, relative_attention=True, pos_att_type="c2p|p2c", position_buckets=8, max_relative_positions=40,
            conv_kernel_size=3, conv_act="gelu", conv_groups=2, type_vocab_size=2, hidden_act="gelu_new",
        ),
        dict(
            SIZES, num_attention_heads=2, relative_attention=True, pos_att_type=["c2p"], max_relative_positions=9,
            conv_kernel_size=5, legacy=False, pooler_hidden_act="tanh",
        ),
    ],
}  # fmt: skip

# What each class gives: the attributes of its output -> our names.
OUTPUTS = {
    "Model": {"pooler_output": "pooled"},
    "ForMaskedLM": {"logits": "mlm_logits"},
    "ForPreTraining": {
        "prediction_logits": "mlm_logits", "seq_relationship_logits": "nsp_logits", "sop_logits": "nsp_logits",
        "logits": "rtd_logits",
    },
    "ForNextSentencePrediction": {"logits": "nsp_logits"},
    "ForSequenceClassification": {"logits": "logits"},
    "ForTokenClassification": {"logits": "logits"},
    "ForQuestionAnswering": {"start_logits": "start_logits", "end_logits": "end_logits"},
    "ForMultipleChoice": {"logits": "logits"},
}  # fmt: skip
DECODERS = {"gemma3_text", "qwen3", "llama", "mistral"}  # their head of the vocabulary is that of a decoder
ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}  # of encoder-decoders, without a head
NONE = {  # classes that a family does not have, or whose head has a test of its own (test_score_head.py)
    "ForMaskedLM": ENCODERS.keys(),
    "ForPreTraining": MODELS.keys() - {"bert", "albert", "electra", "megatron-bert", "ernie"},
    "ForNextSentencePrediction": MODELS.keys() - {"bert", "megatron-bert", "ernie"},
    "ForSequenceClassification": DECODERS | ENCODERS.keys(),
    "ForTokenClassification": DECODERS | ENCODERS.keys(),
    "ForQuestionAnswering": {"esm", "nomic_bert", "eurobert", "gte", *DECODERS, *ENCODERS},
    "ForMultipleChoice": {
        *("esm", "nomic_bert", "eurobert", "gte", "roformer", "deberta", "jina_embeddings_v3", "ultrabert"),
        *(DECODERS | ENCODERS.keys()),
    },
}
RELATED = {"xlm-roberta", "camembert"}  # RoBERTa under another name: its heads are tested with RoBERTa


def kinds(family: str) -> list[str]:
    return [kind for kind in OUTPUTS if family not in NONE.get(kind, ()) and family not in RELATED]


def first_kind(family: str) -> str:
    """The class of all models of a family."""
    return "Model" if family in ENCODERS else "ForMaskedLM"


# (family, number of the model, class): every model with the masked-language-model head, the first with every head.
CASES = [
    (family, number, kind)
    for family, models in MODELS.items()
    for number in range(len(models))
    for kind in [
        first_kind(family),
        *(kind for kind in kinds(family) if kind != first_kind(family) and number == 0),
    ]
]
# Their other models choose other poolings.
POOLED = ("modernbert", "eurobert", "ultrabert")
CASES += [(family, number, "ForSequenceClassification") for family in POOLED for number in (1, 2)]
CASES.sort(key=lambda case: case[:2])  # those of one model together: they share an encoder


def torch_model(family: str, settings: dict[str, Any], kind: str = "ForMaskedLM"):
    """A model of transformers with weights large enough that each of them matters."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    if kind == "ForQuestionAnswering":
        settings = {name: value for name, value in settings.items() if name != "num_labels"}
    config = transformers.AutoConfig.for_model(family, **settings)
    kind = "ForCausalLM" if family in DECODERS and kind == "ForMaskedLM" else kind
    if family in ENCODERS:
        return randomized(getattr(transformers, ENCODERS[family])(config), torch)
    auto = getattr(transformers, f"Auto{'Model' if kind == 'Model' else 'ModelFor' + kind.removeprefix('For')}")
    return randomized(auto.from_config(config, attn_implementation="eager"), torch)


def randomized(model, torch):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name:
                continue  # RoFormer's table of sines, which is no parameter
            mean = float("norm" in name.lower() and name.endswith("weight"))
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator) + mean)
    return model.eval()


def padded_batch(settings: dict[str, Any], T: int = 17) -> dict[str, np.ndarray]:
    """Pairs of texts, padded; nothing but padding has the padding id."""
    rng = np.random.default_rng(0)
    lengths = np.array([T, 9, 3])
    mask = (np.arange(T) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, rng.integers(5, 67, mask.shape), settings.get("pad_token_id", 0))
    if "attention_window" in settings:  # Longformer looks for a question: <s> question </s></s> text </s>
        for row, places in enumerate(([6, 7, 16], [3, 4, 8], [0, 1, 2])):
            ids[row, places] = 2
    types = np.where(np.arange(T) >= lengths[:, None] // 2, mask, 0)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def accepted(model, batch: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The part of a batch that a model takes, as a question of three choices where it wants choices."""
    if getattr(model.config, "type_vocab_size", 0) < 2:
        batch = {name: x for name, x in batch.items() if name != "token_type_ids"}
    return {name: x[None] for name, x in batch.items()} if kind == "ForMultipleChoice" else batch


def theirs(model, batch: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """What torch computes, by our names."""
    import torch

    inputs = {name: torch.tensor(x) for name, x in batch.items()}
    encoded = []
    hook = model.base_model.register_forward_hook(lambda module, args, out: encoded.append(out.last_hidden_state))
    with torch.no_grad():
        out = model(**inputs)
        outputs = {"hidden": encoded[0].reshape(*batch["input_ids"].shape, -1).numpy()}
        for name, ours in OUTPUTS[kind].items():
            if getattr(out, name, None) is not None:
                outputs[ours] = getattr(out, name).numpy()
    hook.remove()
    return outputs


def ours(model, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model of a folder computes of the same batch."""
    out = model(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
    return {name: np.asarray(x) for name, x in out.items()}


def of_a_run(run, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a run computes of padded rows, with the logits of its classifier of texts if it has one."""
    outputs = ours(run, batch)
    if "classifier" in run.params:
        mask = batch["attention_mask"]
        rows = {"token_ids": batch["input_ids"], "segment_ids": mask, "labels": np.zeros((len(mask), 1), np.int32)}
        rows["positions"] = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
        rows |= {"token_type_ids": batch["token_type_ids"]} if "token_type_ids" in batch else {}
        objective = run.config.objective.build(run.config.model, run.compute, run.tokenizer)
        outputs["logits"] = np.asarray(objective.scores(run.params, rows, jax.random.key(0), False))[:, 0]
    return outputs


def assert_outputs(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], mask: np.ndarray, atol: float) -> None:
    """Check that all outputs are equal at all tokens."""
    assert expected.keys() <= got.keys() <= expected.keys() | {"pooled"}
    for name, value in expected.items():
        assert got[name].shape == value.shape, name
        tokens = mask.astype(bool) if value.shape[: mask.ndim] == mask.shape else np.s_[:]
        np.testing.assert_allclose(got[name][tokens], value[tokens], atol=atol, err_msg=name)


def saved(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder
