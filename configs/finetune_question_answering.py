"""Fine-tune a pretrained model for extractive question answering: the answer is a span of the context.

Paper: Devlin et al. 2019, arXiv:1810.04805, section 4.2: two projections of each token, for the first and the last one
of an answer. Contexts longer than a row are split into overlapping windows; windows without the answer point to [CLS].

Data: SQuAD's JSON, or records with the fields question, context and answers, as in TFDS and on the hub. With
--objective.no-answer questions may have no answer (SQuAD 2.0). Architecture and tokenizer come from --init-from.

Cost: an epoch of TyDi QA in English (3,696 questions, 1.0M tokens) with all-MiniLM-L6-v2 is about twenty minutes on 2
CPU cores.
Expected: docs/results.md has the measured results.

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
