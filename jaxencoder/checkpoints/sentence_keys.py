"""The settings files of sentence-transformers: which keys they may have, and which values.

A key that this table lacks could change the output, so it is an error, unless its value is null, false or empty. So is
another value of a key with listed ones. An argument for transformers is an error whatever its value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jaxencoder.text.messages import closest

ANY: Final = None  # the reader checks the value, or it has no effect

# Arguments of from_pretrained that say where from, with which code and in which precision to load.
_LOADING = {
    **dict.fromkeys(("trust_remote_code", "cache_dir", "revision", "local_files_only", "token", "subfolder"), ANY),
    **dict.fromkeys(("use_safetensors", "force_download", "torch_dtype", "dtype"), ANY),
    **dict.fromkeys(("attn_implementation", "device_map", "low_cpu_mem_usage"), ANY),
}
_FASTER = dict.fromkeys(("unpad_inputs", "use_memory_efficient_attention"), ANY)  # remote code's, without effect
# Versions of Python packages, and notes for readers
_NOTES = dict.fromkeys(("__version__", "requirements", "library_name", "matryoshka_dims"), ANY)
_NAMES = {"module_input_name": ("sentence_embedding",), "module_output_name": (None, "sentence_embedding")}

_TOKEN_NAMES = {"module_input_name": ("token_embeddings",), "module_output_name": (None, "token_embeddings")}

_ARGUMENTS = ("model_kwargs", "config_kwargs", "processor_kwargs")
_EMPTY: tuple[Any, ...] = ("", [], {})

# Kind of file -> its keys -> their supported values, or ANY.
_KEYS: Mapping[str, Mapping[str, tuple[Any, ...] | None]] = {
    # An entry of modules.json. `kwargs` are names of arguments of remote code.
    "module": {"type": ANY, "path": ANY, "idx": ANY, "name": ANY, "kwargs": ([], {}, None)},
    # config_sentence_transformers.json, by its model_type
    "SentenceTransformer": {
        **_NOTES,
        "model_type": ANY,
        "prompts": ANY,
        "default_prompt_name": ANY,
        "similarity_fn_name": ANY,
        "truncate_dim": ANY,
    },
    "SparseEncoder": {
        **_NOTES,
        "model_type": ANY,
        "prompts": ANY,
        "default_prompt_name": ANY,
        "similarity_fn_name": (None, "cosine", "dot", "euclidean", "manhattan"),
        "max_active_dims": ANY,
    },
    "CrossEncoder": {
        **_NOTES,
        "model_type": ANY,
        "prompts": ANY,
        "default_prompt_name": ANY,
        "activation_fn": ANY,
        "keep_in_fp32_modules": ANY,  # no effect: heads are computed in float32
    },
    "MultiVectorEncoder": {
        **_NOTES,
        "model_type": ANY,
        "prompts": ANY,
        "default_prompt_name": ANY,  # queries and documents always have a prompt of their own
        "similarity_fn_name": (None, "maxsim", "meanmaxsim"),
    },
    # Of PyLate
    "ColBERT": {
        **_NOTES,
        **dict.fromkeys(("model_type", "prompts", "default_prompt_name", "query_prefix", "document_prefix"), ANY),
        **dict.fromkeys(("query_length", "document_length", "do_query_expansion", "skiplist_words"), ANY),
        "attend_to_expansion_tokens": ANY,
        "similarity_fn_name": (None, "MaxSim", "maxsim", "cosine"),  # all of them MaxSim there
    },
    # sentence_bert_config.json
    "Transformer": {
        "max_seq_length": ANY,
        "do_lower_case": ANY,
        "transformer_task": ANY,
        "modality_config": ANY,
        "module_output_name": ANY,
        # Arguments for transformers, and their older names
        **dict.fromkeys(("model_kwargs", "config_kwargs", "processor_kwargs"), ANY),
        **dict.fromkeys(("model_args", "config_args", "tokenizer_args"), ANY),
        # How to compute, without effect
        **dict.fromkeys(("unpad_inputs", "backend"), ANY),
        "processing_kwargs": (None, {}),
        "tokenizer_name_or_path": (None,),
        # Of late interaction (ColBERT)
        **dict.fromkeys(("query_length", "document_length", "query_expansion"), (None,)),
    },
    # Arguments for transformers in sentence_bert_config.json, unless they repeat what the folder's other files say
    "model_kwargs": {**_LOADING, **_FASTER, "add_pooling_layer": ANY},
    "config_kwargs": {
        **_LOADING,
        **_FASTER,
        "use_cache": ANY,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), ANY),
    },
    "processor_kwargs": {
        **_LOADING,
        "model_max_length": ANY,
        "use_fast": ANY,
        "clean_up_tokenization_spaces": ANY,  # of decoding
        "padding_side": ANY,  # padding is masked
        "truncation_side": ("right",),
    },
    # config.json of the modules after the Transformer
    "Pooling": {
        "embedding_dimension": ANY,
        "word_embedding_dimension": ANY,
        "pooling_mode": ANY,
        "include_prompt": ANY,
        # Of older versions
        "pooling_mode_cls_token": ANY,
        "pooling_mode_max_tokens": ANY,
        "pooling_mode_mean_tokens": ANY,
        "pooling_mode_mean_sqrt_len_tokens": ANY,
        "pooling_mode_weightedmean_tokens": ANY,
        "pooling_mode_lasttoken": ANY,
    },
    # Of sparse models
    "SpladePooling": {
        "pooling_strategy": ("max", "sum"),
        "activation_function": ("relu", "log1p_relu"),
        "embedding_dimension": ANY,
        "word_embedding_dimension": ANY,
    },
    "SparseStaticEmbedding": {"frozen": ANY},  # no effect outside of training
    "Router": {"types": ANY, "structure": ANY, "parameters": ANY},
    "routes": {"default_route": (None, "query", "document"), "allow_empty_key": ANY, "route_mappings": (None, {})},
    "Dense": {
        **_NAMES,
        "in_features": ANY,
        "out_features": ANY,
        "bias": ANY,
        "activation_function": ANY,
        "use_residual": ANY,
    },
    "LayerNorm": {"dimension": ANY},
    "Normalize": _NAMES,
    "Dropout": {"dropout": ANY},
}
_LATE_INTERACTION = dict.fromkeys(("query_length", "document_length", "query_expansion"), ANY)
KEYS = {
    **_KEYS,
    # Of late interaction, where modules change the vectors of tokens
    "token Transformer": {**_KEYS["Transformer"], **_LATE_INTERACTION},
    "token Dense": {**_KEYS["Dense"], **_TOKEN_NAMES},
    "token Normalize": _TOKEN_NAMES,
    "token Dropout": _KEYS["Dropout"],
    "query_expansion": dict.fromkeys(("strategy", "attend", "token", "length"), ANY),
    "MultiVectorMask": {"skiplist_words": ANY, "skiplist_tasks": ANY, "keep_only_token_ids": (None,)},
    "HierarchicalTokenPooling": dict.fromkeys(
        ("pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"), ANY
    ),
}


def check_keys(config: Mapping[str, Any], kind: str, where: Path | str) -> None:
    """Raise ValueError for a key or a value that `KEYS` does not have for this kind; `where` names the file."""
    for name, value in config.items():
        problem = f"{where} has {name} {_short(value)}"
        if name not in KEYS[kind]:
            if kind not in _ARGUMENTS and (value is None or value is False or value in _EMPTY):
                continue
            advice = closest(name, KEYS[kind].keys() - _NOTES) or "; remove it if it does not change the output"
            raise ValueError(f"{problem}, a setting that is not supported{advice}")
        if (values := KEYS[kind][name]) is not None and value not in values:
            supported = " or ".join(repr(x) for x in values if x)
            raise ValueError(f"{problem}; only {supported} is supported" if supported else f"{problem}, not supported")


def positive(value: Any, file: Path, name: str) -> int:
    """The value of a setting that must be an integer of at least 1; ValueError for others."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file} has {name} {value!r}; an integer of at least 1 is needed")
    return value


def flag(config: Mapping[str, Any], name: str, file: Path, default: bool = True) -> bool:
    """The value of a setting that must be true, or false or null, which mean the same; ValueError for others."""
    value = config.get(name, default)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ValueError(f"{file} has {name} {value!r}; true or false is needed")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
