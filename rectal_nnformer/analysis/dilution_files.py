"""Attention dilution over the cases of a fold, as files: attention_dilution.json and .csv."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rectal_nnformer.analysis.dilution import Blocks, block_records, measure_dilution, pooled, stage_records
from rectal_nnformer.analysis.records import ATTENTION_NAME, AttentionRecord, BlockRecord, CaseAttention, StageRecord
from rectal_nnformer.analysis.tiles import TILE_STEP, PreprocessedCases, sliding_window
from rectal_nnformer.networks.recording import AnalyzedNetwork
from rectal_nnformer.utils.files import csv_text, write_json, write_text
from rectal_nnformer.utils.text import number

MEASURES = ("adi", "a_rr", "a_rp", "a_pr", "a_pp", "entropy", "padding_entropy", "uniform_adi", "tumor_adi")
CSV_COLUMNS = ("case", "stage", "block", *MEASURES, "tumor_a_rp", "scattered_padding_share", "real_token_fraction")


def analyze_dilution(
    network: AnalyzedNetwork, cases: PreprocessedCases, device: torch.device, weights: str, configuration: str
) -> AttentionRecord:
    """Measure the attention dilution of a network on every tile of every case, with progress.

    Each tile runs once and through the encoder alone, so this takes less than nnU-Net's validation of the same cases,
    in which each also runs through the decoder, and up to seven times more mirrored. The network, not compiled, is in
    evaluation mode afterwards; `weights` and `configuration` are names for the record.
    """
    network.to(device).eval()
    measured: dict[str, Blocks] = {}
    num_tiles: dict[str, int] = {}
    for name in tqdm(cases.names, desc="Attention dilution", unit="case"):
        tiles = list(sliding_window(cases.load(name), cases.patch_size))
        num_tiles[name] = len(tiles)
        measured[name] = measure_dilution(network, tiles, device)
    together = pooled(measured.values())
    return AttentionRecord(
        backbone=network.backbone_name,
        # The patch is as stored.
        patch_size=tuple(cases.patch_size[axis - 2] for axis in network.to_xyz[2:]),
        window_reverse=getattr(network.backbone, "window_reverse", None),
        mask_padding=getattr(network.backbone, "mask_padding", False),
        weights=weights,
        configuration=configuration,
        blocks=block_records(together),
        stages=stage_records(together),
        cases=tuple(
            CaseAttention(case=name, tiles=num_tiles[name], stages=stage_records(blocks), blocks=block_records(blocks))
            for name, blocks in measured.items()
        ),
        settings={
            "tile_step_size": TILE_STEP,
            "mirroring": False,
            "precision": "mixed" if device.type == "cuda" else "float32",
            "num_cases": len(measured),
            "num_tiles": sum(num_tiles.values()),
        },
    )


def write_dilution(attention: AttentionRecord, folder: Path, name: str = ATTENTION_NAME) -> None:
    """Write the JSON file, and a table of the pooled blocks, the pooled stages and the stages of each case."""
    rows = [
        *({**_row(block), "case": "all", "block": block.name} for block in attention.blocks),
        *({**_row(stage), "case": "all"} for stage in attention.stages),
        *({**_row(stage), "case": case.case} for case in attention.cases for stage in case.stages),
    ]
    write_json(folder / f"{name}.json", asdict(attention))
    write_text(folder / f"{name}.csv", csv_text(CSV_COLUMNS, rows))


def _row(record: BlockRecord | StageRecord) -> dict[str, Any]:
    values = asdict(record)
    tumor = {f"tumor_{key}": value for key, value in (values.get("tumor") or {}).items()}
    return {key: value for key, value in {**values, **tumor}.items() if key in CSV_COLUMNS}


def dilution_line(stages: Iterable[StageRecord]) -> str:
    """Return stages in one line, for logs."""
    return "Attention dilution by stage: " + ", ".join(
        f"{stage.stage}: ADI {number(stage.adi, 3)} (uniform {number(stage.uniform_adi, 3)}, "
        f"a_rp {number(stage.a_rp, 3)})"
        for stage in stages
    )
