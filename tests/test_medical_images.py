"""DICOM and NIfTI where an image file may stand: pydicom and nibabel as oracles, orientation, windows, and privacy."""

import gzip
import importlib.util
import io
import logging
import traceback
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import write_dicom
from expected_errors import refused
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from data_pipelines.core.errors import ConfigError, DataError, ImageError, UserError
from data_pipelines.images import dicom
from data_pipelines.images.reading import ImageCache, decode
from data_pipelines.images.scan_parts import split_part
from data_pipelines.images.windows import PRESETS, Window, grey_levels, window_of
from data_pipelines.loading.checks import check_leaks
from data_pipelines.records import VQAExample

# Files that pydicom is published with; Pillow decodes the compressed ones. No network.
PACKAGED_GREYS = ["CT_small.dcm", "693_J2KI.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"]
PACKAGED_GREYS += ["MR_small_implicit.dcm", "J2K_pixelrep_mismatch.dcm", "examples_overlay.dcm", "rtdose_1frame.dcm"]
PACKAGED_COLOURS = ["examples_rgb_color.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm"]
PACKAGED_COLOURS += ["SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_rle.dcm", "examples_jpeg2k.dcm"]


def packaged(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert path is not None, f"pydicom no longer ships {name}"
    return str(path)


def write_nifti(path, values, affine=None, **header):
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return str(path)


def grey(image, window="auto"):
    """The picture, whose three channels are one."""
    out = decode(image, "x", window)
    assert out.dtype == np.uint8
    assert (out == out[..., :1]).all()
    return out[..., 0].astype(int)


# DICOM: from stored values to greys.


@pytest.mark.parametrize("name", PACKAGED_GREYS)
def test_greys_are_pydicoms_modality_and_voi_transformations(name):
    dataset = pydicom.dcmread(packaged(name))
    values = apply_modality_lut(dataset.pixel_array, dataset)
    seen = apply_voi_lut(values, dataset)
    if "WindowCenter" in dataset:
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], float)
        low, high = apply_modality_lut(ends, dataset)
    else:
        counted = seen[dataset.pixel_array != dataset.get("PixelPaddingValue")]
        low, high = counted.min(), counted.max()
    expected = np.clip((seen - low) / (high - low), 0, 1) * 255
    assert np.abs(grey(packaged(name)) - expected).max() <= 0.51


@pytest.mark.parametrize("name", PACKAGED_COLOURS)
def test_colours_are_pydicoms(name):
    assert (decode(packaged(name), "x") == pydicom.dcmread(packaged(name)).pixel_array).all()


def test_colours_of_a_palette_are_pydicoms():
    dataset = pydicom.dcmread(packaged("examples_palette.dcm"))
    expected = apply_color_lut(dataset.pixel_array, dataset) / 257  # 16 bits to 8
    assert np.abs(decode(packaged("examples_palette.dcm"), "x") - expected).max() <= 0.51


def test_monochrome1_is_the_inverse_of_monochrome2(tmp_path):
    ramp = np.arange(64).reshape(8, 8) * 16
    own = {"WindowCenter": 500, "WindowWidth": 600}
    two = write_dicom(tmp_path / "two.dcm", ramp, bits=12, **own)
    one = write_dicom(tmp_path / "one.dcm", ramp, bits=12, PhotometricInterpretation="MONOCHROME1", **own)
    assert (np.abs(grey(one) + grey(two) - 255) <= 1).all()
    assert grey(two)[0, 0] == 0
    assert grey(two)[7, 7] == 255


def test_hounsfield_units_of_a_preset_come_after_the_rescale(tmp_path):
    hounsfield = np.array([[-1024, 0], [40, 80]])
    path = write_dicom(tmp_path / "head.dcm", hounsfield + 1024, bits=12, RescaleSlope=1, RescaleIntercept=-1024)
    # Brain is 40, 80 wide: DICOM's linear ramp goes from 0 to 79.
    assert grey(path, "brain").tolist() == [[0, 0], [129, 255]]


