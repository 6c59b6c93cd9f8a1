"""DeBERTa: attention that compares contents with distances. He et al. 2021, arXiv:2006.03654."""

from jaxencoder.families.bert import BERT, ENCODER, POSITIONS, SETTINGS
from jaxencoder.families.family import About, Family, plain_heads, pooler
from jaxencoder.families.settings import Entry, Fields, Settings, choice, implied, read_choice, read_value, same, sizes
from jaxencoder.families.tables import QKV, Weight, with_prefix
from jaxencoder.model.config import EncoderConfig

# Settings of all published checkpoints.
PUBLISHED = {"relative_attention": True, "position_biased_input": False, "pos_att_type": "c2p|p2c"}


def _read_distances(settings: Settings, fields: Fields) -> Fields:
    kinds = settings.get("pos_att_type") or ()
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list | tuple):
        raise ValueError(f"config.json has pos_att_type {kinds!r}; a text or a list of c2p and p2c is needed")
    if unknown := set(kinds := [str(kind).strip() for kind in kinds]) - {"c2p", "p2c"}:
        raise ValueError(f"config.json has pos_att_type {sorted(unknown)}; known are c2p and p2c")
    if (relative := read_value(settings, "relative_attention", bool, False)) != bool(kinds):
        raise ValueError(
            f"config.json has relative_attention {relative} and pos_att_type {kinds}; only both or neither can be "
            "loaded"
        )
    span = max_relative_positions(settings, fields) if kinds else 0
    return {"disentangled": tuple(sorted(set(kinds))), "position_buckets": span}


def _write_distances(c: EncoderConfig) -> Settings:
    return {
        "relative_attention": bool(c.disentangled),
        "pos_att_type": list(c.disentangled),
        "max_relative_positions": c.max_distance or c.position_buckets or -1,
    }


def max_relative_positions(settings: Settings, fields: Fields) -> int:
    """The largest distance that relative positions distinguish."""
    span = read_value(settings, "max_relative_positions", int, -1)
    return span if span >= 1 else fields["max_length"]


# The rows that all versions share: BERT's but for the inputs of attention.
COMMON = with_prefix(ENCODER, "bert.", "deberta.", without=".attention.self.")
COMMON["deberta.encoder.rel_embeddings"] = "encoder/distance_embedding/table"

DEBERTA = Family(
    model_type="deberta",
    name="Deberta",
    prefix="deberta.",
    architecture=EncoderConfig(norm_epsilon=1e-7, token_types=0, key_bias=False),
    settings_table=(
        *SETTINGS,
        POSITIONS,
        same("type_vocab_size", "token_types"),
        choice("position_biased_input", "positions", {True: "learned", False: "none"}),
        implied("embedding_size", "hidden_size"),
        implied("pooler_hidden_size", "hidden_size"),
        implied("attention_head_size", "head_size"),
        Entry(_read_distances, _write_distances),
    ),
    encoder_table={
        **COMMON,
        "deberta.encoder.layer.{layer}.attention.self.in_proj": Weight(QKV, by_head=True),
        "deberta.encoder.layer.{layer}.attention.self.q_bias": "encoder/layer/attention/query/bias",
        "deberta.encoder.layer.{layer}.attention.self.v_bias": "encoder/layer/attention/value/bias",
        "deberta.encoder.layer.{layer}.attention.self.pos_proj": "encoder/layer/attention/distance_key",
        "deberta.encoder.layer.{layer}.attention.self.pos_q_proj": "encoder/layer/attention/distance_query",
    },
    mlm_head_table=BERT.mlm_head_table,
    heads=lambda c, s: pooler("pooler.dense", read_choice(s, "pooler_hidden_act", "gelu")) | plain_heads(s),
    tied=BERT.tied,
    about=About(
        title="DeBERTa",
        choose_for="accurate cased English models; DeBERTa-v3 is more accurate",
        tokenizer="byte-level BPE (GPT-2's)",
        objective="masked words and spans",
        text="English: books, Wikipedia, stories and the web",
        papers={"DeBERTa": "2006.03654"},
        releases={
            "microsoft/deberta-base": sizes(12, 768, 3072, 12, 50265, **PUBLISHED),
            "microsoft/deberta-large": sizes(24, 1024, 4096, 16, 50265, **PUBLISHED),
            "microsoft/deberta-xlarge": sizes(48, 1024, 4096, 16, 50265, **PUBLISHED),
        },
    ),
    fixed=BERT.fixed | {"talking_head": False},
    aliases={  # the masked-language-model head in the original code
        "lm_predictions.lm_head.bias": "cls.predictions.bias",
        "lm_predictions.lm_head.": "cls.predictions.transform.",
    },
    classifier={"pooler_hidden_act": "tanh"},
)
