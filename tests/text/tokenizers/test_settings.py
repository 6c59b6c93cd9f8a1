"""What a folder says of its tokenizer: ids equal to those of transformers, or an error that names the key."""

import json
import re

import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from jaxencoder.text.tokenizers.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "cat", "café", "cafe", "##s", "sat", "on", "住", "京", "住京", "<e>", "[E1]", *"abcd"]
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *map(chr, range(33, 127)), "Ġ", "at", "cat", "Ġs", "Ġsat"]
MERGES = "#version: 0.2\na t\nc at\nĠ s\nĠs at\n"
HERBERT = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *map(chr, range(33, 127))]
HERBERT += [f"{chr(i)}</w>" for i in range(33, 127)] + ["at</w>", "cat</w>"]
TEXTS = ["The cats sat on", "café Café 京住", "a b <e> [E1] ##s [SEP] d", " a  [MASK] b ", ""]
LONG = "a b c d a b c d"
MARKER = {"content": "<e>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def bert(folder):
    write(folder, "vocab.txt", "\n".join(WORDS) + "\n")
    write(folder, "config.json", {"model_type": "bert"})


def bert_file(folder):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "bert"})


def bpe(folder, vocab, merges, config):
    write(folder, "vocab.json", {token: i for i, token in enumerate(vocab)})
    write(folder, "merges.txt", merges)
    write(folder, "config.json", config)


def roberta(folder):
    bpe(folder, [*BYTES, "<e>"], MERGES, {"model_type": "roberta"})


def herbert(folder):
    config = {"model_type": "bert", "tokenizer_class": "HerbertTokenizerFast"}
    bpe(folder, HERBERT, "#version: 0.2\na t</w>\nc at</w>\n", config)


def same(folder, size=None):
    transformers = pytest.importorskip("transformers")
    peer, ours = transformers.AutoTokenizer.from_pretrained(str(folder)), Tokenizer.load(folder, size)
    assert [x.ids.tolist() for x in ours.encode_batch(TEXTS)] == peer(TEXTS)["input_ids"]
    pairs = ours.encode_batch(TEXTS[:2], TEXTS[1:3])
    reference = peer(TEXTS[:2], TEXTS[1:3])
    assert [x.ids.tolist() for x in pairs] == reference["input_ids"]
    segments = reference.get("token_type_ids") or [[0] * len(x.ids) for x in pairs]
    assert [x.type_ids.tolist() for x in pairs] == segments
    shorter = ours.encode_batch([LONG, LONG], ["a b c", LONG], max_length=9)
    assert [x.ids.tolist() for x in shorter] == peer([LONG] * 2, ["a b c", LONG], truncation=True, max_length=9)[
        "input_ids"
    ]
    assert ours.max_length == (peer.model_max_length if peer.model_max_length < 1e9 else 0)
    return ours


