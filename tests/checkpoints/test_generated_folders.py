"""Folders with a changed key in one of their JSON files: the peer's numbers, or one sentence that says what differs.

The folders are the same in each run, but for JAXENCODER_GENERATED_FOLDERS=N, which draws N of each kind.
"""

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxencoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers

FOLDERS = int(os.environ.get("JAXENCODER_GENERATED_FOLDERS", "0"))
TEXTS = ["The man plays.", "two dogs run, the Café", "dog " * 40]
PAIRS = [("The man", "plays two dogs"), ("dog", "Café")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "man", "plays", "two", "dogs", "dog", "Café", "The", "."]
BODY = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, initializer_range=0.3)
VALUES = [None, True, False, 0, 1, 2, 8, -1, 1e-5, 0.5, "", "x", "cls", "[MASK]", "gelu_new", "left", [], ["x"]]
VALUES += [{"x": 1}]
MORE_KEYS = {
    "config.json": (
        *("hidden_act", "num_labels", "position_embedding_type", "rope_theta", "is_decoder", "tokenizer_class"),
        *("head_dim", "tie_word_embeddings", "problem_type", "use_bfloat16", "layer_norm_epsilon"),
    ),
    "tokenizer_config.json": (
        *("do_lower_case", "strip_accents", "truncation_side", "model_max_length", "add_prefix_space", "mask_token"),
        *("split_special_tokens", "add_bos_token", "tokenize_chinese_chars", "extra_special_tokens", "max_length"),
    ),
    "config_sentence_transformers.json": ("similarity_fn_name", "default_prompt_name", "truncate_dim", "activation_fn"),
    "sentence_bert_config.json": ("max_seq_length", "do_lower_case", "model_args", "tokenizer_args"),
}


def bert(folder: Path, names: tuple[str, ...] = ("no", "yes", "maybe")) -> None:
    """A classifier whose tokenizer is a vocabulary, as transformers 4 wrote it."""
    folder.mkdir()
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=48, **BODY, **labels)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokens = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    options = {"do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": True, "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | options | {"tokenizer_class": "BertTokenizer"}))


def roberta(folder: Path) -> None:
    """A classifier with a byte-level tokenizer.json, as transformers 5 writes it."""
    folder.mkdir()
    torch.manual_seed(0)
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, 290, 1, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.save_model(str(folder))
    transformers.RobertaTokenizerFast.from_pretrained(folder, model_max_length=40).save_pretrained(folder)
    config = transformers.RobertaConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=60, **BODY)
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)


def sentence(folder: Path) -> None:
    """A folder of sentence-transformers with pooling, a projection, normalization and prompts."""
    models = importlib.import_module("sentence_transformers.models")
    body = folder.with_name("body")
    bert(body)
    torch.manual_seed(0)
    modules = [models.Transformer(str(body), max_seq_length=24), models.Pooling(16, "mean"), models.Dense(16, 8)]
    model = sentence_transformers.SentenceTransformer(
        modules=[*modules, models.Normalize()], prompts={"query": "the man "}, device="cpu"
    )
    model.save_pretrained(str(folder))


def cross_encoder(folder: Path) -> None:
    body = folder.with_name("pairs")
    bert(body, ("score",))
    model = sentence_transformers.CrossEncoder(str(body), max_length=24, device="cpu")
    model.save_pretrained(str(folder))


def transformers_numbers(folder: Path) -> list[np.ndarray]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    numbers = []
    for text in TEXTS:
        length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=length)
        with torch.no_grad():
            numbers += [batch["input_ids"][0].numpy(), model(**batch).logits[0].numpy()]
    return numbers


def our_numbers(folder: Path) -> list[np.ndarray]:
    model = jaxencoder.load(folder)
    return [x for ids in model.tokenize(TEXTS) for x in (ids, np.asarray(model(ids[None])["logits"][0]))]


KINDS: dict[str, tuple[Callable, Callable, Callable]] = {
    "bert": (bert, our_numbers, transformers_numbers),
    "roberta": (roberta, our_numbers, transformers_numbers),
    "sentence": (
        sentence,
        lambda folder: [jaxencoder.load(folder).embed(TEXTS)],
        lambda folder: [sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)],
    ),
    "cross_encoder": (
        cross_encoder,
        lambda folder: [np.array([jaxencoder.load(folder).rerank(a, [b])[0].score for a, b in PAIRS])],
        lambda folder: [sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(PAIRS)],
    ),
}


def keys(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of the keys in nested dicts and lists of dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if isinstance(value, dict):
            yield (*path, key)
        if len(path) < 2:
            yield from keys(child, (*path, key))


def change(folder: Path, draw: Callable) -> tuple[str, str]:
    """Change one key of one file: the key, and what was changed."""
    files = sorted(x for x in folder.rglob("*.json") if x.name not in ("tokenizer.json", "vocab.json"))
    file = draw(st.sampled_from(files))
    content = json.loads(file.read_text())
    action = draw(st.sampled_from(("drop", "rename", "replace", "add")))
    if action == "add":
        name, value = draw(st.sampled_from(MORE_KEYS.get(file.name, ("x",)))), draw(st.sampled_from(VALUES))
        (content if isinstance(content, dict) else content[0])[name] = value
        changed = f"{name} = {value!r}"
    else:
        path = draw(st.sampled_from(list(keys(content))))
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        name = path[-1]
        value = parent.pop(name)
        if action == "rename":
            parent[f"{name}_x"] = value
        if action == "replace":
            value = parent[name] = draw(st.sampled_from(VALUES))
        changed = f"{action} {'.'.join(map(str, path))} ({value!r})"
    file.write_text(json.dumps(content))
    return name, f"{file.relative_to(folder)}: {changed}"


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("originals")
    for kind, (make, ours, theirs) in KINDS.items():
        make(home / kind)
        for one, other in zip(ours(home / kind), theirs(home / kind), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=kind)
    return home


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_key(kind: str, originals: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, ours, theirs = KINDS[kind]

    @settings(
        max_examples=FOLDERS or 15,
        derandomize=not FOLDERS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: Any) -> None:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(originals / kind, folder)
        key, changed = change(folder, data.draw)
        caplog.clear()
        try:
            numbers = ours(folder)
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and len(str(error)) < 600, f"{changed}: {error}"
            return
        if key in caplog.text:
            return  # a warning says how the folder is read
        try:
            expected = theirs(folder)
        except Exception:
            return  # no numbers to compare with
        for one, other in zip(numbers, expected, strict=True):
            assert np.shape(one) == np.shape(other), changed
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=changed)

    check()
