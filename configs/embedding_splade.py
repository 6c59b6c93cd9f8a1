"""Train a sparse embedding model (SPLADE): each text becomes weights of words, also of words that it does not contain.

Paper: Formal et al. 2021 (SPLADE v2), arXiv:2109.10086; Formal et al. 2022, arXiv:2205.04733. A search is one in an
inverted index, and a vector can be read. Regularizers make vectors sparse; their factors grow in the first third of the
training. With --objective.queries table, queries have a learned weight for each of their words and need no encoder
(Geng et al. 2024, arXiv:2411.04403).

Data: as of embedding_pairs: pairs of a query and a text that answers it, perhaps with negatives, or with a teacher's
scores for --objective.loss margin_mse or kl. Start from a masked language model: its head scores the words.

Cost: a BERT of 2 layers of 128 and 4,096 tokens takes about 5 minutes for 300 steps of 16 rows of 128 tokens on a busy
CPU core. Expected: pretrained for 500 steps on the documents of SciFact and trained on their titles and on the train
queries (learning rate 1e-3, weights 3e-3 and 1e-3), it reaches nDCG@10 48.1 on the first 128 tokens of a document; BM25
has 54.3 on their first 80 words, and 66.3 on all. Nothing has been measured with a model of usual size.

Run: jaxencoder train embedding_splade --init-from MODEL --run-dir runs/splade --data.train pairs.jsonl
     jaxencoder evaluate retrieval runs/splade scifact
     jaxencoder convert runs/splade FOLDER --to sentence-transformers
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    RunConfig,
    SparseEmbeddings,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=SparseEmbeddings(),
        data=DataConfig(text_field="anchor", pair_field="positive", row_length=256),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-5, b2=0.999, weight_decay=0.0, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=1,
            batch_examples=32,
            num_evaluations=5,
            eval_batches=0,
            checkpoint_every=500,
        ),
    )
