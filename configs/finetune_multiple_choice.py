"""Fine-tune a pretrained model to choose the right text among several, such as the end of a story or an answer.

Paper: Zellers et al. 2018 (SWAG), arXiv:1808.05326, fine-tuned as in Devlin et al. 2019, arXiv:1810.04805, section 4.4:
each choice after the context gets a score, and the softmax over the scores is trained. The choices of an example are
encoded side by side in one row; if they are too long, each is truncated to its share of the row.

Data: records with a context, a list of two or more choices, and the right one by its number from 0, its letter or its
text: {"context": "She opened the door", "choices": ["I left.", "It flew."], "label": 0}. For RACE, join article and
question into one context. Architecture and tokenizer come from --init-from.

Cost: SWAG (73,546 examples of 4 choices of about 30 tokens) is 9M tokens per epoch: minutes on one GPU, an hour or two
with all-MiniLM-L6-v2 on 2 CPU cores.
Expected: BERT-base reaches 81.6 on SWAG's dev set in its paper; nothing has been measured with this code yet.

Run: jaxencoder train finetune_multiple_choice --init-from runs/small --run-dir runs/swag \\
         --data.train swag/train.jsonl --data.validation swag/validation.jsonl
     jaxencoder evaluate runs/swag --step best
     jaxencoder predict runs/swag --input swag/test.jsonl --output chosen.jsonl
"""

from jaxencoder.config import (
    ComputeConfig,
    DataConfig,
    EncoderConfig,
    MultipleChoice,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        model=EncoderConfig(dropout=0.1, attention_dropout=0.1),  # the rest comes from --init-from
        compute=ComputeConfig(dtype="float32"),
        objective=MultipleChoice(),
        data=DataConfig(text_field="context", pair_field="choices", label_field="label", row_length=512),
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=1e-4, b2=0.999, weight_decay=0.01, schedule="linear", warmup_ratio=0.1
        ),
        training=TrainingConfig(
            epochs=3,
            batch_examples=16,
            num_evaluations=6,
            eval_batches=0,
            checkpoint_every=200,
        ),
    )
