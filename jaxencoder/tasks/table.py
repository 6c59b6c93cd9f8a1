"""The table of tasks, and which of them a model was trained for."""

from jaxencoder.objectives.objective import ObjectiveConfig
from jaxencoder.tasks.classification.task import TASK as CLASSIFICATION
from jaxencoder.tasks.multiple_choice.task import TASK as MULTIPLE_CHOICE
from jaxencoder.tasks.question_answering.task import TASK as QUESTION_ANSWERING
from jaxencoder.tasks.task import Task, TaskModel
from jaxencoder.tasks.token_classification.task import TASK as TOKEN_CLASSIFICATION
from jaxencoder.text.schema import TEXTS, Schema

TASKS = (CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, MULTIPLE_CHOICE)


def task_of(objective: ObjectiveConfig) -> Task | None:
    """The task of an objective; None for pretraining."""
    return next((task for task in TASKS if task.objective is type(objective)), None)


def schema_of(objective: ObjectiveConfig) -> Schema:
    """The schema of an objective's records; texts or pairs for pretraining."""
    task = task_of(objective)
    return TEXTS if task is None else task.schema


def task_of_model(model: TaskModel) -> Task | None:
    """The task whose head a model has; None for other models."""
    if model.published is not None:
        return next((task for task in TASKS if task.published_head and task.published_head in model.heads), None)
    task = task_of(model.config.objective)
    return task if task is not None and task.head in model.params else None