@pytest.mark.parametrize("shape", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_each_shape_of_window_is_pydicoms(shape):
    values = np.linspace(-300, 300, 121).reshape(11, 11)
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 8, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 40.5, 200, shape
    ours = grey_levels(values, Window(40.5, 200, shape))
    np.testing.assert_allclose(ours, apply_voi_lut(values, dataset), atol=1e-9)


def test_unused_high_bits_and_signs_are_read_by_bits_stored(tmp_path):
    # 12 bits, signed, with rubbish in the four bits above: 0xF800 is -2048 and 0x0800 is -2048 too.
    stored = np.array([[0x0800, 0xF7FF], [0x0000, 0x0001]], np.uint16).view(np.int16)
    path = write_dicom(tmp_path / "signed.dcm", stored, bits=12, signed=True)
    assert grey(path, "0:4097").tolist() == [[0, 255], [128, 128]]


def test_a_voi_table_comes_before_a_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4, 10, 8], "steep"
    table.add_new("LUTData", "US", [0, 10, 200, 255])
    values = np.array([[0, 10], [11, 12], [13, 900]])
    path = write_dicom(
        tmp_path / "x.dcm", values, bits=12, VOILUTSequence=Sequence([table]), WindowCenter=5, WindowWidth=2
    )
    assert grey(path).tolist() == [[0, 0], [10, 200], [255, 255]]


def test_without_a_window_eight_bits_are_kept_and_more_are_stretched(tmp_path):
    values = np.array([[50, 100], [150, 200]])
    assert grey(write_dicom(tmp_path / "8.dcm", values, bits=8)).tolist() == values.tolist()
    assert grey(write_dicom(tmp_path / "12.dcm", values, bits=12)).tolist() == [[0, 85], [170, 255]]


def test_percentile_window_lets_single_bright_pixels_saturate(tmp_path):
    values = np.arange(10000).reshape(100, 100) % 1000
    values[0, 0] = 60000
    path = write_dicom(tmp_path / "mr.dcm", values, Modality="MR")
    assert grey(path, "minmax").max(where=values < 60000, initial=0) < 5
    assert np.median(grey(path, "percentile")) == pytest.approx(127, abs=3)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_not_counted(tmp_path, kind):
    values = np.array([[-2000, -2000], [0, 100]])
    path = write_dicom(tmp_path / "x.dcm", values, signed=True, PixelPaddingValue=-2000, PhotometricInterpretation=kind)
    assert grey(path)[0].tolist() == [0, 0]
    assert sorted(grey(path)[1].tolist()) == [0, 255]


def test_a_ct_preset_is_refused_for_another_modality_and_for_colours(tmp_path):
    path = write_dicom(tmp_path / "mr.dcm", np.eye(4), Modality="MR")
    with refused(DataError, "image.window-mismatch", "mr.dcm", "lung", "CT"):
        decode(path, "x", "lung")
    assert grey(path, "1:2").max() > 0
    with refused(DataError, "image.window-mismatch"):
        decode(packaged("examples_rgb_color.dcm"), "x", "lung")


# DICOM: frames.


def test_frames_count_from_one_and_the_middle_is_the_default(tmp_path):
    path = write_dicom(tmp_path / "cine.dcm", np.arange(5)[:, None, None] * np.ones((1, 2, 2)) * 10, bits=8)
    assert [grey(f"{path}#frame={n}")[0, 0] for n in (1, 3, 5)] == [0, 20, 40]
    assert grey(path)[0, 0] == 20
    with refused(DataError, "image.invalid-part", "cine.dcm#frame=6", "6", "frame=1", "frame=5"):
        decode(f"{path}#frame=6", "x")
    with refused(DataError, "image.invalid-part", "DICOM"):
        decode(f"{path}#slice=1", "x")


