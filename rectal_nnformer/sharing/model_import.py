"""A model from elsewhere, a bundle or a zip of nnU-Net's, written anew as a model folder to predict with."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.layout import nnunet_folder
from rectal_nnformer.sharing import vetting
from rectal_nnformer.sharing.bundle import BundleReader
from rectal_nnformer.sharing.dataset_import import check_id_is_free, check_kind
from rectal_nnformer.sharing.identity import Renamer
from rectal_nnformer.sharing.model_files import MODEL_FOLDER, rewrite_model
from rectal_nnformer.sharing.zips import checked_entries, unpack_entry


def import_model(path: str | Path) -> list[Path]:
    """Put a model into nnUNet_results, under the names it had, from a bundle or from a model zip that nnU-Net exported.

    The file is unpacked beside its place, verified, and every file of it written anew from vetted content. Of a zip,
    all models in it are taken, and what is neither plans, dataset.json, checkpoint nor summary is left out.

    Args:
        path: Written by `export_model`, or by nnUNetv2_export_model_to_zip.

    Returns:
        The folders of the models; a bundle holds one.

    Raises:
        RectalError: The file is neither, damaged, or holds anything that could run; the model is there already, or the
            id belongs to another dataset. Nothing has been written then.
    """
    path = Path(path)
    results = nnunet_folder("nnUNet_results")
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import_model.", suffix=".partial", dir=results) as staging:
        unpacked, written = Path(staging) / "unpacked", Path(staging) / "written"
        unpacked.mkdir()
        sources = _unpack_zip(path, unpacked) if _is_zip(path) else [_unpack_bundle(path, unpacked)]
        for source in sources:
            dataset, folder = source.relative_to(unpacked).parts
            check_id_is_free(dataset)
            target = results / dataset / folder
            if target.exists():
                raise RectalError(f"{target} exists. Move it away, or remove it if it is no longer needed.")
            (written / dataset / folder).mkdir(parents=True)
            model = rewrite_model(source, written / dataset / folder, dataset, Renamer({}))
            if model.folder_name != folder:
                raise RectalError(f"{path} calls a model {folder} that by its files is {model.folder_name}.")
        return _move(written, results)


def _move(written: Path, results: Path) -> list[Path]:
    """Move all model folders to their place, or none."""
    moved: list[Path] = []
    with _undone(moved):
        for source in sorted(written.glob("*/*")):
            target = results / source.relative_to(written)
            if not target.parent.exists():
                target.parent.mkdir()
                moved.append(target.parent)
            # Onto a folder that was made meanwhile this fails; nothing is overwritten.
            source.rename(target)
            moved.append(target)
    return [folder for folder in moved if folder.parent != results]


@contextmanager
def _undone(moved: list[Path]) -> Iterator[None]:
    """Remove what was moved if the block fails."""
    try:
        yield
    except BaseException:
        for folder in reversed(moved):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack_bundle(path: Path, folder: Path) -> Path:
    with BundleReader(path) as bundle:
        dataset = check_kind(bundle, "model")
        told = bundle.manifest.get("model")
        model = told if isinstance(told, dict) else {}
        name = "__".join(str(model.get(key)) for key in ("trainer", "plans", "configuration"))
        if not MODEL_FOLDER.fullmatch(name):
            raise RectalError(f"{path} does not tell trainer, plans and configuration of its model.")
        source = folder / dataset / name
        source.mkdir(parents=True)
        bundle.extract(source)
    return source


def _is_zip(path: Path) -> bool:
    if not path.is_file():
        raise RectalError(f"There is no file {path}.")
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _unpack_zip(path: Path, folder: Path) -> list[Path]:
    """Unpack DatasetXXX_Name/Trainer__Plans__Configuration of nnU-Net's model zip; return the models' folders."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = checked_entries(path, archive)
            for entry in entries:
                unpack_entry(archive, entry, folder / entry.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise RectalError(f"{path} cannot be unpacked ({error}); have it sent again.") from None
    models = [path for path in sorted(folder.glob("*/*")) if path.is_dir() and MODEL_FOLDER.fullmatch(path.name)]
    if not models:
        raise RectalError(f"{path} holds no model DatasetXXX_Name/Trainer__Plans__Configuration.")
    for model in models:
        vetting.check_dataset_name(model.parent.name)
    return models
