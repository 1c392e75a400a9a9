"""The data sets by name; each module exports its `Source`, or several, under the name after the colon."""

from data_pipelines.core.registry import Registry
from data_pipelines.records import Source

_HERE = "data_pipelines.sources"
# By the name on the command line and in `data.source`.
# To add a data set, write its module and a line here.
SOURCES: Registry[Source] = Registry(
    "data set",
    slake=f"{_HERE}.slake:SOURCE",
    vqa_rad=f"{_HERE}.vqa_rad:SOURCE",
    path_vqa=f"{_HERE}.path_vqa:SOURCE",
    vqa_med_2019=f"{_HERE}.vqa_med_2019:SOURCE",
    pmc_vqa=f"{_HERE}.pmc_vqa:SOURCE",
    roco_v2=f"{_HERE}.roco_v2:SOURCE",
    medpix=f"{_HERE}.medpix:SOURCE",
    llava_med_alignment=f"{_HERE}.llava_med:ALIGNMENT",
    llava_med_instruct=f"{_HERE}.llava_med:INSTRUCT",
    mimic_cxr_jpg=f"{_HERE}.mimic_cxr_jpg:SOURCE",
    chest_xray14=f"{_HERE}.chest_xray14:SOURCE",
    vqa_rad_hf=f"{_HERE}.huggingface_parquet:VQA_RAD_HF",
    path_vqa_hf=f"{_HERE}.huggingface_parquet:PATH_VQA_HF",
    slake_hf=f"{_HERE}.huggingface_parquet:SLAKE_HF",
    phantom=f"{_HERE}.phantom:SOURCE",
    documents=f"{_HERE}.documents:SOURCE",
    jsonl=f"{_HERE}.jsonl:SOURCE",
    coco=f"{_HERE}.coco:SOURCE",
)
# What is drawn, and so needs no folder.
DRAWN = ("phantom", "documents")
