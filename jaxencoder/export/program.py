"""What is exported of a model: a function of padded rows, and the names by which other runtimes know its values."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.inference.model import outputs
from jaxencoder.kernels.platform import any_platform
from jaxencoder.model.config import ComputeConfig
from jaxencoder.model.heads import first_tokens
from jaxencoder.model.sentence import sentence_vectors
from jaxencoder.objectives.objective import Batch, Params

log = logging.getLogger(__name__)

Arrays = Mapping[str, jax.Array]
HIDDEN, VECTOR = "last_hidden_state", "sentence_embedding"

# A head -> the name of its task in transformers, and exported outputs -> those of `OpenedModel.__call__`. The first
# head that a model has is exported.
_HEADS = {
    "sequence_head": ("text-classification", {"logits": "logits"}),
    "token_head": ("token-classification", {"logits": "logits"}),
    "span_head": ("question-answering", {"start_logits": "start_logits", "end_logits": "end_logits"}),
    "choice_head": ("multiple-choice", {"logits": "logits"}),
    "mlm_head": ("fill-mask", {"logits": "mlm_logits"}),
    "nsp_head": ("next-sentence-prediction", {"logits": "nsp_logits"}),
    "rtd_head": ("replaced-token-detection", {"logits": "rtd_logits"}),
}
_FEATURES = ("feature-extraction", {HIDDEN: "hidden"})


@dataclass(frozen=True)
class Program:
    """A function to export.

    Attributes:
        task: its name in transformers.
        inputs: int32 arrays by name: "input_ids", "attention_mask" and, where the model has several types,
            "token_type_ids". All are [B, T], of a multiple-choice model [B, C, T], with symbolic sizes.
        params: what `function` takes, float32.
        function: (params, inputs) -> float32 arrays by name: "last_hidden_state" [B, T, D] and perhaps
            "sentence_embedding" [B, S]; "logits" [B, labels], [B, T, labels], [B, C] or [B, T, V]; or "start_logits"
            and "end_logits" [B, T].
        num_ids: of "input_ids" and "token_type_ids", how many different ones the model has.
        max_length: most tokens of a row.
    """

    task: str
    inputs: dict[str, jax.ShapeDtypeStruct]
    params: Params
    function: Callable[[Params, Arrays], dict[str, jax.Array]]
    num_ids: dict[str, int]
    max_length: int


def program(model: Checkpoint, gives_vectors: bool, dtype: Literal["float32", "bfloat16"] = "float32") -> Program:
    """The function of a published model's head, or of its encoder.

    Args:
        model: opened from a folder of transformers or sentence-transformers.
        gives_vectors: whether a model without a head gives the vectors of texts too.
        dtype: of activations and matrix products.
    """
    config = model.config.model
    compute = ComputeConfig(dtype=dtype, attention="dense")  # the other backends choose by the length of a row
    head = None if gives_vectors else next((name for name in _HEADS if name in model.params), None)
    task, names = _HEADS[head] if head else _FEATURES
    if left_out := [name for name in _HEADS if name in model.params and name != head]:
        log.warning("Left out of the exported program: %s.", ", ".join(left_out))
    heads = {name: x for name, x in model.heads.items() if name == head}
    if any(x.inputs == "pooled" for x in heads.values()):
        heads = {"pooler": model.heads["pooler"], **heads}
    kept = {"encoder", *heads, *({"mlm_head"} if head == "mlm_head" else ())}
    params = {name: x for name, x in model.params.items() if name in kept}
    vectors = model.sentence if gives_vectors else None
    if vectors is not None and not vectors.include_prompt and any(text for _, text in vectors.prompts):
        vectors = None  # the program cannot know where a prompt ends
        log.warning("The exported program has no %s: the model does not pool the tokens of its prompts.", VECTOR)
    if vectors is not None:
        params |= {name: model.params[name] for name in ("sentence",) if name in model.params}
    is_global = any(x.global_tokens == "first" for x in heads.values()) and config.global_tokens

    def function(params: Params, arrays: Arrays) -> dict[str, jax.Array]:
        shape = arrays["input_ids"].shape
        flat = {name: x.reshape(-1, shape[-1]) if len(shape) > 2 else x for name, x in arrays.items()}
        ids = flat["input_ids"]
        rows: Batch = {
            "token_ids": ids,
            "segment_ids": flat["attention_mask"],
            "positions": jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape),
        }
        rows |= {name: x for name, x in flat.items() if name == "token_type_ids"}
        rows |= {"global_slots": first_tokens(rows["segment_ids"], 1)} if is_global else {}
        with any_platform(), jax.default_matmul_precision("float32" if dtype == "float32" else "default"):
            out = outputs(config, compute, tuple(heads.items()), params, rows)
            values = {name: out[ours] for name, ours in names.items()}
            if vectors is not None:
                modules = params.get("sentence", {})
                one = sentence_vectors(vectors, modules, out["hidden"], rows["segment_ids"], 1)
                values[VECTOR] = one[:, 0]
        return {name: x.reshape(shape[:-1]) for name, x in values.items()} if len(shape) > 2 else values

    sizes = "B, C, T" if head == "choice_head" else "B, T"
    # The second is true of all T; jax needs it for distances between tokens.
    shape = jax.export.symbolic_shape(sizes, constraints=[f"T <= {config.max_length}", "2*T^2 >= T"])
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if config.token_types > 1 else [])]
    structs = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in inputs}
    num_ids = {"input_ids": config.vocab_size, "token_type_ids": config.token_types}
    return Program(task, structs, params, function, num_ids, config.max_length)
