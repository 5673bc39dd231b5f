"""DICOM-SEG and RTSTRUCT: what is written comes back, where it was, and other programs see it there too."""

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_scenes import ALGORITHM, DIRECTIONS, FRAME, PLANES, coordinates, hand, write_scene
from pydicom.sr.codedict import codes
from scipy import ndimage

from rectal_nnformer.dicom.contours import read_regions, write_contours
from rectal_nnformer.dicom.lesions import Lesion
from rectal_nnformer.dicom.segmentations import read_segments, write_segmentation
from rectal_nnformer.dicom.series import find_series
from rectal_nnformer.errors import RectalError

REAL = Path(__file__).parents[2] / "shared" / "data" / "pelvic_t2w"
needs_real_scans = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real pelvic MRI is not in {REAL}")
BOTH = pytest.mark.parametrize(
    ("write", "read"), [(write_segmentation, read_segments), (write_contours, read_regions)], ids=["SEG", "RTSTRUCT"]
)
EVERY_WAY = pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)


def lesions_of(series, **options):
    ball, bar, _ = hand(series, **options)
    return [Lesion("lesion 1", ball), Lesion("lesion 2", bar)]


def agree(series, masks, lesions):
    assert len(masks) == len(lesions)
    for number, lesion in enumerate(lesions, start=1):
        assert np.array_equal(masks[number], lesion.mask), lesion.name


# Round trips


@EVERY_WAY
@BOTH
def test_what_is_written_is_read_voxel_by_voxel(tmp_path, direction, write, read):
    series = write_scene(tmp_path / "t2", direction)
    lesions = lesions_of(series)
    write(tmp_path / "out.dcm", series, lesions, ALGORITHM)
    agree(series, read(tmp_path / "out.dcm", series, [1, 2]), lesions)
    assert read(tmp_path / "out.dcm", series, [2]).keys() == {2}


@pytest.mark.parametrize("seed", range(3))
@BOTH
def test_noise_is_read_voxel_by_voxel(tmp_path, seed, write, read):
    """Pixels that touch by their corners, holes of one pixel, and lesions at the edge of the image."""
    series = write_scene(tmp_path / "t2", DIRECTIONS["rotated"])
    mask = np.random.default_rng(seed).random(series.shape) < 0.5
    write(tmp_path / "out.dcm", series, [Lesion("noise", mask)], ALGORITHM)
    agree(series, read(tmp_path / "out.dcm", series, [1]), [Lesion("noise", mask)])


@needs_real_scans
@BOTH
def test_real_series_too(tmp_path, write, read):
    found = find_series(REAL, PLANES).series
    assert len(found) == 3
    for series in found:
        lesions = lesions_of(series)
        assert lesions[0].mask.sum() * np.prod(series.spacing) == pytest.approx(5000, rel=0.15)
        write(tmp_path / "out.dcm", series, lesions, ALGORITHM)
        agree(series, read(tmp_path / "out.dcm", series, [1, 2]), lesions)


# Where it lies, by others


@EVERY_WAY
def test_a_segmentation_lies_where_the_lesion_is_by_highdicom(tmp_path, direction):
    series = write_scene(tmp_path / "t2", direction)
    lesions = lesions_of(series)
    write_segmentation(tmp_path / "out.dcm", series, lesions, ALGORITHM)
    volume = highdicom.seg.segread(tmp_path / "out.dcm").get_volume()
    for channel, lesion in enumerate(lesions):
        found = volume.map_indices_to_reference(np.argwhere(volume.array[..., channel]))
        assert _farthest(found, coordinates(series)[:, lesion.mask].T) < 1e-3


@EVERY_WAY
def test_contours_lie_where_the_lesion_is(tmp_path, direction):
    """The bar points left and its thumb to the front: in patient coordinates, whatever the axes of the image are."""
    series = write_scene(tmp_path / "t2", direction)
    _, bar, centre = hand(series)
    write_contours(tmp_path / "out.dcm", series, [Lesion("bar", bar)], ALGORITHM)
    (region,) = pydicom.dcmread(tmp_path / "out.dcm").ROIContourSequence
    points = np.array([p for c in region.ContourSequence for p in np.reshape(c.ContourData, (-1, 3)).tolist()]) - centre
    (left, back, _), (right, front, _) = points.max(axis=0), points.min(axis=0)
    assert left > 10 and right > -4 and back < 5 and front < -5
    assert _farthest(points + centre, coordinates(series)[:, bar].T) < 0.5 * max(series.spacing[:2]) + 1e-3


