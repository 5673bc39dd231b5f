"""What the tests of whole pipelines share: a small cohort, short trainers, commands run as a user runs them."""

import json
import os
import pickle
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import blosc2
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from rectal_nnformer.imaging.reading import read_image
from rectal_nnformer.nnunet.checkpoints import checkpoint_problem
from rectal_nnformer.nnunet.layout import trainers_folder

SCRIPTS = Path(sysconfig.get_path("scripts"))
OBLIQUE = (1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96)

SHORT_TRAINERS = '''
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from rectal_nnformer.trainers.nnUNetTrainerSMIT import (
    nnUNetTrainerSMIT_ACT_MaskedPadding,
    nnUNetTrainerSMIT_ACT_Scratch,
    nnUNetTrainerSMIT_CPU,
)
from rectal_nnformer.trainers.nnUNetTrainerSwinUNETR import nnUNetTrainerSwinUNETR_ACT_Scratch
from rectal_nnformer.trainers.nnUNetTrainerSwinUNETRV2 import nnUNetTrainerSwinUNETRV2_ACT_Scratch


class Short:
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 2
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1


class OneCase(Short):
    """A single iteration; validates a single case, without mirroring, which would take eight times as long."""

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.num_iterations_per_epoch = 1

    def do_split(self):
        training, validation = super().do_split()
        return training, validation[:1]

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, dummy_2d, size, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, size, ()


class ShortStock(Short, nnUNetTrainer):
    pass


class ShortSMIT_CPU(Short, nnUNetTrainerSMIT_CPU):
    pass


class OneCaseSMIT_CPU(OneCase, nnUNetTrainerSMIT_CPU):
    pass


class ManyEpochsSMIT_CPU(OneCase, nnUNetTrainerSMIT_CPU):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.warmup_epochs = 14, 3


class ShortMaskedSMIT(OneCase, nnUNetTrainerSMIT_ACT_MaskedPadding):
    pass


class ShortSMIT(OneCase, nnUNetTrainerSMIT_ACT_Scratch):
    pass


class ShortSwinUNETR(OneCase, nnUNetTrainerSwinUNETR_ACT_Scratch):
    pass


class ShortSwinUNETRV2(OneCase, nnUNetTrainerSwinUNETRV2_ACT_Scratch):
    pass
'''


def environment(base):
    """Return the environment of a user with nnU-Net's folders in `base` and trainers of their own beside ours."""
    trainers = base / "my_trainers"
    trainers.mkdir(parents=True, exist_ok=True)
    (trainers / "short_trainers.py").write_text(SHORT_TRAINERS)
    folders = {name: str(base / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        Path(folder).mkdir(exist_ok=True)
    few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    kept = {name: value for name, value in os.environ.items() if name != "RECTAL_NNFORMER_WEIGHTS"}
    return {**kept, **folders, **few, "nnUNet_extTrainer": str(trainers)}


def run(variables, command, *arguments, code=0):
    """Run a console script of this environment and return what it printed; it must exit with `code`."""
    result = subprocess.run(
        [str(SCRIPTS / command), *map(str, arguments)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == code, f"{command} exited with {result.returncode}:\n{result.stdout[-6000:]}"
    return result.stdout


def run_here(variables, command, *arguments):
    """Run a console script as `run` does, but in this process, which has imported PyTorch and nnU-Net already."""
    (script,) = entry_points(group="console_scripts", name=command)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        script.load()()


def train_here(monkeypatch, variables, results):
    """Let nnU-Net train in this process, where it loads and augments, too, and find our trainers and the user's."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_def_n_proc"):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.setenv("nnUNet_results", str(results))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(trainers_folder()), variables["nnUNet_extTrainer"]]))


def converted_cohort(base, dataset_id, name, num_cases, **shape):
    """Return a user's environment in `base`, where a cohort, see `write_cohort`, is converted into a raw dataset."""
    variables = environment(base)
    write_cohort(base / "cohort", num_cases, **shape)
    folders = ("--images", base / "cohort/images", "--masks", base / "cohort/masks")
    run_here(variables, "rectal_nnformer", "convert", "nifti", *folders, "-d", dataset_id, "--name", name, "-np", 1)
    return variables


def write_cohort(folder, num_cases, size=(96, 96, 16), spacing=(1.5, 1.5, 3.0)):
    """Write noisy oblique volumes with one bright ball each, of about 12 mm radius, as images and masks."""
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        grid = np.stack(
            np.meshgrid(*(np.arange(n) * s for n, s in zip(size[::-1], spacing[::-1], strict=True)), indexing="ij")
        )
        extent = np.array(size[::-1]) * np.array(spacing[::-1])
        center = extent * rng.uniform(0.35, 0.65, 3)
        ball = np.square(grid - center[:, None, None, None]).sum(0) < rng.uniform(10, 14) ** 2
        volume = rng.normal(200, 20, ball.shape) + 150 * ball
        for name, array in (("images", volume.astype(np.float32)), ("masks", ball.astype(np.uint8))):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing)
            image.SetOrigin((10.0, -20.0, 30.0))
            image.SetDirection(OBLIQUE)
            (folder / name).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / name / f"case_{number:02d}.nii.gz"))


def what_is_not_whole(folder):
    """Return the files under their final names that cannot be read as what they are called."""
    broken = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if path.name == "ballast" or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            if path.name.endswith(".nii.gz"):
                read_image(path)
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".b2nd":
                blosc2.open(str(path), mode="r")[:]
            elif path.suffix == ".npz":
                assert np.load(path)["probabilities"].any()
            elif path.suffix == ".pkl":
                pickle.loads(path.read_bytes())
            elif path.suffix == ".pth":
                assert not checkpoint_problem(path)
            elif path.suffix == ".zip":
                assert zipfile.ZipFile(path).testzip() is None
            elif path.suffix == ".png":
                PIL.Image.open(path).load()
            elif path.suffix == ".html":
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        except Exception as error:
            broken.append(f"{path.relative_to(folder)}: {error}")
    return broken
