"""The classes of transformers' tokenizers: which there are, what each reads, and which one a folder has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxencoder.text.tokenizers.encoding import ROLES


class TokenizerClass(NamedTuple):
    """A class of transformers: the steps that it puts around a vocabulary, and the keys of settings that it applies."""

    family: str  # see `published`; "file": the steps of tokenizer.json
    reads: tuple[str, ...] = ()
    model: str = ""  # type of its model in tokenizer.json; "" for any
    has_segments: bool = True  # whether it gives segments to pairs where model_input_names is missing


_BERT_FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_WORDPIECE = TokenizerClass("bert", _BERT_FLAGS, "WordPiece")
_ROBERTA = TokenizerClass("roberta", ("add_prefix_space", "trim_offsets"), "BPE")
# Takes tokenizer.json as it is.
GENERIC = TokenizerClass("file", has_segments=False)
# Of a vocabulary without a class: the kind of file decides.
UNNAMED = TokenizerClass("", (*_BERT_FLAGS, "add_prefix_space", "trim_offsets", "keep_accents", "split_by_punct"))
_JAPANESE_KEYS = (
    *("do_lower_case", "word_tokenizer_type", "subword_tokenizer_type", "do_word_tokenize"),
    *("do_subword_tokenize", "never_split", "mecab_kwargs", "sudachi_kwargs", "jumanpp_kwargs"),
)
# The class without "Tokenizer" and "Fast".
CLASSES = {
    **dict.fromkeys(["Bert", "Electra", "SqueezeBert", "MobileBert", "ConvBert", "LayoutLM", "Lxmert"], _WORDPIECE),
    **dict.fromkeys(["DPRQuestionEncoder", "DPRContextEncoder", "DPRReader"], _WORDPIECE),
    "DistilBert": _WORDPIECE._replace(has_segments=False),
    "MPNet": _WORDPIECE._replace(family="mpnet", has_segments=False),
    **dict.fromkeys(["Roberta", "Longformer", "Bart", "LED"], _ROBERTA),
    "Deberta": TokenizerClass("deberta", ("add_prefix_space",), "BPE"),
    "Herbert": TokenizerClass("herbert", model="BPE", has_segments=False),
    "XLMRoberta": TokenizerClass("xlmroberta", ("add_prefix_space",), "Unigram"),
    "Camembert": TokenizerClass("camembert", ("add_prefix_space",), "Unigram"),
    # transformers 5 gives ALBERT no segments; its authors do.
    "Albert": TokenizerClass("albert", ("do_lower_case", "keep_accents", "add_prefix_space"), "Unigram"),
    "DebertaV2": TokenizerClass("debertav2", ("do_lower_case", "split_by_punct", "add_prefix_space"), "Unigram"),
    "BertJapanese": TokenizerClass("japanese", _JAPANESE_KEYS, has_segments=False),
    "Esm": TokenizerClass("esm", has_segments=False),
    **dict.fromkeys(["T5", "BigBird", "RemBert"], GENERIC._replace(model="Unigram")),
    **dict.fromkeys(["Gemma", "GPTNeoX", "Cohere"], GENERIC._replace(model="BPE")),
    **dict.fromkeys(["Qwen2", "GPT2"], GENERIC._replace(model="BPE", reads=("add_prefix_space",))),
    "Llama": GENERIC._replace(model="BPE", reads=("add_prefix_space", "legacy")),
}
# Classes with steps that neither a vocabulary nor tokenizer.json holds -> those steps.
_REFUSED = {
    "RoFormer": "needs jieba to split words",
    "Phobert": "has rules of its own for pieces that continue a word",
    "Bertweet": "has rules of its own for tweets",
    "RoCBert": "also reads the shapes and sounds of characters",
    **dict.fromkeys(("Canine", "Perceiver", "ByT5", "CharacterBert"), "reads characters or bytes without a vocabulary"),
    **dict.fromkeys(("Flaubert", "XLM"), "needs sacremoses to split words"),
    **dict.fromkeys(
        ("Tapas", "LayoutLMv2", "LayoutLMv3", "LayoutXLM", "MarkupLM", "Luke", "MLuke"), "reads more than text"
    ),
}
# Names of the class that takes tokenizer.json as it is.
_GENERIC_NAMES = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend")
# model_type -> the class of a folder that names none.
_BY_MODEL_TYPE = {
    **dict.fromkeys(["bert", "distilbert", "electra", "squeezebert", "mobilebert", "convbert"], "Bert"),
    **dict.fromkeys(["layoutlm", "nomic_bert", "ernie", "megatron-bert", "nezha"], "Bert"),
    **dict.fromkeys(["roberta", "longformer", "data2vec-text", "ibert", "roberta-prelayernorm", "mega"], "Roberta"),
    **dict.fromkeys(["xlm-roberta", "xlm-roberta-xl", "xmod", "gte", "jina_embeddings_v3"], "XLMRoberta"),
    **dict.fromkeys(["gemma", "gemma2", "gemma3", "gemma3_text"], "Gemma"),
    **{"camembert": "Camembert", "albert": "Albert", "mpnet": "MPNet", "herbert": "Herbert", "roformer": "RoFormer"},
    **{"deberta": "Deberta", "deberta-v2": "DebertaV2", "t5": "T5", "mt5": "T5", "qwen2": "Qwen2", "qwen3": "Qwen2"},
    **{"llama": "Llama", "big_bird": "BigBird", "rembert": "RemBert", "esm": "Esm", "canine": "Canine"},
    **{"bert-japanese": "BertJapanese", "phobert": "Phobert", "bertweet": "Bertweet", "roc_bert": "RoCBert"},
    **{"flaubert": "Flaubert", "xlm": "XLM"},
}
# Of these models transformers takes tokenizer.json as it is, whatever class is named.
_FILE_MODEL_TYPES = ("modernbert", "xlm-roberta-xl", "nystromformer", "umt5", "qwen2", "mistral")

_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Family -> the tokens of ROLES for the keys that the settings lack. Other families have them in their own modules.
CLASS_TOKENS = {
    family: dict(zip(ROLES, tokens, strict=True))
    for family, tokens in {
        **dict.fromkeys(("bert", "deberta", "japanese"), _BERT_TOKENS),
        **dict.fromkeys(("roberta", "herbert"), ("<pad>", "<unk>", "<s>", "</s>", "<mask>")),
        "mpnet": ("<pad>", "[UNK]", "<s>", "</s>", "<mask>"),
        "esm": ("<pad>", "<unk>", "<cls>", "<eos>", "<mask>"),
    }.items()
}
# Families whose classes fix these tokens, or take them from other roles than the template here -> the only ones.
_ROBERTA_TOKENS = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>"}
_ALBERT_TOKENS = {"unk": "<unk>", "bos": "[CLS]", "eos": "[SEP]", "cls": "[CLS]", "sep": "[SEP]"}
FIXED_TOKENS = {
    "xlmroberta": _ROBERTA_TOKENS,
    "camembert": _ROBERTA_TOKENS,
    "albert": _ALBERT_TOKENS,
    "debertav2": _ALBERT_TOKENS | {"unk": "[UNK]"},
    "herbert": {"cls": "<s>", "sep": "</s>"},
    "esm": {"eos": "<eos>", "sep": "<eos>"},
}


def class_name(
    settings: Mapping[str, Any], config: Mapping[str, Any], file: Path, has_tokenizer_json: bool
) -> tuple[str, bool]:
    """The class, and whether a file names it."""
    auto_map = settings.get("auto_map") or {}
    if code := auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map:
        advice = 'if tokenizer.json is complete, remove the key and set tokenizer_class to "PreTrainedTokenizerFast"'
        raise ValueError(f"{file} has auto_map {code!r}, code of its own, which is not run; {advice}")
    name = settings.get("tokenizer_class") or config.get("tokenizer_class") or ""
    if not isinstance(name, str) or settings.get("tokenizer_class") == "":
        source = file if "tokenizer_class" in settings else file.with_name("config.json")
        raise ValueError(f"{source} has tokenizer_class {name!r}; a name is needed")
    model_type = str(config.get("model_type") or "")
    if has_tokenizer_json and model_type in _FILE_MODEL_TYPES:
        return "PreTrainedTokenizerFast", bool(name)
    if not name and model_type in _BY_MODEL_TYPE:
        return f"{_BY_MODEL_TYPE[model_type]}Tokenizer", False
    return name, bool(name)


def tokenizer_class(name: str, is_named: bool, folder: Path, has_tokenizer_json: bool) -> TokenizerClass:
    """The class of a name; for no name, that of tokenizer.json, or else the name of the file decides."""
    if not name or name in _GENERIC_NAMES:
        # This package saves a SentencePiece model under the generic class.
        return GENERIC if has_tokenizer_json else UNNAMED
    short_name = name.removesuffix("Fast").removesuffix("Tokenizer")
    if short_name in CLASSES and short_name != name:
        return CLASSES[short_name]
    problem = f"{folder} has tokenizer_class {name!r}" if is_named else f"{folder} needs the {name} of its model_type"
    if short_name in _REFUSED:
        raise ValueError(f"{problem}, which {_REFUSED[short_name]}; tokenize with it and pass token ids")
    advice = 'if its tokenizer.json is complete, set tokenizer_class to "PreTrainedTokenizerFast"'
    raise ValueError(f"{problem}, which is not supported; {advice}; supported are {', '.join(CLASSES)}")
