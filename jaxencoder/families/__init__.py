"""Published families of encoders: each maps its config.json and the names of its weights to ours, in both directions.

To add a family, write one file and name it in FAMILIES.
"""

from jaxencoder.families.albert import ALBERT
from jaxencoder.families.bert import BERT
from jaxencoder.families.deberta import DEBERTA
from jaxencoder.families.deberta_v2 import DEBERTA_V2
from jaxencoder.families.distilbert import DISTILBERT
from jaxencoder.families.electra import ELECTRA
from jaxencoder.families.ernie import ERNIE
from jaxencoder.families.esm import ESM
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.gemma3 import GEMMA3
from jaxencoder.families.gte import GTE, NEW
from jaxencoder.families.jina_bert import JINA_BERT
from jaxencoder.families.jina_v3 import JINA_V3
from jaxencoder.families.jina_v5 import JINA_V5_NANO, JINA_V5_SMALL
from jaxencoder.families.llama import LLAMA, MISTRAL
from jaxencoder.families.longformer import LONGFORMER
from jaxencoder.families.modernbert import MODERNBERT
from jaxencoder.families.mpnet import MPNET
from jaxencoder.families.neobert import NEOBERT
from jaxencoder.families.nomic_bert import NOMIC_BERT
from jaxencoder.families.nomic_moe import NOMIC_MOE
from jaxencoder.families.prenorm import MEGATRON_BERT, ROBERTA_PRELAYERNORM, XLM_ROBERTA_XL
from jaxencoder.families.qwen3 import QWEN3
from jaxencoder.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from jaxencoder.families.roformer import ROFORMER
from jaxencoder.families.t5 import MT5, T5, UMT5
from jaxencoder.families.ultrabert import ULTRABERT

# A run that came from no family is published as the first that can express its architecture.
FAMILIES = (
    BERT, DISTILBERT, MODERNBERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, ALBERT, MPNET, NOMIC_BERT, EUROBERT,
    ROFORMER, DEBERTA, DEBERTA_V2, NEOBERT, LONGFORMER,
    GTE, NEW, GEMMA3, QWEN3, LLAMA, MISTRAL,
    T5, MT5, UMT5, JINA_BERT, XLM_ROBERTA_XL, ROBERTA_PRELAYERNORM, MEGATRON_BERT, ERNIE, ESM,
    JINA_V3, JINA_V5_NANO, JINA_V5_SMALL, ULTRABERT, NOMIC_MOE,
)  # fmt: skip
