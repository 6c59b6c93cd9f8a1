"""Fine-tune a pretrained run to classify texts, on packed rows.

Paper: Devlin et al. 2019, arXiv:1810.04805, section 4.1: a tanh layer and a projection on [CLS], all weights trained.
The examples of a row are packed and predicted together, so that nothing is spent on padding.

Data: records with a text and a label; classes may be strings or whole numbers, and floats make it a regression. Lists
of classes, such as {"text": ..., "label": ["sport", "local"]} or [] for none, make each class a yes or no of its own.
(A vector of 0 and 1 is no such list: write which classes there are.)
The architecture and the tokenizer come from what --init-from names: a run, a published folder, or a name of the hub.

For reranking (a cross-encoder), pairs of a query and a text with a label 0 or 1, or a grade as a fractional number:
{"query": ..., "text": ..., "label": 1}, a few texts that do not answer for each one that does, best those that a search
finds. Train with --data.text-field query --data.pair-field text, then: jaxencoder evaluate RUN --task reranking
--data BEIR_FOLDER --first MODEL.

Cost: one pass over SST-2 (67k sentences, 0.9M tokens) with a 4 x 256 encoder is about five minutes on 2 CPU cores.
Expected: with a well pretrained run, its published accuracy; see "Results" in README.md for what has been measured.

Run: jaxencoder train finetune_classification --init-from runs/small --run-dir runs/sst2 \\
         --data.train sst2/train.jsonl --data.validation sst2/validation.jsonl
     jaxencoder evaluate runs/sst2 --step best
"""

from jaxencoder.config import (
    Classification,
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=Classification(),
        data=DataConfig(label_field="label", row_length=128),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=3e-4, b2=0.999, weight_decay=0.01, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=3,
            batch_size=16,  # or batch_examples=32, whatever the length of the texts
            num_evaluations=6,
            eval_batches=0,
            checkpoint_every=200,
        ),
    )
