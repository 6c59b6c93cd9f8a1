"""RoFormer: BERT with rotary positions, in neighboring pairs. Su et al. 2021, arXiv:2104.09864."""

from jaxencoder.families.bert import BERT
from jaxencoder.families.electra import NARROW_SETTINGS, narrow_encoder
from jaxencoder.families.family import About, Family, Heads, Release, plain_heads, two_layer_classifier
from jaxencoder.families.settings import Settings, same, sizes
from jaxencoder.families.tables import Weight
from jaxencoder.model.config import EncoderConfig


def _encoder(c: EncoderConfig) -> list[Weight]:
    rotated = {"query/kernel", "query/bias", "key/kernel", "key/bias"}
    if c.rotary_values:
        rotated |= {"value/kernel", "value/bias", "output/kernel"}  # the output's inputs are ordered as the values
    rotated = {f"encoder/layer/attention/{name}" for name in rotated}
    weights = [w._replace(interleaved=w.ours[0] in rotated) for w in narrow_encoder(c, "roformer.")]
    return [w for w in weights if w.ours != ("encoder/embeddings/position_embedding",)]


def _heads(c: EncoderConfig, settings: Settings) -> Heads:
    return {
        "sequence_head": two_layer_classifier(settings, c.activation),
        **plain_heads(settings, "token_head", "span_head"),
    }


ROFORMER = Family(
    model_type="roformer",
    name="RoFormer",
    prefix="roformer.",
    architecture=EncoderConfig(positions="rotary", max_length=1536),
    entries=(*NARROW_SETTINGS, same("rotary_value", "rotary_values")),
    encoder=_encoder,
    mlm_head=BERT.mlm_head,
    heads=_heads,
    tied=BERT.tied,
    about=About(
        title="RoFormer",
        choose_for="Chinese, and studies of rotary positions, which it introduced",
        tokenizer="WordPiece of Chinese words or characters",
        objective="masked words",
        text="Chinese",
        papers={"RoFormer": "2104.09864"},
        releases=(
            Release("junnyu/roformer_chinese_small", sizes(6, 384, 1536, 6, 50000)),
            Release("junnyu/roformer_chinese_char_base", sizes(12, 768, 3072, 12, 12000, max_position_embeddings=512)),
            Release("junnyu/roformer_chinese_base", sizes(12, 768, 3072, 12, 50000)),
        ),
    ),
    fixed=BERT.fixed,
)
