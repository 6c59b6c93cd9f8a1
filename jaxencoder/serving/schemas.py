"""Bodies of requests, as the clients of other servers send them. A field that is not here is refused by its name."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Ids = list[int]
Inputs = str | list[str] | Ids | list[Ids]
Dimensions = Annotated[int | None, Field(ge=1)]
Model = Annotated[str | None, Field(description="Name of a model, where the server has several.")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Named(BaseModel):
    """The one field that all bodies have."""

    model_config = ConfigDict(strict=True, protected_namespaces=())
    model: Model = None


class Truncated(Body):
    """Fields of text-embeddings-inference on texts that are too long."""

    model: Model = None
    truncate: Annotated[bool | None, Field(description="Default: the server's auto_truncate.")] = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = "Right"


class EmbedAll(Truncated):
    inputs: Inputs
    prompt_name: str | None = None


class Embed(EmbedAll):
    normalize: bool | None = True
    dimensions: Dimensions = None
    encoding_format: Literal["float"] | None = None  # sent by huggingface_hub


class NoParameters(Body):
    """What huggingface_hub sends with each request."""


class Predict(Truncated):
    inputs: str | list[str] | list[list[str]]
    parameters: NoParameters | None = None
    raw_scores: bool | None = False


class Rerank(Truncated):
    query: str
    texts: list[str]
    raw_scores: bool | None = False
    return_text: bool | None = False


class Sentences(Body):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Body):
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = "Right"
    prompt_name: str | None = None


class Similarity(Body):
    model: Model = None
    inputs: Sentences
    parameters: SimilarityParameters | None = None


class Tokenize(Body):
    model: Model = None
    inputs: str | list[str]
    add_special_tokens: bool | None = True
    prompt_name: str | None = None


class Decode(Body):
    model: Model = None
    ids: Ids | list[Ids]
    skip_special_tokens: bool | None = True


class FillMask(Body):
    model: Model = None
    inputs: str
    parameters: NoParameters | None = None
    top_k: Annotated[int, Field(ge=1)] = 5


class OpenAIEmbeddings(Body):
    input: Inputs
    model: Model = None
    dimensions: Dimensions = None
    encoding_format: Literal["float", "base64"] | None = "float"
    user: str | None = None


class CohereEmbed(Body):
    model: Model = None
    texts: list[str]
    input_type: str | None = None
    embedding_types: list[Literal["float", "binary", "ubinary", "base64"]] | None = None
    output_dimension: Dimensions = None
    truncate: Literal["NONE", "START", "END"] | None = "END"


class Document(Body):
    text: str


class CohereRerank(Body):
    model: Model = None
    query: str
    documents: list[str | Document]
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool | None = None


class Pairs(Body):
    """Texts to compare, under the names that clients of vLLM use."""

    model: Model = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None


class Classify(Body):
    model: Model = None
    input: str | list[str]
