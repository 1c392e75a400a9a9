"""The losses that `train.losses` names, and their weighted sum.

A loss is a function `(model, inputs, config) → (loss, metrics)` in a file of its own beside this one, and a line below:

    register_loss("my_loss", Loss(my_loss))

Its metrics are arrays by any name: scalars are logged, and averaged over micro-batches; float[B] say something of each
example, in the batch's order. `example_loss` is one of these that names the examples behind a bad step.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from data_pipelines.core.errors import ConfigError, SettingConflict
from rllava_jax.config import Config, TrainConfig
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.paligemma import PaliGemma
from rllava_jax.model.params import HEADS, Head
from rllava_jax.training.losses.cross_entropy import cross_entropy

Metrics = dict[str, Array]


class Loss(NamedTuple):
    """A loss that a run may train on.

    Attributes:
      function: of the model, the batch (a micro-batch with `train.accumulate`), and the configuration.
      averages: whether a batch's loss is the mean over equal micro-batches of it. A contrastive loss, which compares
        the examples of a batch with each other, is not.
      head: makes a module with parameters of its own, which the function finds at `model.heads.NAME`.
    """

    function: Callable[[PaliGemma, Inputs, Config], tuple[Float[Array, ""], Metrics]]
    averages: bool = True
    head: Head | None = None


LOSSES: dict[str, Loss] = {}


def register_loss(name: str, loss: Loss) -> None:
    """Makes a loss known to `train.losses`.

    Raises:
      ValueError: another one has the name.
    """
    if LOSSES.setdefault(name, loss) != loss:
        raise ValueError(f"register_loss: there is another loss {name!r}")
    if loss.head is not None:
        HEADS[name] = loss.head


register_loss("cross_entropy", Loss(cross_entropy))


def check_losses(config: TrainConfig) -> None:
    """Checks `train.losses` before anything is compiled.

    Raises:
      ConfigError: a name that is not known, or a loss that micro-batches would change.
    """
    for name in config.losses:
        if name not in LOSSES:
            raise ConfigError(
                f"train.losses: there is no loss {name!r}; choose from {', '.join(LOSSES)}", code="config.unknown-name"
            )
        if config.accumulate > 1 and not LOSSES[name].averages:
            raise SettingConflict(
                f"train.accumulate: {config.accumulate} micro-batches, but the loss {name} of train.losses compares "
                "the examples of a whole batch; set it to 1"
            )


def total_loss(model: PaliGemma, inputs: Inputs, config: Config) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of `train.losses`, and their metrics: with `loss`, the sum, and of several `loss/NAME` each.

    Raises:
      ValueError: two losses have a metric of the same name.
    """
    total: Array | None = None
    metrics: Metrics = {}
    of_examples: Array | None = None
    for name, weight in config.train.losses.items():
        loss, found = LOSSES[name].function(model, inputs, config)
        if len(config.train.losses) > 1:
            found = {**found, f"loss/{name}": loss}
        total = _added(total, weight, loss)
        if "example_loss" in found:
            of_examples = _added(of_examples, weight, found["example_loss"])
        if twice := (metrics.keys() & found.keys()) - {"example_loss"}:
            raise ValueError(f"losses: the metrics {sorted(twice)} of {name} are another loss's, too; rename them")
        metrics |= found
    assert total is not None
    return total, metrics | {"loss": total} | ({} if of_examples is None else {"example_loss": of_examples})


def _added(total: Array | None, weight: float, term: Array) -> Array:
    weighted = term if weight == 1 else weight * term
    return weighted if total is None else total + weighted
