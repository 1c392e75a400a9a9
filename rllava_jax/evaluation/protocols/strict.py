"""The project's own protocol: what is right is right, and every question counts."""

from __future__ import annotations

from rllava_jax.evaluation.answers import score
from rllava_jax.evaluation.metrics import metrics_of
from rllava_jax.evaluation.protocols.protocol import Protocol, each

METRICS = {"": ("accuracy",), **{subset: metrics_of(subset) for subset in ("answer_type=open", "family=localise")}}

STRICT = Protocol(
    name="strict",
    about="Normalised equality over all closed questions, yes/no apart; of open ones exact match and clipped token "
    "recall, precision and F1; of localise the IoU of the first box.",
    source="this project (rllava_jax/evaluation/answers.py); the words of an answer are normalised much as by the VQA "
    "evaluator (Antol et al., ICCV 2015), token F1 is SQuAD's (Rajpurkar et al., EMNLP 2016)",
    faults=(
        "A right answer in other words counts as wrong: 'heart' and 'cardiac', 'left lung' and 'lung, left'.",
        "Token recall is gained by long answers; read it beside precision and F1.",
    ),
    score=each(score),
    metrics=METRICS,
)
