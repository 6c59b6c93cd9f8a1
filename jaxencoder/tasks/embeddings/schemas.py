"""The schema of the records that a loss learns from."""

from jaxencoder.tasks.embeddings.data import EmbeddingSchema, NumberedTexts, PairScores, TeacherScores, VectorTexts
from jaxencoder.tasks.embeddings.labeled_data import PairClasses, TextClasses

_BY_LOSS: dict[str, type[EmbeddingSchema]] = {
    **dict.fromkeys(("margin_mse", "kl"), TeacherScores),
    **dict.fromkeys(("cosent", "angle", "cosine", "contrastive", "online_contrastive"), PairScores),
    "softmax": PairClasses,
    **dict.fromkeys(("batch_all_triplet", "batch_hard_triplet", "batch_semi_hard_triplet"), TextClasses),
    "batch_hard_soft_margin_triplet": TextClasses,
}


def schema_for(
    loss: str, prompts: tuple[str, str] = ("", ""), vectors_of: VectorTexts | None = None
) -> EmbeddingSchema:
    """The schema whose labels suit a loss of Embeddings, with prompts before the first text and before the others.

    `vectors_of` are the texts that need a vector by another model; None: none.
    """
    if vectors_of is not None:
        return NumberedTexts(prompts, vectors_of, optional_pair=loss != "ranking")
    return _BY_LOSS.get(loss, EmbeddingSchema)(prompts)
