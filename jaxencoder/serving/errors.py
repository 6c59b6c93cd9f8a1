"""Errors that a client gets: a sentence, a type and an HTTP status, as text-embeddings-inference has them."""

# Type -> HTTP status. The last three are this server's own.
STATUS = {
    "Empty": 400,
    "Validation": 422,
    "Tokenizer": 422,
    "Backend": 424,
    "Overloaded": 429,
    "Unhealthy": 503,
    "Unauthorized": 401,
    "NotFound": 404,
    "Timeout": 504,
}


class ServingError(Exception):
    """A request that gets no result; the message is for the client."""

    def __init__(self, type: str, message: str, status: int | None = None):
        super().__init__(message)
        self.type, self.message = type, message
        self.status = STATUS[type] if status is None else status