@pytest.mark.parametrize("direction", [DIRECTIONS["oblique axial"], DIRECTIONS["rotated"]], ids=["oblique", "rotated"])
def test_rt_utils_reads_our_contours_as_we_do(tmp_path, direction):
    rt_utils = pytest.importorskip("rt_utils")
    # Of other pixels and matrices rt-utils mixes up rows and columns.
    series = write_scene(tmp_path / "t2", direction, size=(44, 44, 12), spacing=(0.8, 0.8, 3.0))
    lesions = lesions_of(series)
    write_contours(tmp_path / "out.dcm", series, lesions, ALGORITHM)
    for path in series.files:  # it compares what a series may lack
        header = pydicom.dcmread(path)
        header.StudyID, header.SliceThickness = "1", series.spacing[2]
        header.save_as(path)
    theirs = rt_utils.RTStructBuilder.create_from(str(tmp_path / "t2"), str(tmp_path / "out.dcm"))
    for lesion in lesions:
        mask = np.moveaxis(theirs.get_roi_mask_by_name(lesion.name), 2, 0)
        flipped = mask if dice(mask, lesion.mask) > dice(mask[::-1], lesion.mask) else mask[::-1]
        near = (
            ndimage.binary_dilation(lesion.mask, np.ones((1, 3, 3))),
            ndimage.binary_erosion(lesion.mask, np.ones((1, 3, 3))),
        )
        assert not (flipped & ~near[0]).any() and not (near[1] & ~flipped).any()


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def _farthest(points, others):
    from scipy.spatial import cKDTree

    return max(cKDTree(others).query(points)[0].max(), 0)


# What the objects say


def test_objects_are_bound_to_their_images_and_say_what_found_what(tmp_path):
    series = write_scene(tmp_path / "t2")
    lesions = lesions_of(series)
    source = pydicom.dcmread(series.files[0])
    for write in (write_segmentation, write_contours):
        write(tmp_path / "out.dcm", series, lesions, ALGORITHM)
        written = pydicom.dcmread(tmp_path / "out.dcm")
        assert written.StudyInstanceUID == source.StudyInstanceUID and written.FrameOfReferenceUID == FRAME
        assert written.SeriesInstanceUID != source.SeriesInstanceUID and written.PatientID == source.PatientID
        found = find_series(tmp_path, PLANES).outlines
        assert [o.series_uids for o in found] == [{series.uid}]
        assert found[0].instance_uids >= {s.instance_uid for s in series.slices}
        assert [s.name for s in found[0].structures] == ["lesion 1", "lesion 2"]
        for told in ("rectal_nnformer", "1.2.3", f"model={ALGORITHM.model_digest}", "108369006"):
            assert told in written.to_json(), told
    write_segmentation(tmp_path / "out.dcm", series, lesions, ALGORITHM)
    segment = highdicom.seg.segread(tmp_path / "out.dcm").get_segment_description(1)
    assert segment.segmented_property_type == codes.cid7151.Neoplasm
    assert segment.segmented_property_category == codes.cid7150.MorphologicallyAbnormalStructure
    assert segment.anatomic_regions == [codes.cid4031.Rectum]


@BOTH
def test_names_of_patients_are_not_told_while_writing(tmp_path, capfd, recwarn, write, read):
    series = write_scene(tmp_path / "t2", T0010_0010="SECRET")
    write(tmp_path / "out.dcm", series, lesions_of(series), ALGORITHM)
    assert "SECRET" not in "".join(capfd.readouterr()) + "".join(str(w.message) for w in recwarn)


@BOTH
def test_an_image_that_nothing_can_be_laid_over_is_refused(tmp_path, write, read):
    series = write_scene(tmp_path / "t2")
    header = pydicom.dcmread(series.files[0])
    del header.FrameOfReferenceUID
    header.save_as(series.files[0])
    with pytest.raises(RectalError, match="has no FrameOfReferenceUID"):
        write(tmp_path / "out.dcm", series, lesions_of(series), ALGORITHM)
    assert not (tmp_path / "out.dcm").exists()
    with pytest.raises(ValueError, match="no lesion"):
        write(tmp_path / "out.dcm", series, [], ALGORITHM)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian: dicom3tools) is not installed")