def test_a_frame_of_enhanced_ct_has_its_own_rescale_and_the_shared_window(tmp_path):
    def rescale(intercept):
        values, group = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, intercept, "HU"
        group.PixelValueTransformationSequence = Sequence([values])
        return group

    window, shared = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 0, 200, "LINEAR_EXACT"
    shared.FrameVOILUTSequence = Sequence([window])
    path = write_dicom(
        tmp_path / "enhanced.dcm",
        np.full((2, 2, 2), 1000),
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence([rescale(-1000), rescale(-1100)]),
    )
    assert grey(f"{path}#frame=1")[0, 0] == 128
    assert grey(f"{path}#frame=2")[0, 0] == 0


def test_the_window_of_the_name_overrides_the_runs(tmp_path):
    path = write_dicom(tmp_path / "ct.dcm", np.array([[0, 100]]), signed=True)
    assert grey(f"{path}#window=0:10", "1000:10").tolist() == [[142, 255]]
    assert grey(path, "1000:10").tolist() == [[0, 0]]


# What cannot be read.


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "JPGExtended.dcm",
    ],
)
def test_a_compression_that_nothing_installed_reads_names_what_to_install(name, monkeypatch):
    if importlib.util.find_spec("pylibjpeg"):
        pytest.skip("pylibjpeg is installed, and decodes it")
    with refused(ImageError, "image.unreadable", name, "JPEG", "pylibjpeg[all]"):
        decode(packaged(name), "x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("MR_truncated.dcm", "truncated"), ("rtplan.dcm", "without pixels"), ("no_meta.dcm", "no DICM at byte 128")],
)
def test_truncated_pixelless_and_headless_files_are_named(name, reason):
    with pytest.raises(ImageError, match=f"{name}: .*{reason}"):
        decode(packaged(name), "x")


def test_a_damaged_file_anywhere_is_an_image_error(tmp_path):
    """Cut at every 37th byte: never another exception, and never half a picture."""
    whole = Path(packaged("MR_small.dcm")).read_bytes()
    for length in range(140, len(whole) - 200, 37):
        with refused(ImageError, "image.unreadable"):
            decode(whole[:length], "x")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    dicom._pydicom.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with refused(ConfigError, "package.missing", ".[data]"):
        decode(packaged("CT_small.dcm"), "x")
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with refused(ConfigError, "package.missing"):
        decode(nifti_bytes(np.zeros((2, 2, 2), np.int16)), "x")


# Privacy.

SECRETS = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19470523",
    "PatientAddress": "12 Elm Street",
    "OtherPatientNames": "Roe^Mary",
    "AccessionNumber": "ACC-0815",
    "StudyDate": "20230917",
    "StudyTime": "101112",
    "InstitutionName": "Saint Elsewhere",
    "ReferringPhysicianName": "Welby^Marcus",
    "StudyDescription": "knee of Jane Doe",
    "ImageComments": "telephone Jane",
    "DeviceSerialNumber": "SN-998877",
    "StudyID": "Jane\tDoe\nknee-replacement-of-the-millers-wife",
}


def fragments(texts):
    return {word for text in texts for word in text.replace("^", " ").split() if len(word) > 3}


