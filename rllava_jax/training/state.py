"""What a training step changes and reports, and which of it a checkpoint keeps."""

from typing import Any, NamedTuple


class TrainState(NamedTuple):
    """Everything a step changes, and the frozen parameters beside it (which have no optimiser state).

    Leaves are arrays; the same structure also holds their shapes or their shardings.

    Attributes:
      ema: the moving average of `params`; empty without one.
      guard: `loss` and `steps`, the running mean of the loss, where a spike is looked for; `stopped`, where a bad step
        ends the run: true from then on.
    """

    step: Any
    params: dict[str, Any]
    frozen: dict[str, Any]
    optimizer: Any
    ema: dict[str, Any]
    guard: dict[str, Any]

    @property
    def inference_params(self) -> dict[str, Any]:
        """All parameters as evaluation and prediction use them: the average of those that have one."""
        return self.params | self.ema | self.frozen


class Metrics(NamedTuple):
    """What a step reports.

    Attributes:
      scalars: by name: `loss`, the other scalars of the losses (means over micro-batches), `learning_rate`,
        `gradient_norm` and `bad`.
      examples: float[B] by name, what the losses say of each example, in the batch's order and sharded as the batch is.
    """

    scalars: Any
    examples: Any


def stored(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint keeps: the parameters for inference, and what else training resumes with.

    With a moving average the first are the average (in float32), and the trained parameters stand in the second.
    """
    training = {"step": state.step, "optimizer": state.optimizer}
    if state.ema:
        training["params"] = state.params
    # That a run was stopped is no part of how it resumes.
    if guard := {name: value for name, value in state.guard.items() if name != "stopped"}:
        training["guard"] = guard
    return state.inference_params, training
