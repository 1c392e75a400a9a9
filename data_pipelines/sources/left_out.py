"""What a source leaves out: counted by reason, named in one warning a reason, and handed on with the split."""

import logging
from collections import Counter

from data_pipelines.core.errors import listed

logger = logging.getLogger(__name__)


class LeftOut:
    """Collects the entries that have no place in a split, e.g. questions whose image is not in the folder."""

    def __init__(self) -> None:
        self._reasons: dict[str, Counter[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Counts one entry under `reason`; entries of the same name, e.g. of one missing image, are named once."""
        self._reasons.setdefault(reason, Counter())[name] += 1

    def reported(self, split: str) -> dict[str, list[str]]:
        """Logs a warning for each reason, e.g. "path_vqa train: left out 3 …", and returns reason → names in order.

        The log names the first ten; what is returned, all. It is what `SourceSplit.left_out` holds.
        """
        for reason, names in self._reasons.items():
            logger.warning("%s: left out %d (%s): %s", split, names.total(), reason, listed(list(names)))
        return {reason: list(names) for reason, names in self._reasons.items()}
