"""nnU-Net's prediction in this process: windows and mirrored copies in batches, labels resampled on the device.

Loading, options, preprocessing, what labels mean and what is written are nnU-Net's own. `nnUNetv2_predict` starts
processes for preprocessing and for resampling, each of which imports all of it again, and sends one window at a time
through the network.
"""

import argparse
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.inference.data_iterators import PreprocessAdapter
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo import OptimizedModule
from tqdm import tqdm

from rectal_nnformer.errors import RectalError
from rectal_nnformer.evaluation.candidates import find_candidates, log_odds_of, write_candidates
from rectal_nnformer.evaluation.log_odds import MAX_LOG_ODDS, count_case, from_sparse
from rectal_nnformer.imaging.masks import ignore_label, tumor_heads, tumor_labels
from rectal_nnformer.imaging.writing import written_whole
from rectal_nnformer.nnunet.commands import interruptible
from rectal_nnformer.nnunet.find_trainer import trainers_within_reach
from rectal_nnformer.nnunet.resampling import FastResampling, interpolation_orders
from rectal_nnformer.nnunet.source import add_options
from rectal_nnformer.prediction.resampling import resample_labels, resample_log_odds, tumor_log_odds
from rectal_nnformer.utils.files import staged_file

MOST_ON_GPU = 4
"""Windows in a batch on a GPU. On a CPU, one: more take memory and no less time."""

Tile = tuple[slice | int, ...]
Pass = tuple[Tile, tuple[int, ...]]
"""A window, (channel, *axes), and the axes of a batch along which it is mirrored."""


