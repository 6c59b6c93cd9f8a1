"""Train a multi-vector model (late interaction, ColBERT): texts are compared by the vectors of their tokens.

Paper: Khattab and Zaharia 2020 (ColBERT), arXiv:2004.12832; distillation: Santhanam et al. 2022 (ColBERTv2),
arXiv:2112.01488. Each query finds its positive among the documents of the whole batch, of all devices.

Data: records with a query, a document that answers it and, optionally, others that do not: {"query": ..., "document":
..., "negative": ...}. With a teacher's scores, of the query with each document in turn, set --objective.loss kl
--data.label-field scores. Architecture and tokenizer come from --init-from: a masked language model, an embedding
model, or a multi-vector model, which keeps its settings. The markers [unused0] and [unused1] are tokens of BERT's
vocabulary; for a tokenizer without them give other prompts.

Cost: one epoch of the 919 training pairs of SciFact with all-MiniLM-L6-v2, documents of 96 tokens in rows of 128, took
14 minutes on a CPU core that other work shared.
Expected: nDCG@10 of 76.7 on SciFact's test queries among 1,000 of its documents, all relevant ones with them, where the
vectors of all-MiniLM-L6-v2 itself, of texts of 256 tokens, have 79.7: one epoch of so few pairs is too short.

Run: jaxencoder train embedding_colbert --init-from MODEL --run-dir runs/colbert --data.train pairs.jsonl
     jaxencoder evaluate retrieval runs/colbert scifact
     jaxencoder convert runs/colbert FOLDER --to sentence-transformers
"""

import string

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MultiVectors,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=MultiVectors(
            query_prompt="[unused0] ",
            document_prompt="[unused1] ",
            query_expansion=True,
            skipped_words=tuple(string.punctuation),
        ),
        data=DataConfig(text_field="anchor", pair_field="positive", row_length=256),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=5e-5, b2=0.999, weight_decay=0.0, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=1,
            batch_examples=32,
            num_evaluations=2,
            eval_batches=0,
            checkpoint_every=500,
        ),
    )
