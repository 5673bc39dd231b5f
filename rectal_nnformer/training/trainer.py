"""The base of all trainers: what differs from nnU-Net's own, in terms that a recipe sets as class attributes."""

import copy
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.configuration import default_num_processes
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.optim import AdamW, Optimizer

from rectal_nnformer.analysis.epochs import EpochFollower, epochs_between
from rectal_nnformer.analysis.tiles import PreprocessedCases
from rectal_nnformer.analysis.validation import (
    ValidatedFold,
    analyze_validation,
    detection_values,
    forget_analysis,
    log_values,
    only_logged,
)
from rectal_nnformer.augmentation import (
    DeviceAugmentation,
    TumorAugmentation,
    augmentation_of_plans,
    extend_training_transforms,
    is_on_device_wanted,
)
from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.fold import evaluate_fold
from rectal_nnformer.evaluation.summary import detection_line
from rectal_nnformer.imaging.masks import tumor_labels
from rectal_nnformer.networks.adapter import PlannedNetwork
from rectal_nnformer.networks.checkpoint_file import check_checkpoint
from rectal_nnformer.networks.pretrained import find_pretrained, load_pretrained
from rectal_nnformer.networks.starting_weights import write_starting_weights
from rectal_nnformer.nnunet.case_files import check_properties
from rectal_nnformer.nnunet.layout import (
    ALL_CASES,
    CHECKPOINT_BEST,
    CHECKPOINT_FINAL,
    CHECKPOINT_LATEST,
    CHECKPOINTS,
    IMAGE_DIGESTS,
    PLANS_JSON,
    PROGRESS_PNG,
    TRAINING_LOCK,
    VALIDATION,
    PreprocessedDataset,
    fold_name,
)
from rectal_nnformer.nnunet.patients import read_patients
from rectal_nnformer.nnunet.plans import Plans
from rectal_nnformer.nnunet.preflight import check_backbone, check_folds, check_planned_patch
from rectal_nnformer.nnunet.splits import Fold, preprocessed_cases, refuse_split, settle_folds
from rectal_nnformer.training.data_loader import BoundedDataLoader, start_augmenters
from rectal_nnformer.training.learning_rate import WarmupCosineScheduler
from rectal_nnformer.training.recovery import (
    LOWER,
    MOST_RECOVERIES,
    NotFiniteError,
    Recovery,
    StartState,
    StopSignal,
    describe_not_finite,
    read_recoveries,
    remove_damaged_masks,
    report_of_failure,
    whole_checkpoint,
    write_recoveries,
)
from rectal_nnformer.training.tracking import add_tracker
from rectal_nnformer.training.validation import predict_fold, score_fold
from rectal_nnformer.utils.files import (
    check_space,
    copy_file,
    locked,
    naming,
    remove_leftovers,
    staged_file,
    writing,
)
from rectal_nnformer.utils.text import plural

CHECKPOINTS_AT_ONCE = 3
"""The latest, the best, and one that is being written."""


class RectalTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a planned transformer network, its intensity window and the published recipe.

    Published (Rangnekar et al. 2026): AdamW, learning rate 3e-4, weight decay 1e-5, 50 epochs of linear warm-up, cosine
    decay, Dice and cross-entropy; 500 epochs fine-tuned, 1000 from scratch. An epoch is nnU-Net's.

    The publication gives no rate of stochastic depth; 0.1 is a choice of this project, which the plans' backbone_kwargs
    can replace. Gradients are clipped by nnU-Net, at a norm of 12.

    A recipe sets:
        backbone: the network that the plans must hold, a key of `rectal_nnformer.networks.adapter.NETWORK_CLASSES`.
        backbone_options: arguments of the network's constructor, before those of the plans. They are part of the class
            and not of the plans, so that variants of a network train and predict on the same plans.
        drop_path_rate: stochastic depth in training, unless the plans or the options say otherwise.
        pretrained: start from the CT-pretrained encoder; False starts from random weights.
        tumor_aware: add the tumour-aware intensity augmentation to nnU-Net's own.
        planned_patch_only: refuse the configuration `3d_fullres_cubic`.
        attention_every: measure attention dilution after every so many epochs on one fixed crop; 0 never does. The
            environment variable RECTAL_NNFORMER_ATTENTION_EVERY overrides it.
    """

    backbone: ClassVar[str]
    backbone_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    drop_path_rate: ClassVar[float] = 0.1
    pretrained: ClassVar[bool] = True
    tumor_aware: ClassVar[bool] = False
    planned_patch_only: ClassVar[bool] = False
    attention_every: ClassVar[int] = 0
    current_epoch: int
    network: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        self._plans = Plans.of(plans)
        self.check_recipe(self._plans, configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False
        self.initial_lr = 3e-4
        self.weight_decay = 1e-5
        self.num_epochs = 500 if self.pretrained else 1000
        self.warmup_epochs = 50
        self.save_every = 10  # epochs; nnU-Net's 50 would be lost where a process is killed
        self._first_parameter_at_start = torch.empty(0)  # set by initialize
        self._weights_name = CHECKPOINT_FINAL  # the checkpoint that the network is
        self._epochs_between = epochs_between(self.attention_every)
        self._follower: EpochFollower | None = None
        self._augmentation: DeviceAugmentation | None = None  # where the background workers do not augment
        self._last_checkpoint: Path | None = None  # written or loaded by this training, and finite
        self._damaged: Path | None = None  # the checkpoint that another one was loaded for
        self._recoveries: list[Recovery] = []
        self._stop_signal = StopSignal()
        add_tracker(self)

    @classmethod
    def check_recipe(cls, plans: Plans, configuration: str) -> None:
        """Refuse plans or a configuration that this recipe cannot train, before any folder is made.

        Raises:
            RectalError: Says which, and what to use instead.
        """
        trainer = cls.__name__
        if cls.planned_patch_only:
            check_planned_patch(trainer, configuration)
        network = plans.configuration(configuration).network
        check_backbone(trainer, cls.backbone, network.backbone if network else None, plans.name, plans.dataset_name)

    @classmethod
    def pretrained_file(cls, plans: Plans, configuration: str) -> Path | None:
        """Return the file that a training starts from; None where it starts from random weights.

        Raises:
            RectalError: It is not there, or none fits the network.
        """
        network = plans.configuration(configuration).network
        if not cls.pretrained or network is None:
            return None
        return find_pretrained(cls.backbone, {**network.backbone_kwargs, **cls.backbone_options})

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        """Return the planned network with this recipe's options and random weights.

        nnU-Net calls this on the trainer in training and on its class in prediction.
        """
        planned = configuration_manager.network_arch_init_kwargs
        options = {"drop_path_rate": cls.drop_path_rate, **planned["backbone_kwargs"], **cls.backbone_options}
        return PlannedNetwork(num_input_channels, num_output_channels, **{**planned, "backbone_kwargs": options})

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: the networks have a single output."""

    def configure_optimizers(self) -> tuple[Optimizer, WarmupCosineScheduler]:
        """Return AdamW and the schedule by epoch."""
        fused = self.device.type == "cuda"  # one kernel over all weights
        optimizer = AdamW(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay, fused=fused)
        return optimizer, WarmupCosineScheduler(optimizer, self.num_epochs, self.warmup_epochs, self.initial_lr)

    def initialize(self) -> None:
        """Build network, optimizer and loss, and remember a parameter, to see later whether weights were loaded.

        A compiled network is recorded as CUDA graphs: its many small kernels take longer to launch than to run. On a
        CPU the variable OMP_NUM_THREADS is kept to, where nnU-Net's command takes all cores.
        """
        if self.device.type == "cpu" and (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
            torch.set_num_threads(max(1, int(threads)))
        super().initialize()
        if isinstance(self.network, OptimizedModule):
            self.network = torch.compile(self._bare_network(), mode="reduce-overhead")
        self._first_parameter_at_start = next(self._bare_network().parameters()).detach().clone()

    def run_training(self) -> None:
        """Train as nnU-Net does, but go back where the weights are not finite, and save on SIGTERM.

        Raises:
            RectalError: Another process trains the fold, or it went wrong again after `MOST_RECOVERIES` times.
            SystemExit: SIGTERM came; checkpoint_latest.pth holds the training, and `--c` goes on with the same epoch.
        """
        if not self.was_initialized:
            self.initialize()
        self._damaged = None
        fold = Path(self.output_folder)
        self._recoveries = read_recoveries(fold) if self.current_epoch else []
        start = None if self.current_epoch else StartState.of(self._bare_network(), self.logger.get_checkpoint())
        with self._claimed(), naming(fold):
            if self.local_rank == 0:
                for name in (CHECKPOINT_LATEST, CHECKPOINT_BEST, CHECKPOINT_FINAL):
                    remove_leftovers(fold / name)
            while True:
                try:
                    super().run_training()
                    return
                except NotFiniteError as problem:
                    self._finish_loaders()
                    self._go_back(str(problem), start)
                except BaseException:
                    if not self._stop_signal.came:
                        raise
                    self._save_unfinished_epoch()
                    self._finish_loaders()
                    raise SystemExit(128 + signal.SIGTERM) from None
                finally:
                    self._stop_signal.remove()

    def _claimed(self) -> AbstractContextManager[None]:
        """Hold this fold, so that no other process trains it, too."""
        if self.local_rank != 0:
            return nullcontext()
        fold = Path(self.output_folder)
        return locked(fold / TRAINING_LOCK, f"{fold} is being trained by another process. Wait for it or end it.")

    def on_train_start(self) -> None:
        """Load the pretrained encoder if a training begins here, then start as nnU-Net does."""
        self._settle_folds()
        if not self.was_initialized:
            self.initialize()
        if self.current_epoch == 0:
            self._refuse_other_plans()
            self._load_starting_weights()
        if self._recoveries:
            self.initial_lr = self._recoveries[-1].peak
            self.lr_scheduler.peak = self.initial_lr
        if self.local_rank == 0:
            self._check_space()
            write_recoveries(Path(self.output_folder), self._recoveries)
        self.print_to_log_file(
            f"Training {self.num_epochs} epochs of {self.num_iterations_per_epoch} iterations, of which "
            f"{min(self.warmup_epochs, self.num_epochs)} warm up to the learning rate {self.initial_lr:g}"
        )
        self.print_to_log_file(f"Tumor labels: {tumor_labels(self.dataset_json)} of {self.dataset_json['labels']}")
        if self.tumor_aware:
            self.print_to_log_file(f"Tumor-aware augmentation: {self._tumor_augmentation}")
        if self.planned_patch_only and len(set(self.configuration_manager.patch_size)) == 1:
            self.print_to_log_file(
                f"Note: the planned patch {self.configuration_manager.patch_size} is cubic; for this dataset it does "
                "not differ in shape from the pretraining input."
            )
        super().on_train_start()
        digests = Path(self.preprocessed_dataset_folder_base) / IMAGE_DIGESTS
        if self.local_rank == 0 and digests.is_file():
            # So that prediction recognizes a scan that the model was trained on.
            copy_file(digests, Path(self.output_folder_base) / IMAGE_DIGESTS)
        if self._epochs_between and self.local_rank == 0:
            with only_logged("attention in training", self.print_to_log_file):
                self._follower = EpochFollower(
                    self._bare_network(),
                    self._preprocessed(self.do_split()[1]),
                    self.device,
                    Path(self.output_folder),
                    self._epochs_between,
                    self.print_to_log_file,
                    self.logger.loggers,
                )

    def _check_space(self) -> None:
        """Refuse to begin where the disk cannot hold the checkpoints of this fold."""
        fold = Path(self.output_folder)
        weights = sum(parameter.nbytes for parameter in self._bare_network().parameters())
        moments = 2 * weights  # of AdamW
        written = sum(path.stat().st_size for path in fold.glob(CHECKPOINTS))
        check_space(fold, CHECKPOINTS_AT_ONCE * (weights + moments) - written, "The checkpoints of a fold")

    def on_epoch_start(self) -> None:
        """Start an epoch as nnU-Net does; from the first on, SIGTERM is waited for."""
        super().on_epoch_start()
        self._stop_signal.install()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the training and validation cases as nnU-Net does.

        Raises:
            RectalError: There is no such fold, for which nnU-Net would make a random one, or a case or a patient is on
                both sides, as can be where nnU-Net splits by itself.
        """
        if self.fold != ALL_CASES:
            check_folds(Path(self.preprocessed_dataset_folder_base), [self.fold])
        training, validation = super().do_split()
        if self.fold != ALL_CASES:
            dataset = PreprocessedDataset(Path(self.preprocessed_dataset_folder_base))
            refuse_split(dataset, Fold(tuple(training), tuple(validation)))
        return training, validation

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        """Return the datasets as nnU-Net does, none of whose cases runs code when it is opened."""
        check_properties(Path(self.preprocessed_dataset_folder))
        return super().get_tr_and_val_datasets()

    def _settle_folds(self) -> None:
        """Copy folds and patients that did not come along from the raw dataset, and refuse folds that are wrong."""
        if self.fold != ALL_CASES:
            dataset = PreprocessedDataset(Path(self.preprocessed_dataset_folder_base))
            for note in settle_folds(dataset, preprocessed_cases(Path(self.preprocessed_dataset_folder))):
                self.print_to_log_file(f"Note: {note}")

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch as nnU-Net does, then stop if SIGTERM came."""
        result = super().train_step(batch if self._augmentation is None else self._augmentation(batch))
        self._stop_signal.check()
        return result

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Validate on a batch as nnU-Net does, then stop if SIGTERM came."""
        result = super().validation_step(batch)
        self._stop_signal.check()
        return result

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the loss as nnU-Net does, and refuse to go on with weights that are not finite.

        With half precision a step whose gradients overflow is skipped, and its loss alone is lost.
        """
        super().on_train_epoch_end(train_outputs)
        lost = sum(not np.isfinite(output["loss"]) for output in train_outputs)
        problem = describe_not_finite(self._bare_network(), self.optimizer, lost, len(train_outputs))
        if self.is_ddp:
            told: list[str] = [""] * dist.get_world_size()
            dist.all_gather_object(told, problem)
            problem = max(told)
        if problem:
            raise NotFiniteError(problem)
        if lost:
            self.print_to_log_file(f"The loss of {plural(lost, 'iteration')} was not finite; the steps were skipped.")

    def _go_back(self, problem: str, start: "StartState | None") -> None:
        """Return to the last checkpoint, or to the start where there is none yet, with a lower learning rate."""
        failed, last = self.current_epoch, self._last_checkpoint
        if len(self._recoveries) == MOST_RECOVERIES or (last is None and start is None):
            raise RectalError(report_of_failure(Path(self.output_folder), failed, problem, self._recoveries))
        if last is not None:
            self.load_checkpoint(str(last))
        else:
            assert start is not None
            self.current_epoch = 0
            self.optimizer, self.lr_scheduler = self.configure_optimizers()
            self._bare_network().load_state_dict(start.weights)
            self.logger.load_checkpoint(copy.deepcopy(start.logging))
        peak = self.initial_lr * LOWER
        self._recoveries.append(Recovery(failed, self.current_epoch, peak, problem))
        self.print_to_log_file(
            f"WARNING: after epoch {failed} {problem}. The training goes back to epoch {self.current_epoch} "
            f"({last.name if last else 'its start'}) with half the learning rate, {peak:g}: recovery "
            f"{len(self._recoveries)} of at most {MOST_RECOVERIES}."
        )

    def _save_unfinished_epoch(self) -> None:
        """Save between two steps; nnU-Net would write the number of the next epoch, and this one is repeated."""
        self.current_epoch -= 1
        self.save_checkpoint(str(Path(self.output_folder) / CHECKPOINT_LATEST))
        self.current_epoch += 1
        self.print_to_log_file(f"Stopped by SIGTERM in epoch {self.current_epoch}; saved. --c goes on with this epoch.")

    def _finish_loaders(self) -> None:
        """End the processes that load and augment, as nnU-Net does at the end of a training."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()

    def on_epoch_end(self) -> None:
        """End the epoch as nnU-Net does, then measure attention dilution if that was asked for."""
        epoch, plot = self.current_epoch, Path(self.output_folder) / PROGRESS_PNG
        try:
            with naming(plot):
                super().on_epoch_end()
        except OSError:
            plot.unlink(missing_ok=True)  # which may be cut off; it is drawn after every epoch
            raise
        if self._follower is not None:
            with only_logged("attention in training", self.print_to_log_file):
                self._follower.after_epoch(epoch)

    def _refuse_other_plans(self) -> None:
        """Refuse to add a fold to a model whose other folds were trained by other plans.

        nnU-Net keeps one set of plans for all folds of a model, and would predict by the last.
        """
        plans_file = Path(self.output_folder_base) / PLANS_JSON
        trained = {path.parent for path in plans_file.parent.glob(f"{fold_name('*')}/{CHECKPOINT_FINAL}")}
        if not trained - {Path(self.output_folder)} or not plans_file.is_file():
            return
        theirs, ours, name = Plans.read(plans_file), self._plans, self.configuration_name
        augmentation = augmentation_of_plans(theirs, len(self._intensity_window))
        if (
            theirs.content["transpose_forward"] != ours.content["transpose_forward"]
            or (self.tumor_aware and augmentation != self._tumor_augmentation)
            or theirs.configuration(name).settings != ours.configuration(name).settings
        ):
            raise RectalError(
                f"Folds in {plans_file.parent} were trained by other plans than those of now. Move it away to train "
                "all folds by the new plans, or plan under another name with -overwrite_plans_name."
            )

    def _load_starting_weights(self) -> None:
        """Load the pretrained encoder, unless `-pretrained_weights` already replaced the weights.

        That option copies buffers too, so the intensity window of this dataset's plans is set again. What the training
        starts from is noted in the folder of the fold.
        """
        network = self._bare_network()
        network.set_intensity_window(self._intensity_window)
        started = ["random"]
        if not torch.equal(next(network.parameters()), self._first_parameter_at_start):
            started = ["checkpoint"]
        elif (path := self.pretrained_file(self._plans, self.configuration_name)) is not None:
            report = load_pretrained(network.backbone, path)
            self.print_to_log_file(str(report))
            started = ["pretrained", report.path.name, report.md5]
        if self.local_rank == 0:
            write_starting_weights(Path(self.output_folder), *started)
            forget_analysis(Path(self.output_folder))

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:
        """Return nnU-Net's training transforms with those of this recipe added; the arguments are nnU-Net's."""
        stock = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        labels = tumor_labels(self.dataset_json) if self.tumor_aware else None
        return extend_training_transforms(stock, self._intensity_window, labels, self._tumor_augmentation)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return the running augmenters for training and validation; crops stay within the padded volume.

        Where augmentation on the device is asked for, see the environment variables, the first of them only crops.
        """
        patch_size = self.configuration_manager.patch_size
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        regions = self.label_manager.foreground_regions if self.label_manager.has_regions else None
        labels = {
            "foreground_labels": self.label_manager.foreground_labels,
            "regions": regions,
            "ignore_label": self.label_manager.ignore_label,
        }
        training = self.get_training_transforms(
            patch_size,
            rotation,
            None,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            **labels,
        )
        if is_on_device_wanted():
            self._augmentation, training = DeviceAugmentation(training, self.device), None
            self.print_to_log_file(f"Training batches are augmented on the device, {self.device}.")
        validation = self.get_validation_transforms(None, **labels)
        training_set, validation_set = self.get_tr_and_val_datasets()
        return start_augmenters(
            self._loader(training_set, initial_patch_size, training),
            self._loader(validation_set, patch_size, validation),
            pin_memory=self.device.type == "cuda",
        )

    def _loader(
        self, dataset: nnUNetBaseDataset, crop_size: Any, transforms: ComposeTransforms | None
    ) -> BoundedDataLoader:
        """Return a loader of crops of `crop_size` voxels, which `transforms`, if given, cut down to the patch size."""
        return BoundedDataLoader(
            dataset,
            self.batch_size,
            crop_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint in one step, so that an interruption leaves the previous one whole.

        Raises:
            RectalError: It could not be written, as on a full disk.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            if not self.disable_checkpointing:
                self._last_checkpoint = Path(filename)  # of rank 0, to which every rank goes back
            return
        with writing(Path(filename)), staged_file(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
        self._last_checkpoint = Path(filename)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does, or where it is damaged another of its folder, and remember which.

        Raises:
            RectalError: It is damaged, or of another trainer, and there is no other.
        """
        wanted = Path(str(filename_or_checkpoint))
        path = whole_checkpoint(wanted, type(self).__name__, self.print_to_log_file)
        check_checkpoint(path)
        super().load_checkpoint(str(path))
        self._weights_name, self._last_checkpoint = path.name, path
        self._damaged = wanted if path != wanted else None

    def on_train_end(self) -> None:
        """End as nnU-Net does, which writes checkpoint_final.pth."""
        self._stop_signal.remove()
        super().on_train_end()
        self._weights_name = CHECKPOINT_FINAL

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict the validation cases and score them as nnU-Net does; write and log lesion detection and analysis.

        Raises:
            RectalError: The checkpoint to validate is damaged.
        """
        if self._damaged is not None:
            raise RectalError(f"{self._damaged} is damaged; nothing was validated. Train the fold to its end with --c.")
        check_properties(Path(self.preprocessed_dataset_folder))
        # Not compiled: a recorded CUDA graph overwrites its last output, to which the predictor adds the next.
        predict_fold(self, self._bare_network(), save_probabilities)
        if self.local_rank == 0:
            score_fold(self)
            dataset = PreprocessedDataset(Path(self.preprocessed_dataset_folder_base))
            _, cases = self.do_split()
            remove_damaged_masks(Path(self.output_folder) / VALIDATION, cases, self.dataset_json["file_ending"])
            result = evaluate_fold(
                Path(self.output_folder) / VALIDATION,
                dataset.references,
                self.dataset_json,
                cases,
                read_patients(dataset.path),
                default_num_processes,
                ignore_position=True,
            )
            self.print_to_log_file(detection_line(result))
            log_values(detection_values(result), self.logger.log_summary)
            analyze_validation(self._validated_fold(cases))

    def _validated_fold(self, cases: Iterable[str]) -> ValidatedFold:
        return ValidatedFold(
            folder=Path(self.output_folder),
            network=self._bare_network(),
            new_network=self._new_network,
            weights=self._weights_name,
            cases=self._preprocessed(cases),
            configuration=self.configuration_name,
            device=self.device,
            log=self.print_to_log_file,
            log_summary=self.logger.log_summary,
        )

    def _new_network(self) -> PlannedNetwork:
        """Return a network like this one with random weights."""
        network = self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
        )
        assert isinstance(network, PlannedNetwork)
        return network

    def _preprocessed(self, cases: Iterable[str]) -> PreprocessedCases:
        return PreprocessedCases(
            folder=Path(self.preprocessed_dataset_folder),
            names=tuple(sorted(cases)),
            patch_size=tuple(self.configuration_manager.patch_size),
            spacing=tuple(self.configuration_manager.spacing),
            tumor_labels=tuple(tumor_labels(self.dataset_json)),
        )

    @property
    def _intensity_window(self) -> list[list[float]]:
        return self.configuration_manager.network_arch_init_kwargs["intensity_window"]

    @property
    def _tumor_augmentation(self) -> TumorAugmentation:
        return augmentation_of_plans(self._plans, len(self._intensity_window))

    def _bare_network(self) -> PlannedNetwork:
        """Return the network without the wrappers of distributed training and compilation."""
        network = self.network.module if self.is_ddp else self.network
        bare = network._orig_mod if isinstance(network, OptimizedModule) else network
        assert isinstance(bare, PlannedNetwork)
        return bare
