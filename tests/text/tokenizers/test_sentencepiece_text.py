"""SentencePiece models of every family split any text as the sentencepiece library does, with its offsets."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest

from jaxencoder.text.tokenizers.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")

# Kinds of characters in which imitations of the library have differed.
ALPHABETS = [
    "abcde ,.AZ12!!!?", "\u3000\u00a0\u2003\u200b\u0085\t\n\r\u2028\ufeff ", "ｶｷﾊﾞﾟガカﾎ", "\u1100\u1161\u11a8\u1112가각",
    "ﬁﬃﷺ½①㌀", "\u0301\u0308\u0323\u3099\u309a\u200d\u200ceo", "éèüßİΣσς", "日本語ー。、", "🙂👩\u200d👧🇫🇷",
    "กำ้า", "\ufffe\x00\x07\x7f", "▁ _", "ＡＢｃ１＜＞/sｍａｋ",
]  # fmt: skip
SHIFTED = dict(unk_id=0, bos_id=1, eos_id=2)
PAIR = {"bos_piece": "[CLS]", "eos_piece": "[SEP]"}
# Family -> the name of its file, the settings of its training, and the id of a piece.
FAMILIES = {
    "": ("spm.model", dict(pad_id=0, unk_id=1, bos_id=2, eos_id=3, control_symbols=["[MASK]"], **PAIR), lambda i: i),
    "xlm-roberta": ("sentencepiece.bpe.model", SHIFTED, lambda i: i + 1 if i else 3),
    "camembert": ("sentencepiece.bpe.model", SHIFTED, lambda i: i + 4 if i else 3),
    "albert": (
        "spiece.model",
        dict(pad_id=0, unk_id=1, bos_id=2, eos_id=3, control_symbols=["[MASK]"], **PAIR),
        lambda i: i,
    ),
    "deberta-v2": (
        "spm.model",
        dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", unk_piece="[UNK]", **PAIR),
        lambda i: i,
    ),
}
OPTIONS = [
    {},
    {"byte_fallback": True, "character_coverage": 0.98},
    {"user_defined_symbols": ["<x>", "ab", "ｶﾞ"]},
    {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True},
    {"add_dummy_prefix": False, "normalization_rule_name": "identity"},
    {"treat_whitespace_as_suffix": True, "normalization_rule_name": "nfkc_cf"},
]


def random_texts(count: int, seed: int) -> list[str]:
    random_numbers = random.Random(seed)
    texts = []
    for _ in range(count):
        letters = "".join(random_numbers.sample(ALPHABETS, random_numbers.choice((1, 2, len(ALPHABETS)))))
        texts.append("".join(random_numbers.choices(letters, k=random_numbers.randint(0, 24))))
    return texts


def assert_equal(tokenizer: Tokenizer, model, texts: list[str], id_of=lambda i: i) -> None:
    encodings = tokenizer.encode_batch(texts, special=False, offsets=True)
    for text, encoding in zip(texts, encodings, strict=True):
        expected = model.encode(text, return_type="offset_mapping")
        assert encoding.ids.tolist() == list(map(id_of, expected["ids"])), repr(text)
        spans = np.array(expected["offsets"], int).reshape(-1, 2)
        empty = spans[:, 0] == spans[:, 1]  # parts of one character, which ours give the character
        spans[empty, 1] = np.minimum(spans[empty, 0] + 1, len(text))
        assert encoding.offsets.tolist() == spans.tolist(), repr(text)
    flat, lengths = tokenizer.encode_ids(texts)
    assert flat.tolist() == [index for encoding in encodings for index in encoding.ids]
    assert lengths.tolist() == [len(encoding.ids) for encoding in encodings]


def train(folder: Path, family: str, options: dict) -> bytes:
    name, ids, _ = FAMILIES[family]
    texts = [text for text in random_texts(1500, 1) if text.strip()]
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=writer, minloglevel=3, vocab_size=600,
        hard_vocab_limit=False, model_type="unigram", **{"pad_id": -1} | ids | options,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(writer.getvalue())
    if family:
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
    if family == "albert":  # its other steps come before the model
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "keep_accents": true}')
    return writer.getvalue()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "default")
@pytest.mark.parametrize("family", FAMILIES)
def test_random_texts(family: str, options: dict, tmp_path: Path) -> None:
    model = sentencepiece.SentencePieceProcessor(model_proto=train(tmp_path / "published", family, options))
    tokenizer = Tokenizer.load(tmp_path / "published")
    texts = [*random_texts(600, 2), "a<x>b ab  cab ｶﾞ <x>", "  two  spaces  "]
    if family == "albert":  # which splits "2," and writes `` as "
        texts = [text for text in texts if not any(mark in text for mark in (",", "``", "''"))]
    assert_equal(tokenizer, model, texts, FAMILIES[family][2])
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint
    assert_equal(again, model, texts[:50], FAMILIES[family][2])


def test_deberta(shared_data: Path) -> None:
    file = shared_data / "tokenizers" / "deberta-v3" / "spm.model"
    if not file.is_file():
        pytest.skip("needs the published spm.model of deberta-v3")
    assert_equal(
        Tokenizer.load(file), sentencepiece.SentencePieceProcessor(model_file=str(file)), random_texts(4000, 3)
    )


def test_special_tokens_in_a_text(tmp_path: Path) -> None:
    """They are matched in the text itself, with the space before a mask; full-width ones stay ordinary."""
    train(tmp_path, "xlm-roberta", {})
    tokenizer = Tokenizer.load(tmp_path)
    (encoding,) = tokenizer.encode_batch(["a <mask>b</s> ＜/s＞"], special=False, offsets=True)
    special = np.isin(encoding.ids, (tokenizer.mask_id, tokenizer.sep_id))
    assert encoding.ids[special].tolist() == [tokenizer.mask_id, tokenizer.sep_id]
    assert encoding.offsets[special].tolist() == [[1, 8], [9, 13]]
    (pair,) = tokenizer.encode_batch(["a"], ["b"], offsets=True)
    marks = [tokenizer.cls_id, tokenizer.sep_id, tokenizer.sep_id, tokenizer.sep_id]
    assert pair.ids[pair.sequence == -1].tolist() == marks and not pair.type_ids.any()


def test_steps_before_the_model(tmp_path: Path) -> None:
    """Offsets lead through lowercase and accents to the original text."""
    train(tmp_path, "albert", {})
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = Tokenizer.load(tmp_path)
    text = "İÉ ``ﬁAé''  2,"
    (encoding,) = tokenizer.encode_batch([text], special=False, offsets=True)
    plain = 'ie "fiae" 2,'
    assert encoding.ids.tolist() == tokenizer.encode_batch([plain], special=False)[0].ids.tolist()
    assert encoding.offsets[-1, 1] == len(text) and (np.diff(encoding.offsets[:, 0]) >= 0).all()
    assert not any("2," in tokenizer.token(index) for index in encoding.ids)


def test_added_tokens_and_lowercase(tmp_path: Path) -> None:
    """As in Hugging Face's library: a normalized token is matched without regard to case, another as it is written."""
    train(tmp_path, "albert", {})
    size = Tokenizer.load(tmp_path).vocab_size
    decoder = {size: {"content": "NEW", "normalized": True}, size + 1: {"content": "Raw", "normalized": False}}
    settings = {"do_lower_case": True, "added_tokens_decoder": decoder}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(tmp_path)
    texts = ["a NEW é", "aneWb", "Raw raw", "éNëw", "RawnewNEW"]
    encodings = tokenizer.encode_batch(texts, special=False, offsets=True)
    added = [[int(i) - size for i in encoding.ids if i >= size] for encoding in encodings]
    assert added == [[0], [0], [1], [0], [1, 0, 0]]
    spans = [encoding.offsets[encoding.ids >= size].tolist() for encoding in encodings]
    assert spans == [[[2, 5]], [[1, 4]], [[0, 3]], [[1, 4]], [[0, 3], [3, 6], [6, 9]]]


def test_files_that_do_not_match(tmp_path: Path) -> None:
    train(tmp_path / "one", "xlm-roberta", {})
    Tokenizer.load(tmp_path / "one").save(tmp_path / "saved")
    other = train(tmp_path / "two", "xlm-roberta", {"user_defined_symbols": ["<other>"]})
    (tmp_path / "saved" / "tokenizer_pieces.model").write_bytes(other)
    with pytest.raises(ValueError, match="a piece of tokenizer_pieces.model; the files do not match"):
        Tokenizer.load(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer_pieces.model").write_bytes(b"x")
    with pytest.raises(ValueError, match="has a tokenizer_pieces.model that is not a SentencePiece model"):
        Tokenizer.load(tmp_path / "saved")