@pytest.mark.parametrize("fault", ["none", "no pixels", "truncated", "garbled", "colour", "frame", "window", "syntax"])
@pytest.mark.filterwarnings("default")
def test_nothing_that_identifies_a_patient_is_said(tmp_path, fault, caplog, capsys):
    dicom._pydicom.cache_clear()
    caplog.set_level(logging.DEBUG)
    changes = {"colour": {"PhotometricInterpretation": "HSV"}, "window": {"WindowCenter": 1, "WindowWidth": 0}}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        path = write_dicom(
            tmp_path / "scan.dcm", np.eye(8), BurnedInAnnotation="YES", **SECRETS, **changes.get(fault, {})
        )
        heard.clear()
        caplog.clear()
        content = Path(path).read_bytes()
        if fault == "no pixels":
            dataset = pydicom.dcmread(path)
            del dataset.PixelData
            dataset.save_as(path)
        elif fault == "truncated":
            Path(path).write_bytes(content[:-40])
        elif fault == "garbled":  # lengths run into one another: names are read where numbers were expected
            Path(path).write_bytes(content.replace(b"US\x02\x00", b"US\x80\x00"))
        elif fault == "syntax":
            Path(path).write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))
        heard.clear()
        caplog.clear()
        said = ""
        try:
            decode(path + ("#frame=9" if fault == "frame" else ""), "x")
        except DataError as error:
            said = "".join(traceback.format_exception(error))
        else:
            assert fault == "none"
        dicom_warnings = "\n".join(str(warning.message) for warning in heard)
    printed = capsys.readouterr()
    told = "\n".join([said, caplog.text, dicom_warnings, printed.out, printed.err])
    assert not [word for word in fragments(SECRETS.values()) if word in told]
    assert (fault == "none") == (not said)


def test_what_names_the_patient_is_never_parsed(monkeypatch):
    read = []
    original = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: read.append(original(*a, **k)) or read[-1])
    decode(packaged("CT_small.dcm"), "x")
    named = {element.keyword for element in read[0]}
    assert named <= {*dicom._ELEMENTS, "SpecificCharacterSet"}
    assert not [
        name for name in dicom._ELEMENTS if name.startswith(("Patient", "Study", "Institution")) or "UID" in name
    ]


def test_a_nifti_headers_texts_are_not_said_either(tmp_path):
    path = write_nifti(tmp_path / "ct.nii", np.zeros((4, 4, 4)), descrip=b"Doe^Jane 1947", aux_file=b"MRN-4711")
    content = Path(path).read_bytes()
    assert b"Doe^Jane" in content
    for damaged in (content[:400], content[:40] + b"\xff" * 30 + content[70:]):
        with pytest.raises(ImageError) as caught:
            decode(damaged, "scan 1")
        said = "".join(traceback.format_exception(caught.value))
        assert "scan 1: image cannot be read" in said
        assert not [word for word in ("Doe", "Jane", "4711") if word in said]


def test_a_malformed_window_of_the_file_is_named_with_the_way_out(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", np.eye(4), WindowCenter=1, WindowWidth=0)
    with refused(ImageError, "image.unreadable", "#window="):
        decode(path, "x")
    assert grey(f"{path}#window=minmax").max() == 255


def test_burned_in_annotation_is_warned_of_once_and_by_the_files_name(tmp_path, caplog):
    path = write_dicom(tmp_path / "us.dcm", np.eye(4), bits=8, BurnedInAnnotation="YES", PatientName="Doe^Jane")
    decode(path, "x")
    decode(path, "x")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [path]
    assert "BurnedInAnnotation is YES" in caplog.text


# NIfTI.


def nifti_bytes(values, affine=None):
    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine).to_bytes()


def body():
    """A RAS+ volume of 6 x 8 x 10 voxels with one mark each at the patient's left, front and head."""
    volume = np.zeros((6, 8, 10), np.int16)
    volume[0, 4, 5] = 10  # left: RAS+ counts towards the right
    volume[3, 7, 5] = 20  # front
    volume[3, 4, 9] = 30  # head
    return volume