class BatchedPredictor(nnUNetPredictor):
    """nnU-Net's predictor, with other loops over cases and windows. Attributes and arguments are nnU-Net's."""

    network: Any
    batch_size = 0  # Windows; found when the first one was predicted.
    loaded: Mapping[str, Tensor] | None = None  # Which of the folds' weights are in the network.
    disagreement: float | None = None  # Of the folds about the last case.
    unwritten: list[str] | None = None  # What could not be written, where other cases go on; None: the first ends all.
    reference: Callable[[str], Path] | None = None  # The reference of a case, where voxels are to be counted.

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.counts = from_sparse([], [])

    def _manage_input_and_output_lists(self, cases: str | list[list[str]], *arguments: Any, **options: Any) -> Any:
        """Replace a folder by its cases, each a list of its channels.

        nnU-Net looks for them with a pool of forked processes, which do not end where SIGTERM has a handler.
        """
        if isinstance(cases, str):
            ending = self.dataset_json["file_ending"]
            names = sorted(map(str, Path(cases).glob(f"*_????{ending}")))
            cases = [list(files) for _, files in itertools.groupby(names, lambda name: name[: -len(f"_0000{ending}")])]
        return super()._manage_input_and_output_lists(cases, *arguments, **options)

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str | None],
        output_filenames_truncated: list[str],
        num_processes: int,
    ) -> Iterator[dict[str, Any]]:
        """Yield cases that were read and preprocessed in a thread, one ahead."""
        preprocessor = self.configuration_manager.preprocessor_class(verbose=self.verbose_preprocessing)
        cases = PreprocessAdapter(
            input_list_of_lists,
            seg_from_prev_stage_files,
            preprocessor,
            output_filenames_truncated,
            self.plans_manager,
            self.dataset_json,
            FastResampling(
                self.configuration_manager.configuration,
                segmentations=seg_from_prev_stage_files[0] is not None,  # of a cascade
            ),
        )
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(next, cases, None)
            while (case := coming.result()) is not None:
                coming = thread.submit(next, cases, None)
                yield case

    def predict_from_data_iterator(
        self, data_iterator: Iterator[dict[str, Any]], save_probabilities: bool = False, *_: Any
    ) -> None:
        """Predict preprocessed cases; a thread writes masks and candidates of each while the next is predicted."""
        with ThreadPoolExecutor(1) as thread:
            writing: list[Future[None]] = []
            for case in data_iterator:
                if self.allow_tqdm:
                    print(f"Predicting {Path(case['ofile']).name}:", flush=True)
                logits = self.predict_logits_from_preprocessed_data(case["data"].float())
                output = case["data_properties"], case["ofile"], save_probabilities, self.disagreement
                self._finish(writing)
                writing = [thread.submit(self.write, logits, *output)]
            self._finish(writing)
        compute_gaussian.cache_clear()

    def _finish(self, writing: Sequence[Future[None]]) -> None:
        """Wait until cases are written."""
        for written in writing:
            try:
                written.result()
            except (RectalError, OSError) as error:
                if self.unwritten is None:
                    raise
                self.unwritten.append(str(error))
                print(error, file=sys.stderr)

    @torch.inference_mode()
    def write(
        self,
        logits: Tensor,
        properties: dict[str, Any],
        output: str,
        save_probabilities: bool,
        disagreement: float | None = None,
    ) -> None:
        """Write candidates and mask of a case, and its probabilities if asked for, to a path that lacks its ending.

        A mask that was there before is removed first, so that none of another prediction stays where this one fails.

        Raises:
            RectalError: Candidates or mask could not be written whole.
            OSError: Probabilities could not.
        """
        mask = Path(output + self.dataset_json["file_ending"])
        mask.unlink(missing_ok=True)
        orders = None if save_probabilities else self._orders(properties)
        if orders is None:
            labels, log_odds = self._by_nnunet(logits, properties, output if save_probabilities else None)
        else:
            labels, log_odds = self._resampled(logits, properties, orders)
        writer = self.plans_manager.image_reader_writer_class()
        tumor = np.isin(labels, tumor_labels(self.dataset_json))
        if self.reference is not None:
            reference = writer.read_seg(str(self.reference(Path(output).name)))[0][0]
            told = tumor_labels(self.dataset_json), ignore_label(self.dataset_json), properties["spacing"]
            self.counts += count_case(log_odds, reference, tumor, *told)
        numbers, found = find_candidates(log_odds, tumor)
        found = replace(found, disagreement=disagreement)
        # The mask last: nnU-Net takes a case with a mask for done.
        write_candidates(mask, found, lambda path: writer.write_seg(numbers, path, properties))
        with staged_file(mask) as path, written_whole(path):
            writer.write_seg(labels, str(path), properties)

    def _orders(self, properties: Mapping[str, Any]) -> list[int] | None:
        """Return the orders of interpolation back to the image; None if only nnU-Net resamples as the plan asks."""
        image_spacing = [properties["spacing"][axis] for axis in self.plans_manager.transpose_forward]
        spacing = self.configuration_manager.spacing
        spacing = [*image_spacing[: 3 - len(spacing)], *spacing]
        return interpolation_orders(self.configuration_manager.configuration, "probabilities", spacing, image_spacing)

    def _resampled(
        self, logits: Tensor, properties: Mapping[str, Any], orders: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return labels and tumour's log-odds on the grid of the image as it was read.

        The steps are those of nnU-Net's `convert_predicted_logits_to_segmentation_with_correct_shape`.
        """
        shape = properties["shape_after_cropping_and_before_resampling"]
        cropped = resample_labels(logits, shape, orders, self.label_manager)
        log_odds = resample_log_odds(logits, shape, orders, tumor_heads(self.dataset_json))
        return self._uncropped(cropped, properties, 0), self._uncropped(log_odds, properties, -MAX_LOG_ODDS)

    def _uncropped(self, cropped: NDArray[Any], properties: Mapping[str, Any], outside: float) -> NDArray[Any]:
        whole = np.full(properties["shape_before_cropping"], outside, cropped.dtype)
        whole = insert_crop_into_image(whole, cropped, properties["bbox_used_for_cropping"])
        return whole.transpose(self.plans_manager.transpose_backward)

    def _by_nnunet(
        self, logits: Tensor, properties: dict[str, Any], output: str | None
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return labels and tumour's log-odds as nnU-Net resamples them; write its files of probabilities to a path."""
        managers = self.plans_manager, self.configuration_manager, self.label_manager
        labels, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.cpu(), *managers, properties, return_probabilities=True
        )
        if output is not None:
            with staged_file(Path(f"{output}.npz")) as path:
                np.savez_compressed(path, probabilities=probabilities)
            with staged_file(Path(f"{output}.pkl")) as path:
                save_pickle(properties, str(path))
        return labels, log_odds_of(probabilities, tumor_heads(self.dataset_json))

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Return the mean logits of the folds (head, *axes), float32, for an image (channel, *axes)."""
        self.network = self.network.to(self.device).eval()
        padded, unpadded = pad_nd_image(
            data, self.configuration_manager.patch_size, "constant", {"value": 0}, return_slicer=True
        )
        inner = (slice(None), *unpadded[1:])
        if self.perform_everything_on_device:
            try:
                return self._predict(padded, self.device)[inner]
            except torch.OutOfMemoryError:
                print("The logits do not fit into the memory of the GPU and are summed up on the CPU.")
            torch.cuda.empty_cache()
        return self._predict(padded, torch.device("cpu"))[inner]

    def _predict(self, data: Tensor, device: torch.device) -> Tensor:
        """Return logits that are summed up on a device; windows that hold padding alone are left out."""
        patch = tuple(self.configuration_manager.patch_size)
        gaussian = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=device).float()
        tiles = [tile for tile in self._internal_get_sliding_window_slicers(data.shape[1:]) if data[tile].any()]
        passes = [(tile, axes) for tile in tiles for axes in self._mirrored_axes()]
        data = data.to(device)
        logits = torch.zeros((self.label_manager.num_segmentation_heads, *data.shape[1:]), device=device)
        weights = torch.zeros(data.shape[1:], device=device)
        for tile, _ in passes:
            weights[tile[1:]] += gaussian
        bar = tqdm(total=len(passes) * len(self.list_of_parameters), disable=not self.allow_tqdm)
        masks = []
        for parameters in self.list_of_parameters:
            self._load(parameters)
            before = logits.clone() if len(self.list_of_parameters) > 1 else None
            for (tile, axes), output in self._outputs(data, passes):
                logits[tile] += output.float().flip(axes)[0].to(device) * gaussian
                bar.update()
            if before is not None:
                masks.append(tumor_log_odds(logits - before, tumor_heads(self.dataset_json)) > 0)
        bar.close()
        self.disagreement = disagreement_of(masks)
        empty = weights == 0
        logits /= weights.masked_fill_(empty, 1) * len(self.list_of_parameters)
        foreground = logits if self.label_manager.has_regions else logits[1:]
        foreground.masked_fill_(empty, -MAX_LOG_ODDS)
        return logits

    def _mirrored_axes(self) -> list[tuple[int, ...]]:
        """Return the axes of a batch along which each copy of a window is mirrored, none for the first."""
        axes = [axis + 2 for axis in (self.allowed_mirroring_axes or ())] if self.use_mirroring else []
        return [chosen for number in range(len(axes) + 1) for chosen in itertools.combinations(axes, number)]

    def _load(self, parameters: Mapping[str, Tensor]) -> None:
        if self.loaded is not parameters:
            network = self.network._orig_mod if isinstance(self.network, OptimizedModule) else self.network
            network.load_state_dict(parameters)
            self.loaded = parameters

    def _outputs(self, data: Tensor, passes: Sequence[Pass]) -> Iterator[tuple[Pass, Tensor]]:
        """Yield the network's outputs (1, head, *patch), still mirrored; batches are halved if the GPU is full."""
        done = 0
        while done < len(passes):
            self.batch_size = self.batch_size or self._fitting_batch(_inputs(data, passes[:1]).to(self.device))
            batch = passes[done : done + self.batch_size]
            # All batches have one size, for which cuDNN chooses its algorithms once.
            inputs = _inputs(data, [*batch, *[batch[-1]] * (self.batch_size - len(batch))]).to(self.device)
            outputs = self._run(inputs)
            if outputs is None:
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            yield from zip(batch, outputs.split(1), strict=False)
            done += len(batch)

    def _run(self, inputs: Tensor) -> Tensor | None:
        """Return the network's output; None if the memory is full and a smaller batch would take less."""
        # As in nnU-Net: half precision on a GPU alone.
        precision = torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()
        try:
            with precision:
                return self.network(inputs)
        except torch.OutOfMemoryError:
            if len(inputs) == 1:
                raise
            return None

    def _fitting_batch(self, window: Tensor) -> int:
        """Return how many windows to predict at a time: as many as take up to half of the free memory of a GPU."""
        if self.device.type != "cuda":
            return 1
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._run(window)
        taken = torch.cuda.max_memory_allocated(self.device) - before
        torch.backends.cudnn.benchmark = benchmark
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - before
        return int(min(max(1, free // (2 * taken)), MOST_ON_GPU))


def disagreement_of(masks: Sequence[Tensor]) -> float | None:
    """Return 1 minus the mean Dice of two of some masks; two empty ones agree. None for fewer than two."""
    if len(masks) < 2:
        return None
    flat = torch.stack(list(masks)).flatten(1).float()
    sizes, shared = flat.sum(1), flat @ flat.T
    first, second = torch.triu_indices(len(masks), len(masks), 1)
    total = sizes[first] + sizes[second]
    dice = torch.where(total > 0, 2 * shared[first, second] / total.clamp(min=1), torch.ones_like(total))
    return 1 - float(dice.mean())


def _inputs(data: Tensor, passes: Sequence[Pass]) -> Tensor:
    """Return windows of an image (channel, *axes), mirrored, as (window, channel, *patch)."""
    return torch.cat([data[tile][None].flip(axes) for tile, axes in passes])


def predict_folder(model: Path, arguments: Sequence[str]) -> int:
    """Do what `nnUNetv2_predict` does with these arguments, and return its exit code.

    Args:
        model: Folder of the trained model.
        arguments: Those of `nnUNetv2_predict`.
    """
    parser = argparse.ArgumentParser()
    add_options(parser, "nnUNetv2_predict", optional=["d", "c"])
    given = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(cpu_count() if given.device == "cpu" else 1)
    try:
        with interruptible(), trainers_within_reach():
            predictor = BatchedPredictor(
                tile_step_size=given.step_size,
                use_mirroring=not given.disable_tta,
                perform_everything_on_device=not given.not_on_device,
                device=torch.device(given.device),
                verbose=given.verbose,
                verbose_preprocessing=given.verbose,
                allow_tqdm=not given.disable_progress_bar,
            )
            predictor.unwritten = []
            predictor.initialize_from_trained_model_folder(str(model), given.f, given.chk)
            predictor.predict_from_files(
                given.i,
                given.o,
                save_probabilities=given.save_probabilities,
                overwrite=not given.continue_prediction,
                num_processes_preprocessing=1,
                num_processes_segmentation_export=1,
                folder_with_segs_from_prev_stage=given.prev_stage_predictions,
                num_parts=given.num_parts,
                part_id=given.part_id,
            )
    except Exception as error:  # whatever it is, what was predicted before is kept and told
        traceback.print_exception(error, limit=0 if isinstance(error, RectalError | OSError) else None)
        return 1
    finally:
        torch.set_num_threads(threads)
    return int(bool(predictor.unwritten))