SETTINGS = [
    {"do_lower_case": False},
    {"strip_accents": False, "do_lower_case": True},
    {"tokenize_chinese_chars": False},
    {"add_prefix_space": True},
    {"truncation_side": "left"},
    {"model_max_length": 8},
    {"model_max_length": 1e30, "padding_side": "left"},
    {"max_len": 9},
    {"additional_special_tokens": ["<e>"]},
    {"additional_special_tokens": ["[E1]", "<new>"]},
    {"extra_special_tokens": {"image_token": "[E1]"}},
    {"bos_token": "[E1]"},
    {"mask_token": "<e>"},
    {"mask_token": None},
    {"mask_token": MARKER | {"__type": "AddedToken"}},
    {"model_input_names": ["input_ids", "attention_mask"]},
    {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    {"clean_up_tokenization_spaces": True, "never_split": None, "use_fast": False, "add_bos_token": True},
    {"tokenizer_class": "ElectraTokenizerFast", "do_lower_case": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=json.dumps)
@pytest.mark.parametrize("make", [bert, bert_file, roberta, herbert])
def test_settings(make, settings, tmp_path):
    if "Electra" in settings.get("tokenizer_class", "") and make in (roberta, herbert):
        pytest.skip("another kind of vocabulary")
    make(tmp_path)
    if make is roberta and settings.get("mask_token") == "<e>":
        pytest.skip("a mask takes the space before it, as in the original RoBERTa")
    if make is bert:
        settings = {"do_lower_case": True} | settings
    write(tmp_path, "tokenizer_config.json", settings)
    ours = same(tmp_path)
    ours.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.fingerprint == ours.fingerprint
    assert again.special_tokens == ours.special_tokens


def test_side_counts_for_the_fingerprint(tmp_path):
    bert(tmp_path)
    right = Tokenizer.load(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"truncation_side": "left"})
    left = Tokenizer.load(tmp_path)
    assert left.fingerprint != right.fingerprint
    assert left.encode_batch([LONG], max_length=4)[0].ids.tolist() == [2, *(WORDS.index(word) for word in "cd"), 3]


@pytest.mark.parametrize("make", [bert, roberta])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", lambda size: {"<zz>": size}),
        ("added_tokens.json", lambda size: {"<zz>": size + 1, "<e2>": size}),
        ("special_tokens_map.json", lambda size: {"mask_token": MARKER}),
        ("special_tokens_map.json", lambda size: {"additional_special_tokens": ["<e>"]}),
        ("tokenizer_config.json", lambda size: {"added_tokens_decoder": {str(size): MARKER | {"content": "<zz>"}}}),
        (
            "tokenizer_config.json",
            lambda size: {"added_tokens_decoder": {str(size): {"content": "Zz", "single_word": True}}},
        ),
    ],
)
def test_added_tokens(make, name, content, tmp_path):
    make(tmp_path)
    size = len(WORDS) if make is bert else len(BYTES) + 1
    write(tmp_path, "tokenizer_config.json", {"do_lower_case": True} if make is bert else {})
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) if name == "tokenizer_config.json" else {}
    write(tmp_path, name, settings | content(size))
    same(tmp_path)
    transformers = pytest.importorskip("transformers")
    texts = ["a<zz> b", "a <zz>b Zz aZz"]
    peer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert [x.ids.tolist() for x in Tokenizer.load(tmp_path).encode_batch(texts)] == peer(texts)["input_ids"]


