"""The verb that mines hard negatives."""

from dataclasses import field, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from jaxencoder.cli import verb
from jaxencoder.mining.config import MiningConfig, MiningData
from jaxencoder.training.memory import keep_freed_memory


class Mine(verb.Verb):
    """Write pairs of texts with hard negatives: texts that are similar to the first one but no answer to it.

    Example: jaxencoder mine MODEL --data pairs.jsonl --output triplets.jsonl --relative-margin 0.05
    """

    model: verb.ModelName
    data: Annotated[tuple[str, ...], arg(metavar="SOURCE ...", help_behavior_hint="(required)")] = ()
    """Records with a query and a text that answers it, or BEIR folders."""
    output: Path
    """File to write: .jsonl or .parquet."""
    corpus: Annotated[tuple[str, ...], arg(metavar="SOURCE ...", help_behavior_hint="(default: none)")] = ()
    """More texts to search, or BEIR folders."""
    split: str = "train"
    """Relevance judgments of BEIR folders."""
    cross_encoder: Annotated[str | None, verb.default_is("the model's similarity", "M")] = None
    """Cross-encoder that scores positives and candidates."""
    text_field: Annotated[str, verb.default_is("a usual name")] = ""
    """Field of the query."""
    pair_field: Annotated[str, verb.default_is("a usual name")] = ""
    """Field of the text that answers it."""
    corpus_field: str = "text"
    """Field of the texts in --corpus."""
    query_prompt: verb.QueryPrompt = None
    document_prompt: verb.DocumentPrompt = None
    cache: Annotated[str, verb.default_is("$JAXENCODER_CACHE, or ~/.cache/jaxencoder")] = ""
    """Folder that keeps vectors and scores for the next run."""
    batch_tokens: verb.BatchTokens = None
    limits: OmitArgPrefixes[MiningConfig] = field(default_factory=MiningConfig)

    def run(self) -> None:
        keep_freed_memory()
        from jaxencoder.evaluation.tables import format_metrics
        from jaxencoder.inference.options import EmbedOptions
        from jaxencoder.mining.mine import mine

        names = {part.name for part in fields(MiningData)} - {"sources"}
        data = MiningData(self.data, **{name: getattr(self, name) for name in names})
        options = EmbedOptions(prompt=self.document_prompt, batch_tokens=self.batch_tokens)
        counts = mine(
            self.model, data, self.output, self.limits, self.cross_encoder, options, self.query_prompt, self.cache
        )
        print(format_metrics(counts))
        print(f"{counts['records']} records in {self.output}")