@EVERY_WAY
@BOTH
def test_dciodvfy_finds_no_error(tmp_path, direction, write, read):
    series = write_scene(tmp_path / "t2", direction)
    write(tmp_path / "out.dcm", series, lesions_of(series), ALGORITHM)
    found = subprocess.run(["dciodvfy", str(tmp_path / "out.dcm")], capture_output=True, text=True)
    assert [line for line in found.stderr.splitlines() if "Error" in line] == []


# Objects of others


def change(path, edit):
    header = pydicom.dcmread(path)
    edit(header)
    header.save_as(path)


def _volume(series, mask):
    to_reference = series.affine[:, [2, 1, 0, 3]]
    return highdicom.Volume(mask.astype(np.uint8), to_reference, "PATIENT", frame_of_reference_uid=FRAME)


def _write_foreign(path, series, volume, kind="BINARY"):
    images = [pydicom.dcmread(p) for p in series.files]
    for image in images:
        image.SliceThickness = series.spacing[2]
        for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            setattr(image, keyword, image.get(keyword) or "")
    segment = highdicom.seg.SegmentDescription(
        1, "tumour", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, "MANUAL"
    )
    uids = [pydicom.uid.generate_uid() for _ in range(2)]
    highdicom.seg.Segmentation(
        images, volume, kind, [segment], uids[0], 1, uids[1], 1, "maker", "model", "1", "1"
    ).save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_segments_stored_along_other_axes_flipped_and_cropped(tmp_path, order, kind):
    series = write_scene(tmp_path / "t2", DIRECTIONS["rotated"])
    _, bar, _ = hand(series)
    volume = _volume(series, bar)[1:, 2:-1, 1:].permute_spatial_axes(order).flip_spatial([0, 2])
    _write_foreign(tmp_path / "out.dcm", series, volume, kind)
    agree(series, read_segments(tmp_path / "out.dcm", series, [1]), [Lesion("bar", bar)])


def test_segments_on_another_grid_are_refused(tmp_path):
    series = write_scene(tmp_path / "t2")
    ball, _, _ = hand(series)
    shifted = series.affine.copy()
    shifted[:3, 3] += 0.5 * shifted[:3, 0]
    volume = highdicom.Volume(ball.astype(np.uint8), shifted[:, [2, 1, 0, 3]], "PATIENT", frame_of_reference_uid=FRAME)
    _write_foreign(tmp_path / "out.dcm", series, volume)
    with pytest.raises(RectalError, match=r"out\.dcm: frame 1 does not lie on the grid of the series"):
        read_segments(tmp_path / "out.dcm", series, [1])
    _write_foreign(
        tmp_path / "out.dcm",
        series,
        _volume(series, np.ones_like(ball)).pad([(0, 0), (0, 3), (0, 0)], constant_value=1),
    )
    with pytest.raises(RectalError, match="reaches out of the series"):
        read_segments(tmp_path / "out.dcm", series, [1])


def _in_space(series, plane, ring):
    """Return the contour in patient coordinates of a ring given as (x, y) voxel indices."""
    return (series.affine @ np.array([[x, y, plane, 1] for x, y in ring], float).T)[:3].T.ravel()


OUTER = [(9.5, 9.5), (20.5, 9.5), (20.5, 20.5), (9.5, 20.5)]
INNER = [(12.5, 12.5), (12.5, 17.5), (17.5, 17.5), (17.5, 12.5)]
KEYHOLE = [*OUTER, OUTER[0], INNER[0], *INNER[1:], INNER[0], OUTER[0]]
CHANNEL_THROUGH_CENTRES = [(9.5, 9.5), (20.5, 9.5), (20.5, 20.5), (9.5, 20.5), (9.5, 15), (12.5, 15), (12.5, 17.5)]
CHANNEL_THROUGH_CENTRES += [(17.5, 17.5), (17.5, 12.5), (12.5, 12.5), (12.5, 15), (9.5, 15)]


def write_rings(path, series, *rings, plane=4):
    """Write a structure set of one ROI with contours given as (x, y) voxel indices, or as a type and these."""
    write_contours(path, series, lesions_of(series)[:1], ALGORITHM)

    def edit(header):
        del header.ROIContourSequence[0].ContourSequence[:]
        for ring in rings:
            kind, ring = ring if isinstance(ring[0], str) else ("CLOSED_PLANAR", ring)
            points = _in_space(series, plane, ring)
            contour = pydicom.Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points) // 3
            contour.ContourData = [f"{p:.4f}" for p in points]
            header.ROIContourSequence[0].ContourSequence.append(contour)

    change(path, edit)


