"""The routes of text-embeddings-inference 1.9."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import orjson
from fastapi import APIRouter, Response

from jaxencoder.serving import schemas
from jaxencoder.serving.deployment import Deployment
from jaxencoder.serving.service import Answer, Service, of_kind
from jaxencoder.serving.token_ids import text_of_ids
from jaxencoder.serving.truncation import Truncation
from jaxencoder.version import __version__


def reply(content: Any, headers: dict[str, str] | None = None) -> Response:
    """JSON, in which arrays of numpy may stand."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json", headers=headers)


def input_texts(deployment: Deployment, inputs: schemas.Inputs) -> list[str]:
    """The texts of inputs, which may be token ids; ValueError for ids of another tokenizer."""
    if isinstance(inputs, str):
        return [inputs]
    if inputs and isinstance(inputs[0], int):
        return [text_of_ids(deployment.tokenizer, cast(list[int], inputs))]
    return [x if isinstance(x, str) else text_of_ids(deployment.tokenizer, cast(list[int], x)) for x in inputs]


def number_of(inputs: Any) -> int:
    """How many texts the inputs are."""
    return 1 if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)) else len(inputs)


class TextEmbeddingsInference:
    """The routes, for the models of a service."""

    def __init__(self, service: Service):
        self._service = service
        self.router = router = APIRouter(tags=["text-embeddings-inference"])
        router.get("/info")(self.info)
        for path, method in {
            "/embed": self.embed,
            "/embed_all": self.embed_all,
            "/embed_sparse": self.embed_sparse,
            "/predict": self.predict,
            "/rerank": self.rerank,
            "/similarity": self.similarity,
            "/tokenize": self.tokenize,
            "/decode": self.decode,
            "/": self.any,
            "/fill-mask": self.fill_mask,
        }.items():
            router.post(path)(method)

    async def info(self, model: str | None = None) -> Response:
        """The model and the server's limits."""
        deployment, config = self._service.find(model), self._service.config
        labels = {}
        if deployment.kind in ("classifier", "reranker", "tagger"):
            ids = {name: i for i, name in enumerate(deployment.labels)}
            labels = {"id2label": {str(i): name for name, i in ids.items()}, "label2id": ids}
        pooling = "splade" if deployment.kind == "sparse" else "+".join(deployment.plain.sentence.pooling)
        kind = deployment.kind if labels else "embedding"
        return reply({
            "model_id": deployment.name,
            "model_sha": None,
            "model_dtype": deployment.plain.compute.dtype,
            "served_model_name": deployment.name,
            "model_type": {kind: labels or {"pooling": pooling}},
            "max_concurrent_requests": config.max_concurrent_requests,
            "max_input_length": deployment.max_length,
            "max_batch_tokens": self._service.engine.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": config.max_client_batch_size,
            "auto_truncate": config.auto_truncate,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "devices": [device.device_kind for device in jax.local_devices()],
            "prompts": sorted(deployment.prompts),
            "mask_token": deployment.tokenizer.mask_token if deployment.fills_masks else None,
            "models": {name: model.kind for name, model in self._service.deployments.items()},
        })  # fmt: skip

    async def embed(self, body: schemas.Embed) -> Response:
        """Embed texts: a vector for each."""
        model = self._service.find(body.model, of_kind("embedding"))
        normalize = body.normalize is not False
        return await self._embed(
            "embed", model, body, Deployment.embed, normalize=normalize, dimensions=body.dimensions
        )

    async def embed_all(self, body: schemas.EmbedAll) -> Response:
        """Embed texts: a vector for each token."""
        model = self._service.find(body.model, of_kind("embedding", "multi_vector"))
        return await self._embed("embed_all", model, body, Deployment.embed_tokens)

    async def embed_sparse(self, body: schemas.EmbedAll) -> Response:
        """Embed texts: a weight for some tokens of the vocabulary."""

        def work(model: Deployment, *args: Any, **options: Any) -> list[list[dict[str, Any]]]:
            return [[{"index": i, "value": x} for i, x in text] for text in model.embed_sparse(*args, **options)]

        return await self._embed("embed_sparse", self._service.find(body.model, lambda x: x.gives_sparse), body, work)

    async def predict(self, body: schemas.Predict) -> Response:
        """Classify texts or pairs of texts, or tag the entities of texts."""
        model = self._service.find(body.model, of_kind("classifier", "tagger"))
        inputs = body.inputs
        is_batch = isinstance(inputs, list) and not (inputs and isinstance(inputs[0], str))
        rows: list[Any] = list(inputs) if is_batch else [[inputs] if isinstance(inputs, str) else inputs]
        self._service.check_size(len(rows))
        answer = await self._service.answer(
            "predict", lambda: self._predicted(model, rows, body), itertools.chain(*rows)
        )
        return reply(answer.result if is_batch else answer.result[0], answer.headers)

    def _predicted(self, model: Deployment, rows: Sequence[Sequence[str]], body: schemas.Predict) -> list[Any]:
        if wrong := [row for row in rows if len(row) not in (1, 2)]:
            raise ValueError(f"an input has {len(wrong[0])} texts; give one text, or two of a pair")
        if model.kind == "tagger":
            if any(len(row) > 1 for row in rows):
                raise ValueError("this model tags single texts; give each input as one text")
            if body.raw_scores or self._truncation(body).side == "left":
                raise ValueError("this model tags texts of any length; leave raw_scores and truncation_direction out")
            return [list(map(_as_pipeline, entities)) for entities in model.tag([row[0] for row in rows])]
        results: list[Any] = [None] * len(rows)
        for size in (1, 2):
            if at := [i for i, row in enumerate(rows) if len(row) == size]:
                texts, *pairs = zip(*(rows[i] for i in at), strict=True)
                second = list(pairs[0]) if pairs else None
                scores = model.predict(list(texts), second, bool(body.raw_scores), self._truncation(body))
                for i, row in zip(at, scores, strict=True):
                    best_first = sorted(row, key=lambda entry: -entry.score)
                    results[i] = [{"score": score, "label": label} for label, score in best_first]
        return results

    async def rerank(self, body: schemas.Rerank) -> Response:
        """Sort texts by how well they answer a query, best first."""
        model = self._service.find(body.model, of_kind("reranker", "multi_vector"))
        self._service.check_size(len(body.texts), name="texts")
        raw, truncation = bool(body.raw_scores), self._truncation(body)
        work = functools.partial(model.rerank, body.query, body.texts, raw, truncation)
        answer = await self._service.answer("rerank", work, [body.query, *body.texts])
        ranks = [{"index": i, "score": score} for i, score in enumerate(answer.result)]
        if body.return_text:
            ranks = [rank | {"text": text} for rank, text in zip(ranks, body.texts, strict=True)]
        return reply(sorted(ranks, key=lambda rank: -rank["score"]), answer.headers)

    async def similarity(self, body: schemas.Similarity) -> Response:
        """Compare a sentence with others: the cosine of their vectors."""
        model = self._service.find(body.model, of_kind("embedding"))
        inputs, parameters = body.inputs, body.parameters or schemas.SimilarityParameters()
        self._service.check_size(len(inputs.sentences), name="sentences")
        truncation = self._truncation(parameters)
        work = functools.partial(
            model.similarity, inputs.source_sentence, inputs.sentences, parameters.prompt_name, truncation
        )
        answer = await self._service.answer("similarity", work, [inputs.source_sentence, *inputs.sentences])
        return reply(answer.result, answer.headers)

    async def tokenize(self, body: schemas.Tokenize) -> Response:
        """The tokens of texts, with their characters; special tokens have none."""
        model = self._service.find(body.model)
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        self._service.check_size(len(texts))
        work = functools.partial(model.tokenize, texts, body.add_special_tokens is not False, body.prompt_name)
        answer = await self._service.answer("tokenize", work, texts)
        return reply(answer.result, answer.headers)

    async def decode(self, body: schemas.Decode) -> Response:
        """The texts of token ids."""
        model = self._service.find(body.model)
        rows: list[Any] = [body.ids] if not body.ids or isinstance(body.ids[0], int) else list(body.ids)
        self._service.check_size(len(body.ids) and len(rows), name="ids")
        skip = body.skip_special_tokens is not False
        answer = await self._service.answer("decode", lambda: [model.tokenizer.decode(row, skip) for row in rows])
        return reply(answer.result, answer.headers)

    async def fill_mask(self, body: schemas.FillMask) -> Response:
        """The most probable tokens for each mask of a text."""
        model = self._service.find(body.model, lambda model: model.fills_masks)
        answer = await self._service.answer(
            "fill_mask", lambda: model.fill_mask(body.inputs, body.top_k), [body.inputs]
        )
        names = ("token_str", "score", "sequence")
        return reply([[dict(zip(names, x, strict=True)) for x in mask] for mask in answer.result], answer.headers)

    async def any(self, body: dict[str, Any]) -> Response:
        """The route of the model's kind: embed, embed_all, embed_sparse, predict or rerank, or similarity."""
        model = self._service.find(schemas.Named.model_validate(body).model)
        body = body | {"model": model.name}
        if isinstance(body.get("inputs"), dict):
            return await self.similarity(schemas.Similarity.model_validate(body))
        if model.kind == "reranker" and "query" in body:
            return await self.rerank(schemas.Rerank.model_validate(body))
        if model.kind in ("classifier", "tagger", "reranker"):
            return await self.predict(schemas.Predict.model_validate(body))
        if model.kind == "sparse":
            return await self.embed_sparse(schemas.EmbedAll.model_validate(body))
        if model.kind == "multi_vector":
            return await self.embed_all(schemas.EmbedAll.model_validate(body))
        return await self.embed(schemas.Embed.model_validate(body))

    def _truncation(self, body: schemas.Truncated | schemas.SimilarityParameters) -> Truncation:
        is_allowed = self._service.config.auto_truncate if body.truncate is None else body.truncate
        return Truncation(is_allowed, "left" if (body.truncation_direction or "").lower() == "left" else "right")

    async def _embed(
        self, name: str, model: Deployment, body: schemas.EmbedAll, method: Callable[..., Any], **options: Any
    ) -> Response:
        """The reply of a method that takes (model, texts, prompt)."""
        self._service.check_size(number_of(body.inputs))
        truncation = self._truncation(body)

        def work() -> Any:
            texts = input_texts(model, body.inputs)
            return method(model, texts, body.prompt_name, truncation=truncation, **options)

        answer: Answer[Any] = await self._service.answer(name, work, [x for x in body.inputs if isinstance(x, str)])
        return reply(answer.result, answer.headers)


def _as_pipeline(entity: dict[str, Any]) -> dict[str, Any]:
    """An entity with the names of transformers' pipelines."""
    names = {"type": "entity_group", "probability": "score", "text": "word"}
    return {names.get(name, name): value for name, value in entity.items()}
