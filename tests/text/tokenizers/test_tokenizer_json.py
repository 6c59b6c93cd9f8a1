"""What the classes of transformers make of tokenizer.json: files of older releases, and of other classes."""

import json
import logging
from pathlib import Path

import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from jaxencoder.text.tokenizers.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = ["a b ", " a  b", "a <mask> b [MASK]", "b </s> <s>a", "ab\nb</s>a 12", "", "B ab"]
XLMR = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ALBERT, T5 = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), ("<pad>", "</s>", "<unk>")
LLAMA = [*XLMR, "▁", "a", "b", "▁a", "ab", "▁ab", *(f"<0x{i:02X}>" for i in range(256))]
LETTERS = ["Ġ", "a", "b", "Ġa", "ab", "1", "2", "12"]
TWO_SEGMENTS = ["input_ids", "token_type_ids", "attention_mask"]


def write(folder: Path, tokenizer: Library, model_type: str, settings: dict) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "type_vocab_size": 2}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def same(folder: Path) -> Tokenizer:
    """Ours, with the ids of transformers for TEXTS and for a pair."""
    ours, peer = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    assert [x.ids.tolist() for x in ours.encode_batch(TEXTS)] == peer(TEXTS)["input_ids"]
    pair, reference = ours.encode_batch(["a b"], ["b"])[0], peer("a b", "b")
    assert pair.ids.tolist() == reference["input_ids"]
    assert pair.type_ids.tolist() == reference.get("token_type_ids", [0] * len(pair.ids))
    return ours


def with_special(tokenizer: Library, tokens: tuple[str, ...], single: str, pair: str) -> Library:
    tokenizer.add_special_tokens([AddedToken(x, lstrip="mask" in x.lower(), normalized=False) for x in tokens])
    ids = [(x, tokenizer.token_to_id(x)) for x in tokens if x in single]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize(
    ("name", "model_type", "tokens", "template"),
    [
        ("XLMRobertaTokenizer", "xlm-roberta", XLMR, ("<s> $A </s>", "<s> $A </s> </s> $B </s>")),
        ("CamembertTokenizer", "camembert", XLMR, ("<s> $A </s>", "<s> $A </s> </s> $B </s>")),
        ("AlbertTokenizer", "albert", ALBERT, ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")),
        ("T5Tokenizer", "t5", T5, ("$A </s>", "$A </s> $B </s>")),
    ],
)
def test_words_of_older_files(name: str, model_type: str, tokens, template, tmp_path: Path) -> None:
    """They split at the metaspace alone, which makes a token of a space at the end of a part."""
    scores = [(x, 0.0) for x in tokens] + [(x, -float(len(x))) for x in ("▁", "a", "b", "▁a", "▁b", "ab", "▁ab")]
    tokenizer = Library(models.Unigram(scores, tokens.index("<unk>")))
    steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()] if model_type == "albert" else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    write(tmp_path, with_special(tokenizer, tokens, *template), model_type, {"tokenizer_class": name})
    same(tmp_path)


@pytest.mark.parametrize("of_settings", [True, False])
@pytest.mark.parametrize("of_file", [True, False])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_flags_of_an_added_token(name: str, of_file: bool, of_settings: bool, tmp_path: Path) -> None:
    """Those of tokenizer.json win."""
    tokenizer = Library(models.BPE({x: i for i, x in enumerate([*XLMR, *LETTERS])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(x, lstrip=of_file and x == "<mask>", normalized=False) for x in XLMR])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    write(tmp_path, tokenizer, "roberta", {"tokenizer_class": "RobertaTokenizer"})
    mask = {"content": "<mask>", "lstrip": of_settings, "rstrip": False, "single_word": False, "normalized": False}
    settings = json.loads((tmp_path / name).read_text()) if (tmp_path / name).exists() else {}
    (tmp_path / name).write_text(json.dumps(settings | {"mask_token": mask | {"__type": "AddedToken"}}))
    same(tmp_path)


def bert(tokens: tuple[str, ...], name: str) -> Library:
    vocab = {x: i for i, x in enumerate([*tokens, "[UNK]", "a", "b", "##b", "1", "##2"])}
    return getattr(transformers, name)(vocab=vocab).backend_tokenizer


def test_segments_in_a_file_of_mpnet(tmp_path: Path) -> None:
    """Published files give the second text the type id 1, which the model does not have."""
    template = ("<s>:0 $A:0 </s>:0", "<s>:0 $A:0 </s>:0 </s>:0 $B:1 </s>:1")
    tokenizer = with_special(bert(XLMR, "MPNetTokenizer"), XLMR, *template)
    write(tmp_path, tokenizer, "mpnet", {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True})
    assert not same(tmp_path).encode_batch(["a"], ["b"])[0].type_ids.any()


def test_segments_that_no_setting_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are left out as in transformers, with a warning; a tokenizer that is saved again keeps what it has."""
    tokenizer = bert(("[PAD]", "[CLS]", "[SEP]", "[MASK]"), "BertTokenizer")
    write(tmp_path, tokenizer, "bert", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with caplog.at_level(logging.WARNING):
        assert not same(tmp_path).encode_batch(["a"], ["b"])[0].type_ids.any()
    assert "pairs have no segments, since no setting names them" in caplog.text
    caplog.clear()
    write(
        tmp_path, tokenizer, "bert", {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": TWO_SEGMENTS}
    )
    ours = same(tmp_path)
    assert ours.encode_batch(["a"], ["b"])[0].type_ids.any() and not caplog.text
    ours.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((tmp_path / "config.json").read_text())
    assert same(tmp_path / "saved").fingerprint == ours.fingerprint


@pytest.mark.parametrize("settings", [{}, {"legacy": True}, {"add_prefix_space": False}], ids=json.dumps)
def test_llama(settings: dict, tmp_path: Path) -> None:
    """Older files add the metaspace in their normalizer, after each special token too."""
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab")]
    model = models.BPE(
        {x: i for i, x in enumerate(LLAMA)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Library(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    with_special(tokenizer, XLMR, "<s> $A", "<s> $A <s> $B")
    write(tmp_path, tokenizer, "llama", {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", **settings})
    same(tmp_path)


@pytest.mark.parametrize(
    "name", ["GPT2Tokenizer", "GPTNeoXTokenizer", "GemmaTokenizer", "CohereTokenizer", "LlamaTokenizer"]
)
def test_steps_of_another_decoder(name: str, tmp_path: Path) -> None:
    """transformers 5 would replace the file's steps by those of the class; a generic class takes the file as it is."""
    tokenizer = Library(models.BPE({x: i for i, x in enumerate([*XLMR, *LETTERS])}, []))
    tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split("12", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    write(tmp_path, with_special(tokenizer, XLMR, "<s> $A", "<s> $A $B"), "x", {"tokenizer_class": name})
    with pytest.raises(ValueError, match=f"has another (normalizer|pre_tokenizer) than {name}, which replaces it"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    same(tmp_path)
