"""How a model of the nuclei is trained, which masks are sampled, and what is measured.

`make demo`, `make nuclei` and the study of benchmarks/ablation share it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .comfy_host import ROOT
from .nuclei_crops import SIZE, Crop
from .otsu import nuclei
from .pairs import Bytes, mean_iou, shuffled_iou

NAME = "nuclei"


@dataclass(frozen=True)
class Settings:
    """What two CPU cores do in under an hour."""

    size: int = SIZE  # of images, in pixels
    base_tiles: int = 0  # whose images the base learns, without their masks; 0: all 503
    base_steps: int = 900
    base_warmup: int = 50  # steps
    base_learning_rate: float = 4e-4
    base_attention: bool = True  # at the latents' size too; a step then takes half as long again
    tiles: int = 40  # with masks
    recipe: str = "published"
    seed: int = 0  # of tiles and training
    steps: int = 450
    warmup: int = 30  # steps
    learning_rate: float = 3e-4
    batch: int = 16
    test_masks: int = 64
    sampling_steps: int = 20
    cfg: float = 1.5
    bf16: bool = True
    save_every: int = 50  # steps; a stopped run goes on from there


def training_command(settings: Settings, base: Path, pairs: Path, run: Path) -> list[str]:
    """The command that trains on `pairs`; it writes run/nuclei.safetensors, and resumes."""
    flags: dict[str, object] = {
        "host": "standalone",  # sd-scripts does not know the tiny autoencoder
        "pretrained_model_name_or_path": base,
        "train_data": pairs,
        "output_dir": run,
        "output_name": NAME,
        "resolution": settings.size,
        "recipe": settings.recipe,
        "train_batch_size": settings.batch,
        "max_train_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": settings.warmup,
        "max_grad_norm": 1,
        "ema_decay": 0.98,
        "caption_dropout_rate": 0.1,
        "mixed_precision": "bf16" if settings.bf16 else "no",
        "seed": settings.seed,
        "save_every_n_steps": settings.save_every,
        "keep_last_n": 1,
        "sample_every_n_steps": 0,
        "sample_steps": settings.sampling_steps,
        "sample_cfg": settings.cfg,
    }
    command = [sys.executable, str(ROOT / "training" / "train_siamese.py")]
    command.append("--flip_aug")
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    return command


def one_from_each_group(crops: Sequence[Crop], count: int) -> list[Crop]:
    """`count` crops, one of a group before two of any, the middle one of the group first."""
    groups: dict[str, list[Crop]] = {}
    for crop in crops:
        groups.setdefault(crop.group, []).append(crop)
    order = [
        members[len(members) // 2 :] + members[: len(members) // 2] for members in groups.values()
    ]
    longest = max(map(len, order))
    ranked = [members[rank] for rank in range(longest) for members in order if rank < len(members)]
    return ranked[:count]


def measure(crops: Sequence[Crop], images: Sequence[Bytes]) -> dict[str, float]:
    """Mean IoU of mask and Otsu's nuclei in the sampled images, beside ceiling and floor."""
    from .train_autoencoder import evaluate_nuclei, load_autoencoder

    masks = [crop.mask for crop in crops]
    found = [nuclei(image) for image in images]
    through = evaluate_nuclei(load_autoencoder(), crops)
    return {
        "sampled": mean_iou(masks, found),
        "autoencoder": through["iou"],
        "real": through["iou_original"],
        "shuffled": shuffled_iou(masks, found),
        # Grey data must come out grey.
        "colour": float(np.mean([np.ptp(image.astype(int), axis=2).mean() for image in images])),
        "masks": len(crops),
    }
