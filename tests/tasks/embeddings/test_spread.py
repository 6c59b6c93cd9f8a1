"""The spread-out regularization equals that of sentence-transformers, with texts missing anywhere."""

from functools import partial

import pytest

from jaxencoder.tasks.embeddings.spread import global_orthogonality
from tests.tasks.embeddings.comparisons import SHAPES, assert_equals_peer, batches

losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
util = pytest.importorskip("sentence_transformers.util")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mean_weight": 0.5, "second_moment_weight": 0.0},
        {"mean_weight": 0.0, "second_moment_weight": 3.0, "aggregation": "sum"},
        {"similarity": "dot"},
    ],
    ids=str,
)
def test_global_orthogonality(settings) -> None:
    theirs = {name: value for name, value in settings.items() if name != "similarity"}
    function = util.dot_score if "similarity" in settings else util.cos_sim
    loss = partial(global_orthogonality, **settings)
    for _, vectors, mask in batches((*SHAPES, (1, 2, 4))):
        mask[:, 1] &= bool(mask.all())  # a column without any text does not count

        def peer(tensor, mask=mask):
            peer = losses.GlobalOrthogonalRegularizationLoss(None, similarity_fct=function, **theirs)
            texts = [tensor[mask[:, c], c] for c in range(mask.shape[1]) if mask[:, c].any()]
            return sum(peer.compute_loss_from_embeddings(texts).values())

        assert_equals_peer(loss, peer, vectors, mask)


def test_wrong_settings() -> None:
    _, vectors, mask = next(batches())
    with pytest.raises(ValueError, match="are both 0, so that there is no loss"):
        global_orthogonality(vectors, mask, mean_weight=0, second_moment_weight=0)
    with pytest.raises(ValueError, match="aggregation is 'max'; choose one of mean, sum"):
        global_orthogonality(vectors, mask, aggregation="max")
