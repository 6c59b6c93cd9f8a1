"""Fine-tune a pretrained model to answer questions out of a text that holds the answer.

Paper: Devlin et al. 2019, arXiv:1810.04805, section 4.2: two projections of each token, for an answer's first and last
one. Texts longer than a row are read in windows that overlap; windows without the answer point at [CLS].

Data: SQuAD's JSON, or records with the fields question, context and answers as TFDS and the hub have them. With
--objective.no-answer questions may have none (SQuAD 2.0). The model comes from what --init-from names.

Cost: an epoch of TyDi QA in English (3,696 questions, 1.0M tokens) with all-MiniLM-L6-v2 is some twenty minutes on 2
CPU cores.
Expected: see docs/results.md for what has been measured.

Run: jaxencoder train finetune_question_answering --init-from runs/small --run-dir runs/qa \\
         --data.train qa/train.json --data.validation qa/dev.json
     jaxencoder evaluate runs/qa
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    QuestionAnswering,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=QuestionAnswering(),
        data=DataConfig(
            text_field="question",
            pair_field="context",
            label_field="answers",
            row_length=384,
            overlap=128,
        ),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-4, b2=0.999, weight_decay=0.01, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=2,
            batch_size=8,
            num_evaluations=4,
            eval_batches=0,
            checkpoint_every=200,
        ),
    )
