"""Flags that sd-scripts has, with its names and meaning, and the published code has not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.text import shown
from .errors import ConfigError
from .options import COUNT, FACTOR, INTERVAL, SHARE, Range, option

PRECISIONS = ("float", "fp16", "bf16")
LOSS_TYPES = ("l2", "l1", "huber", "smooth_l1")
HUBER_SCHEDULES = ("constant", "exponential", "snr")
MOST_PAIRS = 10_000_000  # of a dataset, with repeats
MOST_RANK = 1280  # channels of the widest layers
# Of the numbers among the flags that sd-scripts' own parser reads.
HOST_RANGES = {
    "adaptive_noise_scale": Range(-10, 10),
    "clip_skip": Range(1, 100),
    "lr_decay_steps": INTERVAL,
    "lr_scheduler_min_lr_ratio": SHARE,
    "lr_scheduler_num_cycles": COUNT,
    "lr_scheduler_power": Range(0, 100),
    "lr_scheduler_timescale": INTERVAL,
    "max_timestep": Range(1, 1000),
    "max_token_length": Range(75, 225),
    "min_snr_gamma": Range(0, 1e6),
    "min_timestep": Range(0, 999),
    "multires_noise_discount": SHARE,
    "multires_noise_iterations": Range(0, 100),
    "noise_offset": Range(-10, 10),
    "v_pred_like_loss": Range(0, 1e6),
}


@dataclass(frozen=True, kw_only=True)
class SdScriptsOptions:
    """Part of TrainConfig. Defaults leave training as published."""

    v_parameterization: bool = option(
        "model", "the base model predicts v (Stable Diffusion 2.1 at 768 px)", False
    )
    zero_terminal_snr: bool = option(
        "model",
        "noise schedule whose last step has no signal left; only with --v_parameterization",
        False,
    )

    caption_extension: str | None = option(
        "data",
        "extension of the caption files of image folders; default: .txt, or else .caption "
        "(sd-scripts: .caption)",
        None,
    )
    caption_prefix: str | None = option("data", "words before every caption", None)
    caption_suffix: str | None = option("data", "words after every caption", None)
    dataset_repeats: int = option(
        "data", "how often a pair is seen in an epoch", 1, range=Range(1, MOST_PAIRS)
    )
    shuffle_caption: bool = option(
        "data",
        "shuffle a caption's tags; several orders of each caption are drawn once and encoded",
        False,
    )
    keep_tokens: int = option(
        "data", "first tags that are neither shuffled nor left out", 0, range=Range(0, 10_000)
    )
    caption_separator: str = option("data", "what separates the tags of a caption", ",")
    caption_tag_dropout_rate: float = option(
        "data", "share of the tags that are left out", 0.0, range=SHARE
    )
    bucket_no_upscale: bool = option(
        "data", "with --enable_bucket: never enlarge an image, crop it to a size of its own", False
    )

    max_train_epochs: int | None = option(
        "training",
        "instead of --max_train_steps: how often every pair is seen",
        None,
        range=COUNT,
    )
    loss_type: str = option(
        "training", "how outputs and targets are compared (published: l2)", "l2", choices=LOSS_TYPES
    )
    huber_schedule: str = option(
        "training",
        "where the losses huber and smooth_l1 turn from square to linear, over the timesteps",
        "snr",
        choices=HUBER_SCHEDULES,
    )
    huber_c: float = option("training", "threshold of huber and smooth_l1", 0.1, range=FACTOR)
    huber_scale: float = option(
        "training",
        "factor of that threshold, but for the schedule snr",
        1.0,
        range=FACTOR,
    )
    ip_noise_gamma: float = option(
        "training",
        "strength of further noise on the networks' input that they do not learn to predict",
        0.0,
        range=Range(0, 10),
    )
    ip_noise_gamma_random_strength: bool = option(
        "training", "draw the strength of that noise for each step, from 0 to the one given", False
    )
    network_dim: int = option(
        "training",
        "train factors of this rank (LoRA) instead of the copied layers' and the decoder's whole "
        "weights; 0: whole weights, as published",
        0,
        range=Range(0, MOST_RANK),
    )
    network_alpha: float | None = option(
        "training",
        "their scale is --network_alpha / --network_dim; default: --network_dim (sd-scripts: 1)",
        None,
        range=FACTOR,
    )

    max_data_loader_n_workers: int = option(
        "speed",
        "processes that decode images and masks; 0: threads of the trainer (sd-scripts: 8)",
        0,
        range=Range(0, 1024),
    )

    save_precision: str = option(
        "output",
        "number format of the weight files; states are always in full precision (sd-scripts: "
        "float)",
        "fp16",
        choices=PRECISIONS,
    )
    save_every_n_epochs: int | None = option(
        "output", "instead of --save_every_n_steps: in epochs", None, range=COUNT
    )
    sample_every_n_epochs: int | None = option(
        "output", "instead of --sample_every_n_steps: in epochs", None, range=COUNT
    )
    sample_prompts: Path | None = option(
        "output",
        "also sample these prompts: a .txt with `PROMPT --cn MASK` lines, a .toml or a .json of "
        "sd-scripts",
        None,
    )
    sample_at_first: bool = option("output", "also make a preview before the first step", False)
    logging_dir: Path | None = option(
        "output", "where tensorboard's logs go; default: output_dir/logs", None
    )
    log_prefix: str | None = option(
        "output",
        "beginning of a log's folder in --logging_dir, before the time",
        None,
        is_name=True,
    )
    log_tracker_name: str | None = option("output", "name of the project in wandb", None)
    wandb_run_name: str | None = option(
        "output", "name of the run in wandb; default: --output_name", None
    )

    @property
    def rank_alpha(self) -> float:
        """`network_alpha`, which is --network_dim where it is not given."""
        return float(self.network_dim if self.network_alpha is None else self.network_alpha)

    def check_separator(self) -> None:
        """Raise ConfigError where nothing separates a caption's tags."""
        if not self.caption_separator:
            raise ConfigError("--caption_separator is empty; give what separates tags, such as ,.")

    def check_schedule(self) -> None:
        """Raise ConfigError for a noise schedule that the base model cannot learn on."""
        if self.zero_terminal_snr and not self.v_parameterization:
            raise ConfigError(
                "--zero_terminal_snr: at a step without any signal nothing is left to learn for a "
                "base model that predicts the noise. Give --v_parameterization with a model that "
                "predicts v, or leave it out."
            )


def check_host_number(name: str, value: object) -> None:
    """Raise ConfigError for a number of sd-scripts' own flags that makes no sense."""
    limits = HOST_RANGES.get(name)
    if limits and isinstance(value, (int, float)) and value not in limits:
        raise ConfigError(f"--{name} is {shown(value)}; it must be {limits}.")
