"""The protocols by name; each module exports its `Protocol` under the name after the colon."""

import textwrap

from data_pipelines.core.registry import Registry
from rllava_jax.evaluation.protocols.protocol import Protocol

_HERE = "rllava_jax.evaluation.protocols"
# To add a protocol, write its module and a line here.
PROTOCOLS: Registry[Protocol] = Registry(
    "protocol",
    strict=f"{_HERE}.strict:STRICT",
    slake=f"{_HERE}.published:SLAKE",
    vqa_rad=f"{_HERE}.published:VQA_RAD",
    pathvqa=f"{_HERE}.published:PATH_VQA",
    llava_med_legacy=f"{_HERE}.llava_med_legacy:LLAVA_MED_LEGACY",
    vqa_med_2019=f"{_HERE}.vqa_med_2019:VQA_MED_2019",
    vqa_accuracy=f"{_HERE}.vqa_accuracy:VQA_ACCURACY",
    multiple_choice=f"{_HERE}.multiple_choice:MULTIPLE_CHOICE",
    text_overlap=f"{_HERE}.text_overlap:TEXT_OVERLAP",
    localisation=f"{_HERE}.localisation:LOCALISATION",
    classification=f"{_HERE}.classification:CLASSIFICATION",
    findings=f"{_HERE}.findings:FINDINGS",
)


def description() -> str:
    """Every protocol with its source and known faults, for people."""
    texts = []
    for name in PROTOCOLS:
        found = PROTOCOLS.get(name, setting="--protocol")
        lines = [
            name,
            f"  {found.about}",
            f"  source: {found.source}",
            *(f"  fault: {fault}" for fault in found.faults),
        ]
        texts.append("\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines) + "\n")
    return "\n".join(texts)
