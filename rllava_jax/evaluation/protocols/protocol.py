"""What a protocol is: which questions count, and what an answer to one of them scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rllava_jax.evaluation.answer_files import Findings
from rllava_jax.evaluation.intervals import Statistic
from rllava_jax.evaluation.metrics import Contrast, subsets_of
from rllava_jax.evaluation.predictions import Response

Scores = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to score predictions.

    Attributes:
      name: on the command line, e.g. "strict".
      about: what it measures, in a sentence.
      source: whose rules these are: paper, or repository and file.
      faults: what is known to be wrong with them, a sentence each; empty where nothing is.
      score: of an answered question, metric → value. A metric that it lacks does not have the question in its n.
        Values are means' terms: a row is their mean, its interval the bootstrap by image.
      metrics: metrics of the rows of a subset, its main one first; "" stands for every subset not named. Metrics of
        `corpus` may stand here too.
      counts: whether a question takes part; what does not is counted and named.
      subsets: those that an item belongs to, each a group of rows; "all" among them.
      corpus: metrics of many answers together (BLEU, AUC): from the items of a subset, and from those of the whole
        file, a statistic of weights [S, N] → [S] as in `evaluation.intervals`, so that the bootstrap runs through it.
        Whether a metric can be had at all follows from the whole file: were it the subset's own question, one that
        nobody answered would leave a mean over subsets.
      contrasts: differences between conditions that have rows, as have then the kinds of wrong region.
      settle: from all items the items as `score` shall read them, e.g. where one answer alone does not tell whether it
        is a letter; it adds what is to be told of them. None changes nothing.
      runs: answers per question. Above 1, a line's `answer` may be a list, and lines that share an id are its runs.
      dataset: where the protocol is a published test set: its name in `data_pipelines.sources.registry`,
      split: its split,
      languages: the languages that are asked,
      expected: and the number of questions that a complete copy has.
    """

    name: str
    about: str
    source: str
    score: Callable[[Any], Scores]
    metrics: Mapping[str, tuple[str, ...]]
    faults: tuple[str, ...] = ()
    counts: Callable[[Response], bool] = lambda item: True
    subsets: Callable[[Any], Sequence[str]] = subsets_of
    corpus: Mapping[str, Callable[[Sequence[Any], Sequence[Any]], Statistic]] = field(default_factory=dict)
    contrasts: tuple[Contrast, ...] = ()
    settle: Callable[[Sequence[Response], Findings], list[Response]] | None = None
    runs: int = 1
    dataset: str = ""
    split: str = "test"
    languages: tuple[str, ...] = ("en",)
    expected: int | None = None

    def metrics_of(self, subset: str) -> tuple[str, ...]:
        """The metrics that a subset reports, its main one first."""
        return self.metrics.get(subset, self.metrics.get("", ()))
