"""Fine-tune a pretrained model to classify texts, on packed rows.

Paper: Devlin et al. 2019, arXiv:1810.04805, section 4.1: a tanh layer and a projection on [CLS], all weights trained.
The examples of a row are packed and predicted together, so that no computation is spent on padding.

Data: records with a text and a label. Strings and whole numbers are classes; fractional numbers make it a regression,
and so does --objective.labels 1.
Lists of classes, such as {"text": ..., "label": ["sport", "local"]} or [] for none, make it multi-label: each class is
predicted independently. Vectors of 0 and 1 are not supported: list the names of the classes instead.
Architecture and tokenizer come from --init-from: a run, a published folder, or a name on the hub.

For reranking (a cross-encoder), give pairs of a query and a text with a label 0 or 1, or a fractional grade:
{"query": ..., "text": ..., "label": 1}, with a few irrelevant texts for each relevant one, preferably search results.
Train with --data.text-field query --data.pair-field text, then: jaxencoder evaluate reranking RUN BEIR_FOLDER
--first MODEL.

Cost: one pass over SST-2 (67k sentences, 0.9M tokens) with a 4 x 256 encoder is about five minutes on 2 CPU cores.
Expected: the published accuracy of the pretrained model; docs/results.md has the measured results.

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
