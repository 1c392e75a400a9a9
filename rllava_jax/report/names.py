"""What a reader calls the names that stand in rows (conditions, subsets, metrics), and how numbers are written."""

from rllava_jax.evaluation.metrics import METRICS, Row
from rllava_jax.evaluation.paired import ComparisonRow

_CONDITIONS = {
    "right": "Right region",
    "none": "No region",
    "wrong": "Wrong region",
    "blank": "Blank image",
    "noise": "Noise for an image",
    "shuffled": "Another question’s image",
    "question_only": "Question only",
    "detected": "Detected region",
    "trust:right": "Right box",
    "trust:none": "No box",
    "trust:another": "Another structure’s box",
    "trust:mirrored": "Mirrored to the other side",
    "trust:random": "Random place",
    "trust:whole": "Whole image",
    "trust:tiny": "Tiny box",
    "trust:two": "Two boxes, one right",
    "trust:contradicted": "Text contradicts the box",
}
_SUBSETS = {
    "family=identify": ("Identify", "what is the marked structure?"),
    "family=verify": ("Verify", "is the marked structure the X? A uniform guess: 50 %"),
    "family=choose": ("Choose", "which of four is marked? A uniform guess: 25 %"),
    "family=localise": ("Localise", "box of a named structure"),
    "has_region=yes": ("Ordinary, with a region", "questions of the data set that have one"),
    "family=vqa": ("Ordinary, all", "region shown only where the question has one"),
    "answer_type=closed": ("Closed", "every closed question, yes/no or not"),
    "answer_type=yes_no": ("Closed, yes/no", "those whose reference is yes or no"),
    "answer_type=open": ("Open", ""),
    "all": ("All questions", "all families together"),
}


def condition_name(condition: str) -> str:
    """ "right" is "Right region", "corrupted:blur:3" is "Blur, level 3"; a name that is not known stays as it is."""
    if condition in _CONDITIONS:
        return _CONDITIONS[condition]
    match condition.split(":"):
        case ["corrupted", kind, level]:
            return f"{'JPEG' if kind == 'jpeg' else kind.capitalize()}, level {level}"
        case ["trust", "shifted", overlap]:
            return f"Shifted to IoU {overlap}"
        case ["trust", "scaled", factor]:
            return f"Scaled {factor} times"
        case ["wrong", kind]:
            return f"Wrong: {kind}"
    return condition


def subset_name(subset: str) -> str:
    """What a reader calls a subset: `content_type=Organ` is "Organ"."""
    return _SUBSETS[subset][0] if subset in _SUBSETS else subset.partition("=")[2]


def subset_detail(subset: str, metric: str, *, explained: bool = True) -> str:
    """What stands in small letters below the name of a subset: what its questions are, and which metric is shown."""
    explanation = _SUBSETS.get(subset, ("", ""))[1] if explained else ""
    return "; ".join(filter(None, (explanation, "" if metric == "accuracy" else (METRICS[metric].label or metric))))


def percent(value: float) -> str:
    """0.8412 is "84.1"."""
    return f"{100 * value:.1f}"


def minus(number: str) -> str:
    """With a minus sign in place of a hyphen."""
    return number.replace("-", "−")


def interval_text(row: Row | ComparisonRow) -> str:
    """ "79.2 to 88.6", or "" where the row has no interval."""
    low, high = row["ci_low"], row["ci_high"]
    return "" if low is None or high is None else minus(f"{percent(low)} to {percent(high)}")