@pytest.mark.parametrize(
    ("part", "mark", "place"),
    [
        ("axis=2,slice=5", 10, (3, 5)),  # axial: the patient's left is at the image's right
        ("axis=2,slice=5", 20, (0, 2)),  # and the front at its top
        ("axis=1,slice=4", 10, (4, 5)),  # coronal
        ("axis=1,slice=4", 30, (0, 2)),  # the head at its top
        ("axis=0,slice=3", 20, (4, 0)),  # sagittal: the front at its left
        ("axis=0,slice=3", 30, (0, 3)),
    ],
)
@pytest.mark.parametrize("stored", ["RAS", "LPS", "LAS", "PIR", "SLA", "ARI"])
def test_slices_lie_as_radiology_shows_them_however_they_are_stored(tmp_path, stored, part, mark, place):
    transform = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(stored)
    )
    image = nibabel.Nifti1Image(body(), np.eye(4)).as_reoriented(transform)
    assert nibabel.aff2axcodes(image.affine) == tuple(stored)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    picture = grey(f"{tmp_path / 'ct.nii.gz'}#{part},window={mark - 0.5}:1")
    assert picture.shape == {"2": (8, 6), "1": (10, 6), "0": (10, 8)}[part[5]]  # rows first
    assert picture[place] == 255


