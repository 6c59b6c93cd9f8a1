"""The record of extractive question answering."""

from jaxencoder.tasks.question_answering.data import SCHEMA
from jaxencoder.tasks.question_answering.objective import HEAD, QuestionAnswering
from jaxencoder.tasks.question_answering.predict import evaluate_answers, predict_answers
from jaxencoder.tasks.task import Task

TASK = Task(
    name="question answering",
    schema=SCHEMA,
    objective=QuestionAnswering,
    head=HEAD,
    predict=predict_answers,
    evaluate=evaluate_answers,
    published_head=HEAD,
)