def test_direction_in_the_file(tmp_path):
    bert_file(tmp_path)
    file = tmp_path / "tokenizer.json"
    truncation = {"direction": "Left", "max_length": 2, "strategy": "OnlySecond", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    write(
        tmp_path,
        "tokenizer.json",
        json.loads(file.read_text()) | {"truncation": truncation, "padding": padding | {"pad_to_multiple_of": None}},
    )
    same(tmp_path)


def test_no_mask_token(tmp_path):
    """A vocabulary without a mask embeds; only its use is an error. A model's table with room gets the class's."""
    write(tmp_path, "vocab.txt", "\n".join([word for word in WORDS if word not in ("[MASK]", "[PAD]")]))
    ours = Tokenizer.load(tmp_path)
    assert ours.special_tokens == {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    assert ours.encode_batch(["the cat"])[0].ids.tolist() == [1, 3, 4, 2]
    with pytest.raises(ValueError, match="has no mask token, which is needed here; name it as mask_token"):
        _ = ours.mask_id
    write(tmp_path, "config.json", {"model_type": "bert"})
    write(tmp_path, "tokenizer_config.json", {"do_lower_case": True})
    assert same(tmp_path, len(WORDS)).mask_id == len(WORDS) - 1
    assert Tokenizer.load(tmp_path, len(WORDS) - 2).vocab_size == len(WORDS) - 2


def test_deberta(tmp_path):
    """[CLS] a [SEP] b [SEP] as its authors have it; transformers 5 writes two [SEP] between the texts."""
    names = dict(
        zip(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), strict=True)
    )
    bpe(tmp_path, [names.get(token, token) for token in BYTES], MERGES, {"model_type": "deberta"})
    (pair,) = Tokenizer.load(tmp_path).encode_batch(["cat sat"], ["cat"])
    assert pair.ids.tolist() == [0, BYTES.index("cat"), BYTES.index("Ġsat"), 2, BYTES.index("cat"), 2]
    assert pair.type_ids.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        ({"word_tokenizer_type": "mecab", "subword_tokenizer_type": "character"}, ["住", "京", "a", "[UNK]"]),
        ({"word_tokenizer_type": "basic"}, ["住京", "[UNK]"]),
    ],
)
def test_japanese(options, pieces, tmp_path):
    bert(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer", **options})
    ours = Tokenizer.load(tmp_path)
    assert ours.tokens(ours.encode_batch(["住京 ａＡ"], special=False)[0].ids) == pieces


def test_protein(tmp_path):
    vocab = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    write(tmp_path, "vocab.txt", "\n".join(vocab))
    write(tmp_path, "config.json", {"model_type": "esm"})
    write(tmp_path, "special_tokens_map.json", {"eos_token": "<eos>", "sep_token": None})
    transformers = pytest.importorskip("transformers")
    peer, ours = transformers.AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.load(tmp_path)
    texts = ["MKTAYIAK", "M K<mask>T", "mka JJ A", "", "A<null_1>-."]
    assert [x.ids.tolist() for x in ours.encode_batch(texts)] == peer(texts)["input_ids"]
    assert ours.encode_batch(["MK"], ["T"])[0].ids.tolist() == peer("MK", "T")["input_ids"]


REFUSED = [
    ({"tokenizer_class": "FooTokenizer"}, "has tokenizer_class 'FooTokenizer', which is not supported"),
    ({"tokenizer_class": "PhobertTokenizer"}, "has tokenizer_class 'PhobertTokenizer', which has rules of its own"),
    ({"tokenizer_class": "RobertaTokenizer"}, "needs RobertaTokenizer, which does not read a vocabulary of lines"),
    ({"tokenizer_class": 5}, "has tokenizer_class 5; a name is needed"),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, "with word_tokenizer_type None"),
    ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "has auto_map .*, code of its own"),
    ({"split_special_tokens": True}, "has split_special_tokens True"),
    ({"sp_model_kwargs": {"enable_sampling": True}}, "has sp_model_kwargs"),
    ({"unknown": 1}, "has unknown 1, a setting that is not known"),
    ({"do_lower_case": "false"}, "has do_lower_case 'false'; true or false is needed"),
    ({"truncation_side": "up"}, "has truncation_side 'up'; left or right is needed"),
    ({"model_max_length": -1}, "has model_max_length -1, a maximal length of texts; at least 3"),
    ({"mask_token": 3}, "has mask_token 3; a token with lstrip"),
    ({"added_tokens_decoder": {"99": MARKER}}, "gives the added token '<e>' the id 99, but in its vocabulary it has"),
    ({"added_tokens_decoder": {"x": MARKER}}, "has the id 'x'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_refused(settings, message, tmp_path):
    bert(tmp_path)
    write(tmp_path, "tokenizer_config.json", settings)
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert re.search(re.escape(str(tmp_path)), str(caught.value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("post_processor", {"special_tokens": {}}, r"has '\[CLS\]' in its post_processor"),
        ("post_processor", {"single": 1}, "not a tokenizer that can be read"),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": ""},
            "not a tokenizer .*: Precompiled: ",
        ),
    ],
)
def test_a_damaged_step_is_refused(key, value, message, tmp_path):
    bert_file(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content[key] |= value
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"tokenizer.json .*{message}"):
        Tokenizer.load(tmp_path)


def test_the_file_of_a_key_is_named(tmp_path):
    bert(tmp_path)
    write(tmp_path, "special_tokens_map.json", {"sep": "[SEP]"})
    with pytest.raises(ValueError, match=r"special_tokens_map.json has sep '\[SEP\]', a setting that is not known"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": normalizers.Lowercase()}, "has another normalizer than BertTokenizer"),
        (
            {"pre_tokenizer": pre_tokenizers.Split(Regex("b"), "isolated")},
            "has another pre_tokenizer than BertTokenizer",
        ),
        ({"model": models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")}, "but tokenizer.json holds a WordLevel model"),
    ],
)
def test_steps_of_another_class(change, message, tmp_path):
    """transformers 5 would replace the file's steps by those of the class; a generic class takes the file as it is."""
    bert_file(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    tokenizer = Library.from_file(file)
    for name, step in change.items():
        setattr(tokenizer, name, step)
    tokenizer.save(file)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    if "model" not in change:
        same(tmp_path)