def test_a_slice_is_nibabels_canonical_volume(tmp_path):
    rng = np.random.default_rng(0)
    affine = np.array([[0.1, -0.9, 0.2, 5], [2.0, 0.1, 0.1, 1], [0.1, 0.2, -3.0, 2], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "oblique.nii.gz", rng.integers(0, 1000, (5, 6, 7)).astype(np.int16), affine)
    canonical = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    for axis, flipped in enumerate(
        (canonical[2, ::-1, ::-1].T, canonical[::-1, 2, ::-1].T, canonical[::-1, ::-1, 2].T)
    ):
        picture = grey(f"{path}#axis={axis},slice=2")
        low, high = flipped.min(), flipped.max()
        assert np.abs(picture - (flipped - low) / (high - low) * 255).max() <= 0.51


def test_the_middle_axial_slice_of_the_first_volume_is_the_default(tmp_path):
    series = np.zeros((4, 4, 5, 3), np.float32)
    series[:, :, 2, 0] = np.eye(4)
    path = write_nifti(tmp_path / "dwi.nii", series)
    assert grey(path).max() == 255
    assert grey(f"{path}#volume=2").max() == 0
    with refused(DataError, "image.invalid-part", "3", "volume=0", "volume=2"):
        decode(f"{path}#volume=3", "x")
    with refused(DataError, "image.invalid-part", "5", "slice=0", "slice=4"):
        decode(f"{path}#slice=5", "x")
    with refused(DataError, "image.invalid-part"):
        decode(f"{path}#frame=1", "x")


def test_windows_meet_scaled_values_and_what_is_not_finite_is_black(tmp_path):
    image = nibabel.Nifti1Image(np.array([[[0]], [[500]], [[1000]]], np.int16), np.eye(4))
    image.header.set_slope_inter(2, -1000)  # the values are -1000, 0 and 1000
    nibabel.save(image, tmp_path / "scaled.nii")
    assert sorted(grey(str(tmp_path / "scaled.nii"), "0.5:1001").ravel().tolist()) == [0, 128, 255]
    values = np.array([[[np.nan]], [[40]], [[np.inf]]], np.float32)
    assert sorted(grey(write_nifti(tmp_path / "x.nii.gz", values), "brain").ravel().tolist()) == [0, 0, 129]


def test_the_headers_own_range_is_auto(tmp_path):
    path = write_nifti(tmp_path / "x.nii", np.array([[[0.0], [50.0], [100.0], [400.0]]], np.float32), cal_max=100.0)
    assert sorted(grey(path).ravel().tolist()) == [0, 128, 255, 255]


def test_colours_of_nifti_are_kept(tmp_path):
    values = np.zeros((2, 2, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    values["R"], values["B"] = 200, 30
    path = write_nifti(tmp_path / "rgb.nii.gz", values)
    assert decode(path, "x")[0, 0].tolist() == [200, 0, 30]


def test_a_volume_that_does_not_say_how_it_lies_is_warned_of(tmp_path, caplog):
    image = nibabel.Nifti1Image(body(), None)
    nibabel.save(image, tmp_path / "lost.nii")
    decode(str(tmp_path / "lost.nii"), "x")
    assert "left may be right" in caplog.text


def test_bytes_of_either_kind_are_read_as_the_file_is(tmp_path):
    path = write_nifti(tmp_path / "ct.nii.gz", body())
    content = Path(path).read_bytes()
    assert (decode(content, "x") == decode(path, "x")).all()
    assert (decode(gzip.decompress(content), "x") == decode(path, "x")).all()
    assert (decode(nibabel.Nifti2Image(body(), np.eye(4)).to_bytes(), "x") == decode(path, "x")).all()
    scan = packaged("CT_small.dcm")
    assert (decode(Path(scan).read_bytes(), "x") == decode(scan, "x")).all()


def test_damaged_volumes_are_image_errors(tmp_path):
    path = write_nifti(tmp_path / "ct.nii.gz", np.random.default_rng(0).random((9, 9, 9)))
    content = Path(path).read_bytes()
    for damaged in (content[: len(content) // 2], gzip.decompress(content)[:500]):
        with refused(ImageError, "image.unreadable"):
            decode(damaged, "x")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    with refused(ImageError, "image.unreadable", "empty.nii.gz"):
        decode(str(tmp_path / "empty.nii.gz"), "x")


# Names of parts, and of windows.


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("slise=4", ("image.invalid-part", "slise")),
        ("slice=4,slice=5", ("image.invalid-part", "slice")),
        ("slice=-1", ("image.invalid-part", "-1")),
        ("window=lungs", ("config.invalid-value", "lungs", "lung")),
        ("window=40:0", ("config.invalid-value", "40:0")),
    ],
)
def test_a_part_that_is_none_is_refused(tmp_path, part, said):
    path = write_nifti(tmp_path / "ct.nii.gz", body())
    with refused(UserError, *said):
        decode(f"{path}#{part}", "x")


def test_a_file_that_is_named_with_a_hash_is_itself(tmp_path):
    Image.new("L", (4, 4), 7).save(tmp_path / "a#frame=1.png")
    assert grey(str(tmp_path / "a#frame=1.png"))[0, 0] == 7
    assert split_part("plain#1.png") == ("plain#1.png", split_part("x")[1])


def test_a_png_has_no_frames_and_a_missing_scan_is_missing(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with refused(DataError, "image.invalid-part", "a.png#frame=1", "DICOM"):
        decode(f"{tmp_path / 'a.png'}#frame=1", "x")
    with refused(ImageError, "image.missing", "absent.dcm#frame=1"):
        decode(f"{tmp_path / 'absent.dcm'}#frame=1", "x")


def test_windows_are_named_in_any_spelling():
    assert window_of("Soft Tissue", "x") == window_of("soft-tissue", "x") == PRESETS["soft_tissue"]
    assert window_of("-600:1500", "x") == PRESETS["lung"]
    assert all(window.width >= 1 for window in PRESETS.values())


def test_the_cache_decodes_with_its_window(tmp_path):
    path = write_dicom(tmp_path / "ct.dcm", np.array([[0, 100]]), signed=True)
    assert ImageCache(1, "0:2").image(path, "x")[0, :, 0].tolist() == [255, 255]
    assert ImageCache(1, "1000:2").image(path, "x")[0, :, 0].tolist() == [0, 0]


def test_slices_of_one_volume_in_training_and_test_are_a_leak(tmp_path):
    path = write_nifti(tmp_path / "ct.nii.gz", body())

    def asked(slice_):
        return [VQAExample(f"q{slice_}", "d", "s", f"{path}#slice={slice_}", f"ct/{slice_}", "what is this?", "a scan")]

    with refused(DataError, "data.leak", "1"):
        check_leaks(asked(1), asked(9), allowed=False)


def test_ordinary_images_are_untouched_by_the_window():
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "PNG")
    assert (decode(file.getvalue(), "x", "lung") == decode(file.getvalue(), "x")).all()
