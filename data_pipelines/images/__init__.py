"""Images as files hold them: photographs, DICOM and NIfTI, and what is done to their pixels."""

from data_pipelines.images.reading import decode as decode
