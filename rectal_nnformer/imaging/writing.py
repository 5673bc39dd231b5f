"""Writing image files, and making sure that all of them arrived."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rectal_nnformer.errors import RectalError
from rectal_nnformer.imaging.reading import itk_message, itk_path, read_image
from rectal_nnformer.utils.files import space_left


def write_volume(image: sitk.Image, path: Path, compression_level: int = -1) -> None:
    """Write a compressed image and read it again: the image library reports success on a full disk, too.

    Args:
        image: The image.
        path: The file; its ending names the format. What cannot be written whole is removed.
        compression_level: From 1, fast, to 9, small; -1 is the library's own.

    Raises:
        RectalError: What was written is not the image, as on a disk that is full.
    """
    with written_whole(path):
        sitk.WriteImage(image, itk_path(path), useCompression=True, compressionLevel=compression_level)
        if not np.array_equal(sitk.GetArrayFromImage(read_image(path)), sitk.GetArrayViewFromImage(image)):
            raise RectalError("other voxels are in the file than were written")


@contextmanager
def written_whole(path: Path) -> Iterator[None]:
    """Remove an image that the block, which writes it and may read it again, finds not whole.

    Raises:
        RectalError: Says why.
    """
    try:
        yield
    except (RuntimeError, RectalError) as error:
        path.unlink(missing_ok=True)
        reason = itk_message(error) if isinstance(error, RuntimeError) else error
        raise RectalError(
            f"{path} could not be written whole, and was removed: {reason}. {space_left(path.parent)}"
        ) from None