def boxes(series, *bounds, plane=4):
    """Return a mask of boxes, given as the first and last voxel of both axes, True or False in turn."""
    mask = np.zeros(series.shape, bool)
    for number, (first, last) in enumerate(bounds):
        mask[plane, first : last + 1, first : last + 1] = number % 2 == 0
    return mask


def square(first, last, reach=0.5):
    """Return the contour around the voxels from the first to the last along both axes."""
    low, high = first - reach, last + reach
    return [(low, low), (high, low), (high, high), (low, high)]


@EVERY_WAY
@pytest.mark.parametrize(
    "rings", [(OUTER, INNER), (KEYHOLE,), (CHANNEL_THROUGH_CENTRES,)], ids=["hole", "keyhole", "channel"]
)
def test_holes_and_keyholes_stay_holes(tmp_path, direction, rings):
    series = write_scene(tmp_path / "t2", direction)
    write_rings(tmp_path / "out.dcm", series, *rings)
    expected = boxes(series, (10, 20), (13, 17))
    agree(series, read_regions(tmp_path / "out.dcm", series, [1]), [Lesion("ring", expected)])


TWICE = "1 contour enclosing the same voxels as another on 1 slice: taken once"
UNITED = "2 contours overlapping on 1 slice, none of them a hole in the other: united"


@pytest.mark.parametrize(
    ("rings", "expected", "told"),
    [
        ([OUTER, OUTER], [(10, 20)], [TWICE]),
        ([OUTER, OUTER[::-1]], [(10, 20)], [TWICE]),
        ([OUTER, OUTER[2:] + OUTER[:2]], [(10, 20)], [TWICE]),
        ([OUTER, INNER, OUTER], [(10, 20), (13, 17)], [TWICE]),
        ([INNER, OUTER, INNER], [(10, 20), (13, 17)], [TWICE]),
        ([OUTER, [(9.5, 10.5), (20.5, 10.5), (20.5, 20.5), (9.5, 20.5)]], [(10, 20)], [UNITED]),
        ([OUTER, INNER, square(15, 15)], [(10, 20), (13, 17), (15, 15)], []),
        ([OUTER, square(11, 19), square(12, 18), square(13, 17)], [(10, 20), (11, 19), (12, 18), (13, 17)], []),
        ([square(3, 5), square(8, 9)], [(3, 5), (0, -1), (8, 9)], []),
    ],
    ids=["twice", "reversed", "other start", "with a hole", "hole twice", "other digits", "island", "rings", "apart"],
)
def test_contours_drawn_twice_count_once_and_those_inside_others_are_holes(tmp_path, rings, expected, told):
    series, notes = write_scene(tmp_path / "t2"), []
    write_rings(tmp_path / "out.dcm", series, *rings)
    masks = read_regions(tmp_path / "out.dcm", series, [1], notes.append)
    agree(series, masks, [Lesion("lesion 1", boxes(series, *expected))])
    assert notes == [f"{tmp_path / 'out.dcm'}: lesion 1: {note}" for note in told]


def test_contours_that_cross_are_united_and_holes_in_both_stay(tmp_path):
    series, notes = write_scene(tmp_path / "t2"), []
    for holes in ((), (square(15, 16),)):
        write_rings(tmp_path / "out.dcm", series, square(10, 18), square(14, 24), *holes)
        (mask,) = read_regions(tmp_path / "out.dcm", series, [1], notes.append).values()
        expected = boxes(series, (10, 18)) | boxes(series, (14, 24))
        expected[4, 15:17, 15:17] &= not holes
        assert np.array_equal(mask, expected)
        assert notes.pop().endswith(f"lesion 1: {UNITED}") and not notes


def test_contours_combined_by_exclusive_or_are_so(tmp_path):
    series, notes = write_scene(tmp_path / "t2"), []
    one, other = boxes(series, (10, 18)), boxes(series, (14, 24))
    rings = [("CLOSEDPLANAR_XOR", ring) for ring in (square(10, 18), square(14, 24))]
    write_rings(tmp_path / "out.dcm", series, *rings)
    agree(series, read_regions(tmp_path / "out.dcm", series, [1], notes.append), [Lesion("lesion 1", one ^ other)])
    assert notes == []


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "OPEN_NONPLANAR", ""])
def test_open_contours_are_refused_and_points_told(tmp_path, kind):
    series, notes = write_scene(tmp_path / "t2"), []
    write_rings(tmp_path / "out.dcm", series, OUTER, ("POINT", [(1, 1)]), ("OPEN_PLANAR", [(1, 1), (2, 2)]))
    masks = read_regions(tmp_path / "out.dcm", series, [1], notes.append)
    agree(series, masks, [Lesion("lesion 1", boxes(series, (10, 20)))])
    (note,) = notes
    assert note.endswith("lesion 1: 2 contours of fewer than 3 points: left out, since they enclose nothing")
    write_rings(tmp_path / "out.dcm", series, OUTER, (kind, INNER))
    told = rf"out\.dcm: contour 2 of lesion 1 is not closed \({kind or 'it has no'}.*close it"
    with pytest.raises(RectalError, match=told):
        read_regions(tmp_path / "out.dcm", series, [1])


