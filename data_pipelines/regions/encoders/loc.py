"""`loc`: each box as four loc tokens in the prefix, PaliGemma's own way."""

from data_pipelines.regions.encoders.protocol import RegionEncoder


class Loc(RegionEncoder):
    """Changes the prefix; adds no array. Prompt templates must hold {regions}."""

    name = "loc"
    summary = "`loc` (four loc tokens in the prompt)"
    writes_boxes = True
    exportable = True
