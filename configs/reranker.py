"""Train a reranker (cross-encoder), which reads a query and a document together and says how well that answers.

Paper: Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085; lists with negatives: Gao et al. 2021,
arXiv:2101.08751. A search finds candidates by vectors or words, and the reranker sorts the first of them.

Data: records {"query": ..., "positive": ..., "negative": ...} with any number of negatives, {"query": ...,
"documents": [...], "labels": [...]}, or pairs {"query": ..., "document": ..., "label": 1}. The documents of a record
share a row of 1024 tokens, each with up to 512, or as many as the model has positions; if they do not fit together, the
longest are truncated. Architecture, tokenizer, and the head of a published cross-encoder come from --init-from.

Cost: 198 lists of 3 documents, truncated to rows of 256 tokens, take 2 minutes of one CPU core with all-MiniLM-L6-v2.
Expected: after these 50 updates with random negatives (infonce, learning rate 1e-4) the held-out loss is 0.2, but hard
candidates are not told apart yet; nothing longer has been measured with this code.

Run: jaxencoder train reranker --init-from MODEL --run-dir runs/reranker --data.train lists.jsonl
     jaxencoder evaluate reranking runs/reranker scifact --first all-MiniLM-L6-v2
     jaxencoder convert runs/reranker FOLDER --to sentence-transformers
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    Reranking,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=Reranking(),
        data=DataConfig(text_field="query", pair_field="positive", row_length=1024, text_length=512),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-5, b2=0.999, weight_decay=0.01, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=1,
            batch_examples=16,
            num_evaluations=5,
            eval_batches=0,
            checkpoint_every=500,
        ),
    )
