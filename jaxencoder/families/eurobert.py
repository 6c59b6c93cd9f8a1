"""EuroBERT: a decoder's block (RMS norm, rotary, SwiGLU, shared keys) with bidirectional attention.

Boizard et al. 2025, arXiv:2503.05500.
"""

from jaxencoder.families.family import About, Family, Heads, head, plain_heads
from jaxencoder.families.labels import labels
from jaxencoder.families.rotary import ROTARY
from jaxencoder.families.settings import HEAD_DIM, SIZES, Settings, choice, inherited, read_choice, same, sizes
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

_POOLINGS = {"bos": ("cls", False), "mean": ("mean", False), "late": ("mean", True)}
_ARCHITECTURE = EncoderConfig(
    max_length=8192, positions="rotary", token_types=0, embedding_norm=False,
    norm="rms", norm_placement="pre", norm_epsilon=1e-5, norm_bias=False,
    attention_bias=False, mlp_bias=False, activation="silu", gated_mlp=True, dropout=0.0, attention_dropout=0.0,
    head_transform=False, output_bias=False, tied_output=False,
)  # fmt: skip


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    inputs, pool_after = read_choice(settings, "classifier_pooling", "late", _POOLINGS)
    config = HeadConfig(inputs, labels(settings), "gelu", pool_after_transform=pool_after)
    return head("sequence_head", config, "dense", "classifier") | plain_heads(settings, "token_head")


_LARGER = {"num_key_value_heads": 6, "rope_theta": 250_000.0}
EUROBERT = Family(
    model_type="eurobert",
    name="EuroBert",
    prefix="model.",
    architecture=_ARCHITECTURE,
    settings_table=(
        *SIZES,
        inherited("num_key_value_heads", "num_kv_heads", "num_heads"),
        HEAD_DIM,
        same("max_position_embeddings", "max_length"),
        ROTARY,
        same("rms_norm_eps", "norm_epsilon"),
        same("attention_bias"),
        same("mlp_bias", "output_bias"),
        same("mlp_bias"),
        choice("hidden_act", "activation"),
        same("attention_dropout"),
        same("initializer_range", "initializer_std"),
    ),
    encoder_table={
        "model.embed_tokens": "encoder/embeddings/token_embedding",
        "model.layers.{layer}.input_layernorm": "encoder/layer/attention_norm",
        "model.layers.{layer}.self_attn.q_proj": "encoder/layer/attention/query",
        "model.layers.{layer}.self_attn.k_proj": "encoder/layer/attention/key",
        "model.layers.{layer}.self_attn.v_proj": "encoder/layer/attention/value",
        "model.layers.{layer}.self_attn.o_proj": "encoder/layer/attention/output",
        "model.layers.{layer}.post_attention_layernorm": "encoder/layer/mlp_norm",
        "model.layers.{layer}.mlp.gate_proj": "encoder/layer/mlp/gate",
        "model.layers.{layer}.mlp.up_proj": "encoder/layer/mlp/up",
        "model.layers.{layer}.mlp.down_proj": "encoder/layer/mlp/down",
        "model.norm": "encoder/final_norm",
    },
    mlm_head_table={"lm_head.bias": "mlm_head/bias"},
    heads=_heads,
    tied="lm_head.weight",
    about=About(
        title="EuroBERT",
        choose_for="15 widely spoken languages, mainly European, code and mathematics; also long texts, and tasks "
        "that justify 2B parameters",
        tokenizer="byte-level BPE, cased",
        objective="masked words (50%, finally 10%)",
        text="5T tokens of 15 languages, code and mathematics",
        papers={"EuroBERT": "2503.05500"},
        releases={
            "EuroBERT/EuroBERT-210m": sizes(12, 768, 3072, 12, 128256, rope_theta=250_000.0),
            "EuroBERT/EuroBERT-610m": sizes(26, 1152, 4096, 18, 128256, **_LARGER),
            "EuroBERT/EuroBERT-2.1B": sizes(32, 2304, 6144, 18, 128256, **_LARGER),
        },
    ),
    older_names={"clf_pooling": "classifier_pooling"},  # of the published code
)
