"""Fine-tune a pretrained model to choose the right one of some texts, such as the end of a story or an answer.

Paper: Zellers et al. 2018 (SWAG), arXiv:1808.05326, as Devlin et al. 2019, arXiv:1810.04805, section 4.4, learn it:
each choice after the context has a score, and the softmax over the scores is trained. The choices of an example are
read side by side in one row; where they are too long for it, each is cut to its share.

Data: records with a context, a list of choices (two or more, as many as an example needs), and which one is right, by
its number from 0, its letter or its text: {"context": "She opened the door", "choices": ["I left.", "It flew."],
"label": 0}. RACE's article and question are one context. The model comes from what --init-from names.

Cost: SWAG (73,546 examples of 4 choices, some 30 tokens each) is 9M tokens an epoch: minutes on one GPU, an hour or two
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
