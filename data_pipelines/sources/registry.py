"""The data sets by name; a module exports `SOURCE`, or one under each name, and is imported when it is asked for."""

from data_pipelines.core.registry import named_export
from data_pipelines.records import Source

_HERE = "data_pipelines.sources"
# Name on the command line and in `data.source` → module, and after a colon what it exports where that is not `SOURCE`.
# To add a data set, write its module and a line here.
MODULES = {
    "slake": f"{_HERE}.slake",
    "vqa_rad": f"{_HERE}.vqa_rad",
    "path_vqa": f"{_HERE}.path_vqa",
    "vqa_med_2019": f"{_HERE}.vqa_med_2019",
    "pmc_vqa": f"{_HERE}.pmc_vqa",
    "roco_v2": f"{_HERE}.roco_v2",
    "medpix": f"{_HERE}.medpix",
    "llava_med_alignment": f"{_HERE}.llava_med:ALIGNMENT",
    "llava_med_instruct": f"{_HERE}.llava_med:INSTRUCT",
    "mimic_cxr_jpg": f"{_HERE}.mimic_cxr_jpg",
    "chest_xray14": f"{_HERE}.chest_xray14",
    "vqa_rad_hf": f"{_HERE}.huggingface_parquet:VQA_RAD_HF",
    "path_vqa_hf": f"{_HERE}.huggingface_parquet:PATH_VQA_HF",
    "slake_hf": f"{_HERE}.huggingface_parquet:SLAKE_HF",
    "phantom": f"{_HERE}.phantom",
    "documents": f"{_HERE}.documents",
    "jsonl": f"{_HERE}.jsonl",
    "coco": f"{_HERE}.coco",
}
# What is drawn, and so needs no folder.
DRAWN = ("phantom", "documents")


def source(name: str, *, setting: str) -> Source:
    """The data set of that name.

    Args:
      setting: what names it, for the message.

    Raises:
      DataError: there is none; names the nearest.
    """
    found: Source = named_export(MODULES, name, what="data set", setting=setting, usual="SOURCE")
    return found
