"""OpenAI's routes: /v1/embeddings and /v1/models."""

import base64
import time

import numpy as np
from fastapi import APIRouter, Response

from jaxencoder.serving import schemas
from jaxencoder.serving.service import Service, of_kind
from jaxencoder.serving.tei import input_texts, number_of, reply


class OpenAI:
    """The routes, for the models of a service."""

    def __init__(self, service: Service):
        self._service, self._created = service, int(time.time())
        self.router = router = APIRouter(tags=["OpenAI"])
        for prefix in ("/v1", ""):
            router.post(f"{prefix}/embeddings")(self.embeddings)
        router.get("/v1/models")(self.models)

    async def embeddings(self, body: schemas.OpenAIEmbeddings) -> Response:
        """Embed texts, or token ids of this model's tokenizer; vectors have length 1."""
        service = self._service
        model = service.find(body.model, of_kind("embedding"))
        service.check_size(number_of(body.input), service.config.max_openai_inputs, "input")

        def work() -> np.ndarray:
            return model.embed(input_texts(model, body.input), dimensions=body.dimensions)

        answer = await service.answer("embed", work, [x for x in body.input if isinstance(x, str)])
        vectors = answer.result
        if body.encoding_format == "base64":
            vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        tokens = answer.ticket.tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return reply({"object": "list", "data": data, "model": model.name, "usage": usage}, answer.headers)

    async def models(self) -> Response:
        """The models of this server."""
        fields = {"object": "model", "created": self._created, "owned_by": "jaxencoder"}
        return reply({"object": "list", "data": [{"id": name, **fields} for name in self._service.deployments]})
