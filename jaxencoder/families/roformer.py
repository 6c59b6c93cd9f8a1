"""RoFormer: BERT with rotary positions, in neighboring pairs. Su et al. 2021, arXiv:2104.09864."""

from jaxencoder.families.bert import BERT
from jaxencoder.families.electra import NARROW_SETTINGS, narrow_encoder
from jaxencoder.families.family import About, Family, plain_heads, two_layer_classifier
from jaxencoder.families.settings import same, sizes
from jaxencoder.families.tables import Names, Weight
from jaxencoder.model.config import EncoderConfig


def _encoder(c: EncoderConfig) -> Names:
    # With rotary values, the inputs of the output are ordered as the values.
    rotated = ("query", "key", "value", "output") if c.rotary_values else ("query", "key")
    paths = {f"encoder/layer/attention/{name}" for name in rotated}
    names = narrow_encoder("roformer.")
    return {name: Weight((str(ours),), interleaved=True) if ours in paths else ours for name, ours in names.items()}


ROFORMER = Family(
    model_type="roformer",
    name="RoFormer",
    prefix="roformer.",
    architecture=EncoderConfig(positions="rotary", max_length=1536),
    settings_table=(*NARROW_SETTINGS, same("rotary_value", "rotary_values")),
    encoder_table=_encoder,
    mlm_head_table=BERT.mlm_head_table,
    heads=lambda c, s: two_layer_classifier(s, c.activation) | plain_heads(s, "token_head", "span_head"),
    tied=BERT.tied,
    about=About(
        title="RoFormer",
        choose_for="Chinese, and studies of rotary positions, which it introduced",
        tokenizer="WordPiece of Chinese words or characters",
        objective="masked words",
        text="Chinese",
        papers={"RoFormer": "2104.09864"},
        releases={
            "junnyu/roformer_chinese_small": sizes(6, 384, 1536, 6, 50000),
            "junnyu/roformer_chinese_char_base": sizes(12, 768, 3072, 12, 12000, max_position_embeddings=512),
            "junnyu/roformer_chinese_base": sizes(12, 768, 3072, 12, 50000),
        },
    ),
    fixed=BERT.fixed,
)
