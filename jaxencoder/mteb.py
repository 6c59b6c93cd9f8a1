"""Models as encoders of MTEB, the Massive Text Embedding Benchmark (Muennighoff et al. 2022, arXiv:2210.07316).

    import mteb
    from jaxencoder.mteb import Encoder

    mteb.evaluate(Encoder("runs/pairs"), mteb.get_tasks(tasks=["Banking77Classification"]))

This needs the package mteb: pip install 'jaxencoder[mteb]'.
"""

import hashlib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
import scipy.spatial

from jaxencoder.api import load
from jaxencoder.inference.embed import embed
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.stored_vectors import model_digest
from jaxencoder.model.config import Role
from jaxencoder.model.similarity import pair_similarities, unit

_DISTANCES: dict[str, Literal["euclidean", "cityblock"]] = {
    "euclidean": "euclidean",
    "manhattan": "cityblock",
}  # names in SciPy
_MEDIA = {"image", "audio", "video"}
_WITHOUT_EFFECT = {"batch_size", "show_progress_bar", "num_proc"}  # on vectors


class Encoder:
    """An embedding model as MTEB's EncoderProtocol asks for it.

    Attributes:
        model: the opened model.
        mteb_model_meta: the name, revision and similarity under which MTEB keeps results. The revision of a local model
            is a digest of its weights and settings, so that results of other weights are not taken for its own.
    """

    def __init__(
        self,
        model: str | Path | OpenedModel,
        revision: str | None = None,
        prompts: Mapping[str, str] | None = None,
        options: EmbedOptions = DEFAULT_OPTIONS,
    ):
        """Open a model.

        Args:
            model: anything that `load` takes, or an opened model.
            revision: of a model on the hub.
            prompts: by names of MTEB, which are, in the order in which they are tried, TASK-TYPE, TASK, KIND-TYPE, KIND
                and TYPE: TASK is such as "SciFact", KIND such as "Classification", and TYPE "query" or "document". Each
                is the name of a stored prompt, or the text to put before every text. Prompts that the model stores
                under such a name are used too.
            options: of the vectors.

        Raises:
            ImportError: mteb is not installed.
            ValueError, FileNotFoundError: as `load`.
        """
        try:
            meta = importlib.import_module("mteb.models.model_meta")  # late: mteb is optional
        except ImportError as error:
            raise ImportError("this needs the package mteb; pip install 'jaxencoder[mteb]'") from error
        self.model = model if isinstance(model, OpenedModel) else load(model, revision=revision)
        if self.model.sentence.sparse is not None:
            raise ValueError(f"{model} gives sparse vectors, which this encoder does not support; give a dense model")
        self._prompts, self._options = dict(prompts or {}), options
        settings = self.model.sentence_config(options.pooling, options.normalize, options.dimensions)
        size = settings.size(self.model.config.model.hidden_size)
        is_hub_name = isinstance(model, str) and "/" in model and not Path(model).exists()
        name = Path(model).resolve().name if isinstance(model, str | Path) else self.model.config.name
        params = [self.model.params, *([] if self.model.queries is None else [self.model.queries.params])]
        overwrites = {
            "name": model if is_hub_name else f"jaxencoder/{name}",
            "revision": (revision if is_hub_name else None) or self._digest(),
            "framework": ["JAX"],
            "similarity_fn_name": meta.ScoringFunction(settings.similarity),
            "max_tokens": self.model.limit(options.max_length),
            "embed_dim": min(size, settings.dimensions or size),
            "n_parameters": sum(x.size for x in jax.tree.leaves(params)),
            "use_instructions": bool(self._prompts or any(text for _, text in settings.prompts)),
        }
        self.mteb_model_meta = meta.ModelMeta.create_empty(overwrites)

    def _digest(self) -> str:
        settings = model_digest(self.model), self._options, sorted(self._prompts.items())
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]

    def prompt(self, task: str, kind: str, prompt_type: str | None) -> str | None:
        """The prompt for texts of a task, as `EmbedOptions` takes it.

        Without one of that name, queries and documents have none, and other texts the model's default, as in
        sentence-transformers.
        """
        names = [task, kind]
        if prompt_type is not None:
            names = [f"{task}-{prompt_type}", task, f"{kind}-{prompt_type}", kind, prompt_type]
        stored = {name: name for name, _ in self.model.sentence.prompts}
        matches = [prompt for name in names if (prompt := (stored | self._prompts).get(name)) is not None]
        default = self._options.prompt
        return matches[0] if matches else "" if prompt_type is not None and default is None else default

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **options: Any,
    ) -> np.ndarray:
        """The vectors of texts, float32 [N, D].

        Args:
            inputs: batches, each with a list "text".
            task_metadata: MTEB's, whose name and type choose the prompt.
            hf_split, hf_subset: not used.
            prompt_type: MTEB's query or document, or None.
            options: MTEB's options of encoding. Those that have no effect on vectors are ignored, others refused.

        Raises:
            ValueError: an option that would change the vectors, or inputs without texts, such as images.
        """
        changing = {key: value for key, value in options.items() if key not in _WITHOUT_EFFECT and value is not None}
        if changing.pop("precision", "float32") != "float32":
            raise ValueError(f"precision is {options['precision']!r}, but vectors are float32; leave it out")
        if changing:
            key, value = next(iter(changing.items()))
            raise ValueError(f"{key}={value!r} is not an option of this encoder; give it in options of Encoder")
        texts = []
        for batch in inputs:
            media = sorted(_MEDIA & set(batch))
            if media or "text" not in batch:
                content = media[0] if media else "no text"
                raise ValueError(f"{task_metadata.name} has inputs of {content}; this encoder embeds texts alone")
            texts += batch["text"]
        kind = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        prompt = self.prompt(task_metadata.name, task_metadata.type, kind)
        role = next((role for role in get_args(Role) if role == kind), self._options.role)
        return embed(self.model, texts, replace(self._options, prompt=prompt, role=role))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarities of vectors [N, D] and [M, D], arrays or tensors; distances are negative.

        Returns:
            A torch tensor [N, M] of float32, which MTEB's tasks expect.
        """
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (embeddings1, embeddings2))
        name = self.model.sentence.similarity
        if name in _DISTANCES:
            return _tensor(-scipy.spatial.distance.cdist(a, b, _DISTANCES[name]))
        return _tensor(unit(a) @ unit(b).T if name == "cosine" else a @ b.T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarities of vectors [N, D] and [N, D], row by row: a torch tensor [N] of float32."""
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (embeddings1, embeddings2))
        return _tensor(pair_similarities(self.model.sentence.similarity, a, b))


def _tensor(values: np.ndarray) -> Any:
    torch = importlib.import_module("torch")  # late: only mteb needs it
    return torch.from_numpy(values.astype(np.float32))
