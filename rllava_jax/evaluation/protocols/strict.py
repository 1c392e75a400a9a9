"""The project's own protocol: what is right is right, and every question counts."""

import dataclasses

from rllava_jax.evaluation.metrics import CONTRASTS, DETECTED_CONTRASTS, METRICS, metrics_of, scores_of
from rllava_jax.evaluation.protocols.protocol import Protocol

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
    score=scores_of,
    metrics={subset: metrics_of(subset) for subset in dict.fromkeys(metric.subset for metric in METRICS.values())},
)
# A run also compares conditions, question by question.
OF_A_RUN = dataclasses.replace(STRICT, contrasts=(*CONTRASTS, *DETECTED_CONTRASTS))
