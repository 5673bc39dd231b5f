"""Small scans, masks and DICOM series for the tests of conversion."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

SIZE = (12, 10, 9)  # x, y, z
SPACING = (0.5, 0.75, 3.0)
ORIGIN = (-10.0, 20.0, 5.0)
TILT = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
SAGITTAL = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def as_image(array, direction=TILT, spacing=SPACING):
    """Return an oblique image of an array (z, y, x)."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(ORIGIN)
    image.SetDirection(np.asarray(direction).ravel().tolist())
    return image


def scan(seed=0, direction=TILT):
    """Return an oblique volume of noise, int16."""
    noise = np.random.default_rng(seed).integers(1, 1000, SIZE[::-1])
    return as_image(noise.astype(np.int16), direction)


def tumor(direction=TILT):
    """Return the mask of a box of 3 x 3 x 3 voxels, uint8."""
    array = np.zeros(SIZE[::-1], np.uint8)
    array[3:6, 4:7, 5:8] = 1
    return as_image(array, direction)


def write_cohort(folder, count=6, suffix="_0000.nii.gz"):
    """Write `count` cases case_a, case_b ... as NIfTI; return the folders of images and of masks."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    for number in range(count):
        name = f"case_{chr(ord('a') + number)}"
        sitk.WriteImage(scan(number), str(images / f"{name}{suffix}"))
        sitk.WriteImage(tumor(), str(masks / f"{name}.nii.gz"))
    return images, masks


def write_series(folder, image, uid, patient="SECRET-17", file_name="IM{:04d}", compressor="", **tags):
    """Write a volume as one DICOM file per slice, the files in reverse order of position and without a suffix.

    The compressor is JPEG (Lossless) or JPEG2000. Further tags are given as `T0008_0060="CT"`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    header = {
        "0008|0008": "ORIGINAL\\PRIMARY\\M",
        "0008|0060": "MR",
        "0008|103e": "t2_tse_tra",
        "0010|0010": "Doe^Jane",
        "0010|0020": patient,
        "0020|000d": "1.2.826.0.1",
        "0020|000e": uid,
        "0020|0037": "\\".join(f"{v:.10g}" for v in direction[:, :2].T.ravel()),
        **{tag[1:].replace("_", "|"): value for tag, value in tags.items()},
    }
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(bool(compressor))
    writer.SetCompressor(compressor)
    depth = image.GetDepth()
    for z in range(depth):
        slice_ = image[:, :, z : z + 1]
        position = image.TransformIndexToPhysicalPoint((0, 0, z))
        for tag, value in header.items():
            slice_.SetMetaData(tag, value)
        slice_.SetMetaData("0008|0018", f"{uid}.{z + 1}")
        slice_.SetMetaData("0020|0032", "\\".join(f"{v:.10g}" for v in position))
        writer.SetFileName(str(folder / file_name.format(depth - z)))
        writer.Execute(slice_)
    return folder


def write_frames(path, uid, image_type):
    """Write a multi-frame DICOM file of MR modality, which does not tell where each frame lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = scan()
    for tag, value in {"0008|0008": image_type, "0008|0060": "MR", "0020|000e": uid}.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    header = pydicom.dcmread(path)
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        if keyword in header:
            delattr(header, keyword)
    header.save_as(path)


def hide_tag(path, group, element):
    """Make a DICOM file lack a tag, by giving what it holds to the next one, which nobody reads."""
    content = path.read_bytes()
    tag, other = (struct.pack("<HH", group, number) for number in (element, element + 1))
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag, other))


def swap_bytes(path):
    """Turn a little-endian NIfTI file of 32-bit voxels into a big-endian one."""
    content = bytearray(path.read_bytes())
    fields = ["0 1 4", "32 1 4", "36 1 2", "40 8 2", "56 3 4", "68 4 2", "76 8 4", "108 3 4", "120 1 2", "124 4 4"]
    fields += ["140 2 4", "252 2 2", "256 18 4", f"352 {(len(content) - 352) // 4} 4"]
    for field in fields:
        offset, count, size = map(int, field.split())
        part = np.frombuffer(content, f"<u{size}", count, offset).byteswap().tobytes()
        content[offset : offset + len(part)] = part
    path.write_bytes(content)


def every_byte_of(folder: Path) -> bytes:
    """Return names and contents of all files in a folder, .gz files unpacked."""
    import gzip

    parts = []
    for path in sorted(folder.rglob("*")):
        parts.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            parts.append(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    return b"\n".join(parts)
