"""Routes of Cohere, Jina and vLLM: /v2/embed, /v1/rerank, /v2/rerank, /score and /classify."""

import base64
import functools
import time
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from jaxencoder.inference.quantize import quantize
from jaxencoder.serving import schemas
from jaxencoder.serving.deployment import NO_PROMPT, Deployment
from jaxencoder.serving.service import Service, of_kind
from jaxencoder.serving.tei import reply
from jaxencoder.serving.truncation import Truncation

# Cohere's input types, and the names of prompts that say the same.
_PROMPTS = {
    "search_query": ("query", "search_query"),
    "search_document": ("document", "passage", "corpus", "search_document"),
    "classification": ("classification",),
    "clustering": ("clustering", "separation"),
}


class OtherServers:
    """The routes, for the models of a service."""

    def __init__(self, service: Service):
        self._service = service
        self.router = router = APIRouter(tags=["Cohere, Jina, vLLM"])
        router.post("/v2/embed")(self.embed)
        router.post("/v1/rerank")(self.rerank_v1)
        router.post("/v2/rerank")(self.rerank_v2)
        for prefix in ("/v1", ""):
            router.post(f"{prefix}/score")(self.score)
            router.post(f"{prefix}/classify")(self.classify)

    async def embed(self, body: schemas.CohereEmbed) -> Response:
        """Cohere: embed texts."""
        service = self._service
        model = service.find(body.model, of_kind("embedding"))
        service.check_size(len(body.texts), service.config.max_openai_inputs, "texts")
        prompt = _prompt(model, body.input_type)
        truncation = Truncation(body.truncate != "NONE", "left" if body.truncate == "START" else "right")

        def work() -> np.ndarray:
            return model.embed(body.texts, prompt, dimensions=body.output_dimension, truncation=truncation)

        answer = await service.answer("embed", work, body.texts)
        vectors, embeddings = answer.result, {}
        for kind in body.embedding_types or ["float"]:
            if kind == "base64":
                embeddings[kind] = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
            else:
                embeddings[kind] = vectors if kind == "float" else quantize(vectors, kind)
        billed = {"input_tokens": answer.ticket.tokens}
        meta = {"api_version": {"version": "2"}, "billed_units": billed}
        content = {"id": str(uuid.uuid4()), "embeddings": embeddings, "texts": body.texts, "meta": meta}
        return reply(content | {"response_type": "embeddings_by_type"}, answer.headers)

    async def rerank_v1(self, body: schemas.CohereRerank) -> Response:
        """Jina and vLLM: sort documents by how well they answer a query; the results have the documents."""
        return await self._rerank(body, returns_documents=True)

    async def rerank_v2(self, body: schemas.CohereRerank) -> Response:
        """Cohere: sort documents by how well they answer a query."""
        return await self._rerank(body, returns_documents=False)

    async def _rerank(self, body: schemas.CohereRerank, returns_documents: bool) -> Response:
        service = self._service
        model = service.find(body.model, of_kind("reranker", "multi_vector"))
        service.check_size(len(body.documents), service.config.max_openai_inputs, "documents")
        texts = [document if isinstance(document, str) else document.text for document in body.documents]
        answer = await service.answer("rerank", lambda: model.rerank(body.query, texts), [body.query, *texts])
        scores = np.array(answer.result)
        results: list[dict[str, Any]] = [
            {"index": i, "relevance_score": float(scores[i])} for i in np.argsort(-scores, kind="stable").tolist()
        ][: body.top_n]
        if returns_documents if body.return_documents is None else body.return_documents:
            results = [result | {"document": {"text": texts[result["index"]]}} for result in results]
        return reply(self._envelope(model, answer.ticket.tokens) | {"results": results}, answer.headers)

    async def score(self, body: schemas.Pairs) -> Response:
        """vLLM: the scores of pairs of texts; of an embedding model the cosine. One first text is compared with all."""
        model = self._service.find(body.model, of_kind("reranker", "multi_vector", "embedding"))
        first = _only("a first text", text_1=body.text_1, queries=body.queries, data_1=body.data_1)
        second = _only(
            "a second text", text_2=body.text_2, documents=body.documents, items=body.items, data_2=body.data_2
        )
        self._service.check_size(len(second), self._service.config.max_openai_inputs, "text_2")
        if len(first) not in (1, len(second)):
            raise ValueError(
                f"there are {len(first)} first texts and {len(second)} second ones; give one, or one for each"
            )
        work = functools.partial(_pair_scores, model, first, second)
        answer = await self._service.answer("rerank", work, [*first, *second])
        data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(answer.result)]
        envelope = self._envelope(model, answer.ticket.tokens)
        return reply(envelope | {"object": "list", "data": data}, answer.headers)

    async def classify(self, body: schemas.Classify) -> Response:
        """vLLM: the most probable class of each text, and the probabilities of all."""
        model = self._service.find(body.model, of_kind("classifier"))
        texts = [body.input] if isinstance(body.input, str) else body.input
        self._service.check_size(len(texts), self._service.config.max_openai_inputs, "input")
        answer = await self._service.answer("predict", lambda: model.predict(texts), texts)
        data = [
            {
                "index": i,
                "label": max(scores, key=lambda entry: entry.score).label,
                "probs": [entry.score for entry in scores],
                "num_classes": len(scores),
            }
            for i, scores in enumerate(answer.result)
        ]
        envelope = self._envelope(model, answer.ticket.tokens)
        return reply(envelope | {"object": "list", "data": data}, answer.headers)

    def _envelope(self, model: Deployment, tokens: int) -> dict[str, Any]:
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        return {"id": str(uuid.uuid4()), "model": model.name, "created": int(time.time()), "usage": usage, "meta": meta}


def _prompt(model: Deployment, input_type: str | None) -> str | None:
    """The name of the prompt for one of Cohere's input types, or of a prompt's name.

    "search_query" is the prompt called query, Query or retrieval.query. A model without prompts has the same
    vectors for all types.
    """
    names = (*model.prompts, *model.roles)
    if input_type is None or input_type in names:
        return input_type
    if input_type not in _PROMPTS:
        raise ValueError(f"input_type is {input_type!r}; give one of {', '.join([*_PROMPTS, *names])}")
    by_purpose = {name.lower().rpartition(".")[2]: name for name in reversed(names)}
    for purpose in _PROMPTS[input_type]:
        if purpose in by_purpose:
            return by_purpose[purpose]
    if names and input_type.startswith("search"):
        raise ValueError(
            f"input_type is {input_type!r}, but this model's prompts are {', '.join(names)}; give one of them"
        )
    return NO_PROMPT


def _pair_scores(model: Deployment, first: list[str], second: list[str]) -> list[float]:
    if model.kind == "embedding":
        vectors = model.embed([*first, *second])
        return (vectors[: len(first)] * vectors[len(first) :]).sum(1).tolist()
    return model.score(first * (len(second) // len(first)), second)


def _only(what: str, **fields: str | list[str] | None) -> list[str]:
    """The texts of the one field that is given."""
    texts_by_name = {name: texts for name, texts in fields.items() if texts is not None}
    if len(texts_by_name) != 1:
        raise ValueError(
            f"the request has {' and '.join(texts_by_name) or 'no field'} for {what}; give one of {', '.join(fields)}"
        )
    (texts,) = texts_by_name.values()
    return [texts] if isinstance(texts, str) else texts
