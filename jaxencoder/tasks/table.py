"""The table of tasks, and the task that a model was trained for."""

from jaxencoder.objectives.objective import ObjectiveConfig
from jaxencoder.tasks.classification.data import VALUES
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.classification.predict import evaluate_classes, predict_classes
from jaxencoder.tasks.embeddings import data as tuples
from jaxencoder.tasks.embeddings.compared_texts import ComparedTexts
from jaxencoder.tasks.embeddings.objective import Embeddings
from jaxencoder.tasks.embeddings.predict import evaluate_embeddings, predict_similarities
from jaxencoder.tasks.embeddings.schemas import schema_for
from jaxencoder.tasks.embeddings.source_schemas import SourceSchemas
from jaxencoder.tasks.multi_vector.data import MultiVectorSchema
from jaxencoder.tasks.multi_vector.objective import MultiVectors
from jaxencoder.tasks.multi_vector.predict import evaluate_token_vectors, predict_token_similarities
from jaxencoder.tasks.multiple_choice import data as choices
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.multiple_choice.predict import evaluate_choices, predict_choices
from jaxencoder.tasks.question_answering import data as answers
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.question_answering.predict import evaluate_answers, predict_answers
from jaxencoder.tasks.reranking import data as lists
from jaxencoder.tasks.reranking.objective import Reranking
from jaxencoder.tasks.reranking.predict import evaluate_lists, predict_scores
from jaxencoder.tasks.sparse.objective import SparseEmbeddings
from jaxencoder.tasks.task import Task, TaskCheckpoint
from jaxencoder.tasks.token_classification import data as tags
from jaxencoder.tasks.token_classification.evaluate import evaluate_tags
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.tasks.token_classification.predict import predict_tags
from jaxencoder.text.schema import TEXTS, Schema

TASKS = (
    Task(
        name="text classification",
        schema=TEXTS,
        objective=Classification,
        head="classifier",
        published_head="sequence_head",
        predict=predict_classes,
        evaluate=evaluate_classes,
        scores_classes=True,
        list_items={"probability": 0.0},
    ),
    Task(
        name="token classification",
        schema=tags.SCHEMA,
        objective=TokenClassification,
        head="token_head",
        published_head="token_head",
        predict=predict_tags,
        evaluate=evaluate_tags,
        list_items={"entities": {"type": "", "text": "", "start": 0, "end": 0, "probability": 0.0}},
    ),
    Task(
        name="question answering",
        schema=answers.SCHEMA,
        objective=QuestionAnswering,
        head="span_head",
        published_head="span_head",
        predict=predict_answers,
        evaluate=evaluate_answers,
    ),
    Task(
        name="embedding",
        schema=tuples.SCHEMA,
        objective=Embeddings,
        head="encoder",  # there is no other
        predict=predict_similarities,
        evaluate=evaluate_embeddings,
    ),
    Task(
        name="sparse embedding",
        schema=tuples.SCHEMA,
        objective=SparseEmbeddings,
        head="mlm_head",
        predict=predict_similarities,
        evaluate=evaluate_embeddings,
    ),
    Task(
        name="multi-vector embedding",
        schema=MultiVectorSchema(),
        objective=MultiVectors,
        head="encoder",  # there may be no projection
        predict=predict_token_similarities,
        evaluate=evaluate_token_vectors,
    ),
    Task(
        name="reranking",
        schema=lists.SCHEMA,
        objective=Reranking,
        head="sequence_head",
        predict=predict_scores,
        evaluate=evaluate_lists,
        list_items={"scores": 0.0},
    ),
    Task(
        name="multiple choice",
        schema=choices.SCHEMA,
        objective=MultipleChoice,
        head="classifier",
        predict=predict_choices,
        evaluate=evaluate_choices,
    ),
)


def task_of(objective: ObjectiveConfig) -> Task | None:
    """The task of an objective; None for pretraining."""
    return next((task for task in TASKS if task.objective is type(objective)), None)


def schema_of(objective: ObjectiveConfig) -> Schema:
    """Fields and encoding of an objective's records; texts or pairs for pretraining."""
    if isinstance(objective, Classification) and objective.labels == 1:
        return VALUES
    if isinstance(objective, ComparedTexts):
        if objective.losses:
            return SourceSchemas([_schema_of_texts(x) for x in objective.by_source], objective.losses)
        return _schema_of_texts(objective)
    if isinstance(objective, MultiVectors):
        return MultiVectorSchema(**objective.schema_settings)
    if isinstance(objective, Reranking):
        return lists.schema_for(objective.loss)
    return TEXTS if (task := task_of(objective)) is None else task.schema


def _schema_of_texts(objective: ComparedTexts) -> tuples.EmbeddingSchema:
    return schema_for(objective.loss, objective.prompts, objective.vector_texts)


def task_of_model(model: TaskCheckpoint) -> Task | None:
    """The task whose head a model has; None for other models."""
    if model.published is not None:
        return next((task for task in TASKS if task.published_head and task.published_head in model.heads), None)
    task = task_of(model.config.objective)
    return task if task is not None and task.head in model.params else None
