"""Folders with a changed key in one of their JSON files: the peer's numbers, or one sentence that says what differs.

The folders are the same in each run, but for JAXENCODER_GENERATED_FOLDERS=N, which draws N of each kind.
"""

import importlib
import json
import logging
import os
import re
import reprlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, Phase, given, settings
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
DROPPED = object()  # a key that is removed
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
    """Paths of the keys in nested dicts and lists of dicts, but for the vocabulary of tokenizer.json."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        if isinstance(value, dict):
            yield (*path, key)
        if len(path) < 2 and key not in ("vocab", "merges"):
            yield from keys(child, (*path, key))


def change(folder: Path, draw: Callable) -> tuple[str, str]:
    """Change one key of one file: the key, and what was changed."""
    files = sorted(x for x in folder.rglob("*.json") if x.name != "vocab.json")
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
            name = f"{name}_x"
            parent[name] = value
        if action == "replace":
            value = parent[name] = draw(st.sampled_from(VALUES))
        changed = f"{action} {'.'.join(map(str, path))} ({reprlib.repr(value)})"
    file.write_text(json.dumps(content))
    return name, f"{file.relative_to(folder)}: {changed}"


def is_equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.shape(x) == np.shape(y) and np.allclose(x, y, atol=1e-4) for x, y in zip(one, other, strict=True))


def verdict(
    kind: str, folder: Path, key: str, original: list[np.ndarray], log: pytest.LogCaptureFixture
) -> tuple[str, str]:
    """How a folder with a changed key is read, and our words for it.

    "equal" to the peer; "warned"; "refused", or "needless" where the peer's numbers are still the `original` ones;
    "unopened" by the peer; or "WRONG".
    """
    _, ours, theirs = KINDS[kind]
    log.clear()
    numbers, words = None, ""
    try:
        numbers = ours(folder)
    except Exception as error:
        words = str(error)
        if not isinstance(error, ValueError | OSError) or "\n" in words or len(words) > 600:
            return "WRONG", repr(error)
    if numbers is not None and len(key) > 2 and re.search(rf"\b{re.escape(key)}\b", log.text):
        return "warned", log.text  # a warning says how the folder is read
    try:
        expected = theirs(folder)
    except Exception as error:  # no numbers to compare with
        return ("unopened", repr(error)) if numbers is not None else ("refused", words)
    if numbers is None:
        return "needless" if is_equal(expected, original) else "refused", words
    return ("equal", "") if is_equal(numbers, expected) else ("WRONG", f"{numbers} are not {expected}")


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, tuple[Path, list[np.ndarray]]]:
    """The unchanged folder of each kind, and the peer's numbers of it."""
    home = tmp_path_factory.mktemp("originals")
    numbers = {}
    for kind, (make, ours, theirs) in KINDS.items():
        make(home / kind)
        numbers[kind] = (home / kind, theirs(home / kind))
        assert is_equal(ours(home / kind), numbers[kind][1]), kind
    return numbers


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_key(kind: str, originals: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    original, numbers = originals[kind]
    folder, outcomes = tmp_path / "changed", []
    caplog.set_level(logging.WARNING)

    @settings(
        max_examples=FOLDERS or 15,
        derandomize=not FOLDERS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.data())
    def draw(data: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        key, changed = change(folder, data.draw)
        outcomes.append((key, changed, *verdict(kind, folder, key, numbers, caplog)))

    draw()
    assert [f"{changed}: {words}" for _, changed, name, words in outcomes if name == "WRONG"] == []
    # Of the published keys without effect few are refused: those with values that only the peer ignores. Of the keys of
    # tokenizer.json, the peer does not read those that it replaces.
    published = [x for x in outcomes if not re.search(r"^x$|_x$", x[0]) and not x[1].startswith("tokenizer.json")]
    counts = Counter(name for _, _, name, _ in published)
    assert counts["equal"] > 2 * counts["needless"], counts


@pytest.mark.parametrize(
    ("kind", "file", "changes"),
    [
        ("bert", "config.json", {"transformers_version": "3.0", "use_cache": False, "classifier_dropout": 0.5}),
        ("bert", "tokenizer_config.json", {"use_fast": True, "clean_up_tokenization_spaces": False}),
        ("roberta", "config.json", {"use_cache": True, "classifier_dropout": None, "_name_or_path": "roberta-base"}),
        ("sentence", "modules.json", {"idx": 7, "name": "encoder"}),
        ("sentence", "config_sentence_transformers.json", {"__version__": {}, "default_prompt_name": DROPPED}),
        ("sentence", "config_sentence_transformers.json", {"library_name": "x", "matryoshka_dims": [4, 8], "x": None}),
        ("sentence", "sentence_bert_config.json", {"do_lower_case": None}),
        ("sentence", "sentence_bert_config.json", {"processor_kwargs": {"padding_side": "right"}}),
        ("sentence", "1_Pooling/config.json", {"include_prompt": None}),
        ("sentence", "2_Dense/config.json", {"use_residual": None}),
        ("cross_encoder", "config_sentence_transformers.json", {"__version__": {"pytorch": "2"}, "prompts": DROPPED}),
    ],
)
def test_a_key_without_effect(kind: str, file: str, changes: dict, originals: dict, tmp_path: Path, caplog) -> None:
    folder, (original, numbers) = tmp_path / "changed", originals[kind]
    shutil.copytree(original, folder)
    content = json.loads((folder / file).read_text())
    settings = content[0] if isinstance(content, list) else content
    settings |= {key: value for key, value in changes.items() if value is not DROPPED}
    for key in [key for key, value in changes.items() if value is DROPPED]:
        settings.pop(key, None)
    (folder / file).write_text(json.dumps(content))
    assert verdict(kind, folder, "", numbers, caplog) == ("equal", "")