def test_contours_that_reach_out_of_the_series_are_refused(tmp_path):
    series = write_scene(tmp_path / "t2")
    _, rows, columns = series.shape
    edge = [(-0.9, -0.9), (columns - 0.1, -0.9), (columns - 0.1, rows - 0.1), (-0.9, rows - 0.1)]
    write_rings(tmp_path / "out.dcm", series, edge)
    assert read_regions(tmp_path / "out.dcm", series, [1])[1][4].all()
    for ring in ([(x - 11, y) for x, y in OUTER], [(x, y + 20) for x, y in OUTER]):
        write_rings(tmp_path / "out.dcm", series, ring)
        with pytest.raises(RectalError, match=r"out\.dcm: contour 1 of lesion 1 reaches out of the series in .*t2 \("):
            read_regions(tmp_path / "out.dcm", series, [1])


def test_contours_between_the_slices_or_on_other_planes_are_refused(tmp_path):
    series = write_scene(tmp_path / "axial")
    sagittal = write_scene(tmp_path / "sagittal", DIRECTIONS["sagittal"], "1.2.826.0.1.6")
    write_contours(tmp_path / "out.dcm", sagittal, lesions_of(sagittal), ALGORITHM)
    with pytest.raises(
        RectalError, match=r"out\.dcm: contour 1 of lesion 1 does not lie in a slice of the series in .*axial"
    ):
        read_regions(tmp_path / "out.dcm", series, [1])
    write_contours(tmp_path / "out.dcm", series, lesions_of(series), ALGORITHM)

    def lift(header):
        contour = header.ROIContourSequence[0].ContourSequence[0]
        normal = series.affine[:3, 2]
        contour.ContourData = [f"{v:.4f}" for v in (np.reshape(contour.ContourData, (-1, 3)) + normal / 2).ravel()]

    change(tmp_path / "out.dcm", lift)
    with pytest.raises(RectalError, match=r"contour 1 of lesion 1 does not lie in a slice .* of 12\)"):
        read_regions(tmp_path / "out.dcm", series, [1])


def test_contours_in_another_frame_of_reference_are_refused(tmp_path):
    series = write_scene(tmp_path / "t2")
    write_contours(tmp_path / "out.dcm", series, lesions_of(series), ALGORITHM)
    change(
        tmp_path / "out.dcm",
        lambda header: setattr(header.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2.3"),
    )
    with pytest.raises(RectalError, match="lesion 1 lies in another frame of reference"):
        read_regions(tmp_path / "out.dcm", series, [1])


def test_segments_in_another_frame_of_reference_are_refused(tmp_path):
    series = write_scene(tmp_path / "t2")
    write_segmentation(tmp_path / "out.dcm", series, lesions_of(series), ALGORITHM)
    change(tmp_path / "out.dcm", lambda header: setattr(header, "FrameOfReferenceUID", "1.2.3"))
    with pytest.raises(RectalError, match=r"out\.dcm: it lies in another frame of reference"):
        read_segments(tmp_path / "out.dcm", series, [1])


@pytest.mark.slow
@BOTH
def test_damaged_objects_are_refused_or_right(tmp_path, write, read):
    series = write_scene(tmp_path / "t2")
    lesions = lesions_of(series)
    write(tmp_path / "out.dcm", series, lesions, ALGORITHM)
    content = (tmp_path / "out.dcm").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(132, len(content), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / "out.dcm").write_bytes(
            damaged[: rng.integers(200, len(content))] if rng.random() < 0.3 else damaged
        )
        try:
            find_series(tmp_path, PLANES)
            read(tmp_path / "out.dcm", series, [1, 2])
        except RectalError as error:
            refused += 1
            assert "out.dcm" in str(error)
    assert refused
