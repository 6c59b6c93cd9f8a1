"""Train an embedding model on pairs of similar texts, such as questions and answers, or on triplets with negatives.

Paper: van den Oord et al. 2018 (InfoNCE), arXiv:1807.03748; Henderson et al. 2017 (multiple negatives ranking),
arXiv:1705.00652. Each anchor finds its positive among the texts of the whole batch, of all devices. More examples in a
batch make the task harder and the vectors better: with objective.parts, memory does not limit them.

Data: records with an anchor, a positive and, optionally, negatives: {"anchor": ..., "positive": ..., "negative": ...}.
Usual names of pairs, such as query and document or question and answer, are found. For pairs with a score of their
similarity set --objective.loss cosent --data.label-field score; for a teacher's scores --objective.loss kl
--data.label-field scores; for texts with a label --objective.loss batch_hard_triplet, for pairs with a class
--objective.loss softmax. `jaxencoder mine` adds hard negatives and scores to pairs. For the vectors of another model
set --objective.loss mse --objective.teacher MODEL: then records may also be single texts. Texts of an example share a
row: if they are too long for it, the longest are truncated. Architecture, tokenizer and pooling come from --init-from.

Cost: 1,300 tokens of text per second with all-MiniLM-L6-v2 on 2 CPU cores: 10,000 pairs of questions of 14 tokens each
take about 4 minutes. Expected: nDCG@10 on SciFact 64.5 -> 66.9 after one epoch on mined negatives (one seed), with
all-MiniLM-L6-v2 and the commands of docs/embedding_training.md.

Run: jaxencoder train embedding_pairs --init-from MODEL --run-dir runs/pairs --data.train pairs.jsonl
     jaxencoder evaluate similarity runs/pairs sts/test.jsonl
     jaxencoder convert runs/pairs FOLDER --to sentence-transformers
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    Embeddings,
    EncoderConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=Embeddings(),
        data=DataConfig(text_field="anchor", pair_field="positive", row_length=256),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=5e-5, b2=0.999, weight_decay=0.0, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=1,
            batch_examples=64,
            num_evaluations=5,
            eval_batches=0,
            checkpoint_every=500,
        ),
    )
