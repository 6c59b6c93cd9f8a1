"""Heads in PEFT's format: a run's classifier as the family's head, and heads selected by the adapter's task."""

import jax
import numpy as np
import pytest

from jaxencoder.adapters.peft_heads import classifier_to_peft, heads_from_peft
from jaxencoder.families import FAMILIES
from jaxencoder.families.family import Family
from jaxencoder.families.published import Published
from jaxencoder.families.tables import parameter_shapes
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import Classifier
from tests.families import peers

SAME = {
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "albert",
    "mpnet",
    "longformer",
    "nomic_bert",
    "gte",
    "ernie",
    "esm",
    "jina_embeddings_v3",
}
SAME |= {"megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl"}
BY_TYPE = {family.model_type: family for family in reversed(FAMILIES)}


def opened(model_type: str, **settings) -> tuple[Published, EncoderConfig]:
    family: Family = BY_TYPE[model_type]
    known = peers.MODELS[model_type][0] | settings
    return Published(family, known, {}), family.encoder_config(known)


def drawn(shapes: dict) -> dict:
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), shapes)


def classifier(config: EncoderConfig, labels: int = 4) -> dict:
    inputs = (jax.ShapeDtypeStruct((1, 1, config.hidden_size), "float32"), np.ones((1, 1), np.int32))
    init = lambda key, x, segments: Classifier(config, labels, "cls", 0.0).init(key, x, segments, 1, False)  # noqa: E731
    return drawn(jax.eval_shape(init, jax.random.key(0), *inputs)["params"])


@pytest.mark.parametrize("model_type", sorted(peers.MODELS))
def test_the_familys_own_where_it_is_the_same(model_type: str) -> None:
    published, config = opened(model_type)
    params = classifier(config)
    saved = classifier_to_peft(params, "cls", published, config)
    assert (saved is not None) == (model_type in SAME)
    assert classifier_to_peft(params, "mean", published, config) is None
    if saved is None:
        return
    tensors, modules = saved
    # Each module that is kept whole is named once, none inside another, and the arrays are the classifier's.
    names = {name.removeprefix(published.family.prefix).rpartition(".")[0] for name in tensors}
    for name in names:
        assert sum(name == module or name.startswith(f"{module}.") for module in modules) == 1
    sizes = sorted(x.size for x in tensors.values())
    assert sizes == sorted(x.size for x in jax.tree.leaves(params))
    settings = {"task_type": "SEQ_CLS", "modules_to_save": modules}
    result, heads, used = heads_from_peft(tensors, settings, published, {}, config, "folder")
    assert used == tensors.keys() and "sequence_head" in result.heads
    dense = heads.get("pooler", heads["sequence_head"])["dense"]
    for found, wanted in ((dense, params["dense"]), (heads["sequence_head"]["output"], params["classifier"])):
        np.testing.assert_array_equal(found["kernel"], wanted["kernel"])
        np.testing.assert_array_equal(found["bias"], wanted["bias"])


def test_a_pooler_of_another_activation_is_another_head() -> None:
    for activation in ("gelu", "tanh"):
        published, config = opened("deberta", pooler_hidden_act=activation)
        found = classifier_to_peft(classifier(config), "cls", published, config)
        assert (found is not None) == (activation == "tanh")


def test_which_head_it_is() -> None:
    """BERT's heads of texts, tokens and choices have the same tensor names."""
    published, config = opened("bert")
    tensors = {"classifier.weight": np.ones((6, config.hidden_size), np.float32), "classifier.bias": np.ones(6, "f")}
    base = drawn(parameter_shapes(config, False, {"pooler": published.family.heads(config, {})["pooler"].config}))
    with_pooler = published._replace(heads={"pooler": published.family.heads(config, {})["pooler"].config})

    def read(published: Published, params: dict, **settings) -> Published:
        settings = {"modules_to_save": ["classifier"]} | settings
        return heads_from_peft(tensors, settings, published, params, config, "folder")[0]

    found = read(published, base, task_type="TOKEN_CLS")
    assert found.heads["token_head"].outputs == 6 and found.heads["token_head"].inputs == "tokens"
    found = read(published, base, auto_mapping={"base_model_class": "BertForTokenClassification"})
    assert list(found.heads) == ["token_head"]
    assert list(read(with_pooler, base).heads) == ["pooler", "sequence_head"]
    with pytest.raises(ValueError, match="folder has no weight bert.pooler.dense.weight"):
        read(published, {"encoder": base["encoder"]}, task_type="SEQ_CLS")  # a random one would not do
    assert heads_from_peft(tensors, {}, published, base, config, "folder") == (published, {}, set())


def test_what_is_not_kept_is_the_bases() -> None:
    """ModernBERT's classifier shares the transform of its MLM head by name."""
    published, config = opened("modernbert")
    base = drawn(parameter_shapes(config, True))
    tensors = {"classifier.weight": np.ones((2, config.hidden_size), np.float32), "classifier.bias": np.ones(2, "f")}
    settings = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
    _, heads, used = heads_from_peft(tensors, settings, published, base, config, "folder")
    assert used == tensors.keys()
    np.testing.assert_array_equal(heads["sequence_head"]["dense"]["kernel"], base["mlm_head"]["dense"]["kernel"])
