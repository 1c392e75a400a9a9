"""The names of the conditions under which a question can be asked: what is shown of its region, and of its image.

right, none, wrong, blank   the four of every evaluation; `policy.regions_under` says what they show
noise                       an image of noise with the right region
shuffled                    another question's image with the right region
question_only               a blank image and no region
detected                    the box that the model itself finds of the structure that the question names
corrupted:KIND:LEVEL        the image made worse, with the right region; LEVEL 1 to 5
trust:VARIANT               the right box, none, or a box made wrong by degrees: the region trust benchmark

A name stands in `Prediction.condition` and in the `condition` of a result's rows. The order here is that of tables.
"""

from typing import Literal, get_args

from data_pipelines.settings import Condition

MAIN: tuple[str, ...] = get_args(Condition)
CONTROLS = ("noise", "shuffled", "question_only")
DETECTED: Literal["detected"] = "detected"
CORRUPTIONS = ("noise", "blur", "contrast", "jpeg", "occlusion")
LEVELS = (1, 2, 3, 4, 5)
CORRUPTED = tuple(f"corrupted:{kind}:{level}" for kind in CORRUPTIONS for level in LEVELS)
ASKED = (*MAIN, *CONTROLS, *CORRUPTED)  # what an evaluation can show; the trust variants are the trust benchmark's
SHIFTED_IOUS = (0.75, 0.5, 0.25, 0.0)
_SHIFTED = tuple(f"shifted:{overlap:.2f}" for overlap in SHIFTED_IOUS)
_SCALED = tuple(f"scaled:{factor:.2f}" for factor in (0.5, 0.71, 1.41, 2.0, 4.0))
_ELSEWHERE = ("another", "mirrored", "random", "whole", "tiny", "two", "contradicted")
TRUST = tuple(f"trust:{variant}" for variant in ("right", "none", *_SHIFTED, *_SCALED, *_ELSEWHERE))
ALL = (*MAIN, *CONTROLS, DETECTED, *CORRUPTED, *TRUST)
