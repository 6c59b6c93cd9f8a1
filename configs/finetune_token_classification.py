"""Fine-tune a pretrained model to label words, such as with named entities, on packed rows.

Paper: Devlin et al. 2019, arXiv:1810.04805, section 5.3: a projection on the first token of each word, all weights
trained. Texts longer than a row are split between words, and nothing is dropped.

Data: records with a list of words and a list of equally many tags (BIO, BIOES, or any classes; -100 for none) in .jsonl
or .parquet, or the columns of .conll, see docs/data.md. Architecture and tokenizer come from --init-from.

Cost: an epoch of WNUT17 (3,394 texts, 90k tokens) with all-MiniLM-L6-v2 is about two minutes on 2 CPU cores.
Expected: docs/results.md has the measured results.

Run: jaxencoder train finetune_token_classification --init-from runs/small --run-dir runs/ner \\
         --data.train ner/train.jsonl --data.validation ner/validation.jsonl
     jaxencoder evaluate runs/ner --data ner/test.jsonl
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    RunConfig,
    TokenClassification,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=TokenClassification(),
        data=DataConfig(text_field="tokens", label_field="ner_tags", row_length=128),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-4, b2=0.999, weight_decay=0.01, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=4,
            batch_size=8,
            num_evaluations=4,
            eval_batches=0,
            checkpoint_every=100,
        ),
    )
