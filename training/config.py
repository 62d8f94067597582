"""The command line: one dataclass whose fields are the flags, named as in sd-scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..common.pixel_budget import LARGEST_SIDE
from ..common.text import shown
from ..models.recipe import RECIPE_CHOICES, RECIPES, Recipe
from .errors import ConfigError
from .options import COUNT, INTERVAL, SHARE, Range, check_option, option
from .sd_scripts_options import SdScriptsOptions, check_host_number

LR_SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
)

# Preview steps: DDIM's published schedule begins a timestep late, so that it has none for 1000.
MOST_SAMPLE_STEPS = 999
MOST_PAIRS_OF_A_STEP = 100_000
BATCH = Range(1, MOST_PAIRS_OF_A_STEP)
SIDE = Range(1, LARGEST_SIDE)  # pixels
RATE = Range(1e-12, 1000)  # of learning; plain SGD takes large ones


@dataclass(frozen=True)
class TrainConfig(SdScriptsOptions):
    """Everything that decides a run; written to the run folder as config.json."""

    pretrained_model_name_or_path: Path = option(
        "model", "base model: a single-file Stable Diffusion 1.x or 2.x checkpoint"
    )
    output_dir: Path = option("output", "folder for weights, previews, metrics and states")

    host: str | None = option(
        "host",
        "what loads models and makes optimizers; default: sd-scripts where it is found",
        None,
        choices=("sd-scripts", "standalone"),
    )
    sd_scripts: Path | None = option(
        "host",
        "folder of kohya-ss sd-scripts; default: SD_SCRIPTS_DIR, or its library if installed",
        None,
    )
    # sd-scripts' own flags, read by its own parser.
    host_options: Mapping[str, Any] = field(default_factory=dict)

    tokenizer_cache_dir: Path | None = option(
        "model",
        "folder with a tokenizer's vocab.json and merges.txt; default: CLIP's own, included here",
        None,
    )

    train_data: Path | None = option(
        "data",
        'a prompt.jsonl with {"source": mask, "target": image, "prompt": caption} a line, paths '
        "relative to the file",
        None,
    )
    dataset_config: Path | None = option(
        "data", "instead of --train_data: a dataset .toml of sd-scripts, for ControlNet", None
    )
    train_data_dir: Path | None = option(
        "data",
        "instead of --train_data: folder of images, with captions in .txt or .caption files beside "
        "them",
        None,
    )
    conditioning_data_dir: Path | None = option(
        "data",
        "folder of masks for --train_data_dir, named as their images, also with _mask or "
        "_segmentation at the end",
        None,
    )
    mask_mode: str = option(
        "data",
        "binary: lesion above half of a mask's range; palette: a colour per class (published: "
        "binary)",
        "binary",
        choices=("binary", "palette"),
    )
    resolution: str = option(
        "data",
        "training size in pixels, SIZE or WIDTH,HEIGHT, multiples of 8 (published: 384)",
        "384",
    )
    enable_bucket: bool = option(
        "data",
        "train each image at the size nearest its aspect, of about the same area, cropped to it; "
        "without it images are stretched to --resolution, as the published code does",
        False,
    )
    min_bucket_reso: int = option(
        "data", "smallest side of a bucket (sd-scripts: 256)", 256, range=SIDE
    )
    max_bucket_reso: int = option(
        "data", "largest side of a bucket (sd-scripts: 1024)", 1024, range=SIDE
    )
    bucket_reso_steps: int = option(
        "data", "sides of buckets are multiples of this (sd-scripts: 64)", 64, range=SIDE
    )
    flip_aug: bool = option(
        "data", "flip half of the pairs, left to right; twice the latents to cache", False
    )
    random_rotate90: bool = option(
        "data",
        "rotate pairs by 0, 90, 180 or 270 degrees, or by 0 or 180 where they are not square; four "
        "times the latents to cache",
        False,
    )
    cache_latents_to_disk: bool = option(
        "data",
        "keep latents and text embeddings in .siamese_cache beside output_dir, for later runs; "
        "default: latents in memory, text embeddings in a file of the run, removed at its end",
        False,
    )
    validation_split: float = option(
        "data",
        "share of the groups (without them, of the file stems) kept for the validation loss",
        0.0,
        range=Range(0, 1, below=True),
    )
    caption_dropout_rate: float = option(
        "data", "share of captions replaced by the empty one (published: 0.05)", 0.05, range=SHARE
    )

    recipe: str = option(
        "recipe",
        "variant of the method (published: what the published code does)",
        "published",
        choices=tuple(RECIPES),
    )
    image_hint: str | None = option(
        "recipe",
        "DHI input of the image branch; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["image_hint"],
    )
    joint_control: str | None = option(
        "recipe",
        "how the two branches' controls are joined; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["joint_control"],
    )
    image_updates: str | None = option(
        "recipe",
        "what the image branch's loss trains; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["image_updates"],
    )
    consistency: str | None = option(
        "recipe",
        "weighting of the noise consistency loss; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["consistency"],
    )
    image_weight: str | None = option(
        "recipe",
        "weight of the image branch's control over the steps; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["image_weight"],
    )
    augmentation: str | None = option(
        "recipe",
        "online: train on latents as the image branch predicts them, from a third of the steps on; "
        "default: the recipe's",
        None,
        choices=RECIPE_CHOICES["augmentation"],
    )
    branches: str | None = option(
        "recipe",
        "mask: train the mask branch alone; default: the recipe's",
        None,
        choices=RECIPE_CHOICES["branches"],
    )

    max_train_steps: int = option(
        "training", "optimizer steps (published: 3000)", 3000, range=COUNT
    )
    train_batch_size: int = option(
        "training",
        "pairs per process and forward pass (published: 6 on each of 8 GPUs)",
        6,
        range=BATCH,
    )
    gradient_accumulation_steps: int = option(
        "training",
        "forward passes per optimizer step; the batch is that many times larger",
        1,
        range=BATCH,
    )
    learning_rate: float = option(
        "training", "peak learning rate (published: 1e-5)", 1e-5, range=RATE
    )
    optimizer_type: str = option(
        "training",
        "AdamW, AdamW8bit, PagedAdamW8bit, Lion, Lion8bit, Prodigy, Adafactor, SGDNesterov, or a "
        "full path such as torch.optim.RAdam (published: AdamW)",
        "AdamW",
    )
    optimizer_args: tuple[str, ...] = option(
        "training", "arguments of the optimizer, such as weight_decay=0.01 betas=(0.9,0.99)", ()
    )
    lr_scheduler: str = option(
        "training",
        f"learning rate over the steps: {', '.join(LR_SCHEDULERS)}, with sd-scripts as host all of "
        "its schedules (published: constant)",
        "constant",
    )
    lr_warmup_steps: float = option(
        "training",
        "steps over which the learning rate rises; below 1: their share of all steps",
        0,
        range=INTERVAL,
    )
    max_grad_norm: float = option(
        "training",
        "clip the gradient's norm; 0: never (published: never)",
        0.0,
        range=Range(0, 1e6),
    )
    ema_decay: float = option(
        "training",
        "keep an exponential moving average of the weights and save that; 0: none",
        0.0,
        range=SHARE,
    )
    seed: int = option(
        "training",
        "random seed of order, noise and previews (published: 42)",
        42,
        range=Range(0, 2**64 - 1),
    )

    mixed_precision: str = option(
        "speed",
        "number format of the networks; trained weights and losses stay float32 (published: no)",
        "no",
        choices=("no", "fp16", "bf16"),
    )
    no_tf32: bool = option(
        "speed",
        "compute float32 products with all 24 bits, where a GPU would round their factors to 11 "
        "(TF32): slower",
        False,
    )
    gradient_checkpointing: bool = option(
        "speed", "compute activations twice instead of keeping them: less memory, slower", False
    )
    xformers: bool = option(
        "speed", "attention of the xformers package instead of PyTorch's", False
    )
    channels_last: bool = option("speed", "lay images out as NHWC: faster convolutions", False)
    torch_compile: bool = option(
        "speed", "compile the networks: slow first steps, then faster", False
    )

    deterministic: bool = option(
        "speed",
        "only operations that give the same bits every time on the same device; slower",
        False,
    )

    output_name: str = option("output", "name of the weight files", "siamese", is_name=True)
    save_every_n_steps: int = option(
        "output",
        "steps between checkpoints (weights and resumable state); 0: none",
        500,
        range=INTERVAL,
    )
    keep_last_n: int = option("output", "checkpoints kept; older ones are deleted", 2, range=COUNT)
    resume: Path | None = option(
        "output",
        "state folder to resume from; default: the newest in output_dir, if the same command has "
        "been stopped",
        None,
    )
    sample_every_n_steps: int = option(
        "output", "steps between preview grids; 0: only at the end", 500, range=INTERVAL
    )
    validate_every_n_steps: int = option(
        "output",
        "steps between validation losses, where --validation_split keeps pairs",
        100,
        range=INTERVAL,
    )
    log_with: str | None = option(
        "output",
        "also log to these trackers; tensorboard writes to output_dir/logs",
        None,
        choices=("tensorboard", "wandb", "all"),
    )
    anonymous: bool = option(
        "output",
        "leave paths, names, captions and training images out of all that is written "
        "(docs/reliability.md)",
        False,
    )
    dry_run: bool = option(
        "output", "check data and configuration, print a summary, train nothing", False
    )
    sample_count: int = option("output", "pairs shown in a preview grid", 4, range=Range(1, 1024))
    sample_steps: int = option(
        "output", "DDIM steps of a preview (published: 50)", 50, range=Range(1, MOST_SAMPLE_STEPS)
    )
    sample_cfg: float = option(
        "output", "CFG of a preview (published: 9)", 9.0, range=Range(-100, 100)
    )

    def __post_init__(self) -> None:
        self._strip_paths()
        for item in fields(self):
            check_option(item, getattr(self, item.name))
        for name, value in self.host_options.items():
            check_host_number(name, value)
        self._check_warmup()
        self._check_batch()
        self._check_sizes()
        self.check_separator()
        self.check_schedule()

    def _check_batch(self) -> None:
        pairs = self.train_batch_size * self.gradient_accumulation_steps
        if pairs > MOST_PAIRS_OF_A_STEP:
            raise ConfigError(
                f"--train_batch_size {self.train_batch_size} times --gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps} is {pairs}; expected at most "
                f"{MOST_PAIRS_OF_A_STEP} pairs a step."
            )

    def _check_sizes(self) -> None:
        """--resolution, and the buckets around it."""
        size = self.size
        if not self.enable_bucket:
            return
        low, high, step = self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps
        if step % 8:
            raise ConfigError(f"--bucket_reso_steps is {step}; expected a multiple of 8.")
        if not low <= min(size) <= max(size) <= high:
            raise ConfigError(
                f"--resolution {self.resolution} is not between --min_bucket_reso {low} and "
                f"--max_bucket_reso {high}; change one of them."
            )

    def _check_warmup(self) -> None:
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ConfigError(
                "--lr_warmup_steps has no effect with --lr_scheduler constant; use "
                "constant_with_warmup."
            )

    def _strip_paths(self) -> None:
        """Blanks at the ends of a path are a slip of copy and paste."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Path):
                if "\0" in str(value):
                    raise ConfigError(f"--{name} is {shown(str(value))}; no path has a null in it.")
                object.__setattr__(self, name, Path(str(value).strip()))

    @property
    def warmup_steps(self) -> int:
        """`lr_warmup_steps` as a number of steps."""
        share = self.lr_warmup_steps < 1
        return int(self.lr_warmup_steps * (self.max_train_steps if share else 1))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        try:
            numbers = [int(part) for part in self.resolution.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or any(not 8 <= n <= LARGEST_SIDE or n % 8 for n in numbers):
            raise ConfigError(
                f"--resolution is {shown(self.resolution)}; expected SIZE or WIDTH,HEIGHT in "
                f"pixels, multiples of 8 up to {LARGEST_SIDE}, such as 384 or 512,384."
            )
        return numbers[0], numbers[-1]

    @property
    def cache_dir(self) -> Path:
        """What later runs find, beside the output folder."""
        return self.output_dir.parent / ".siamese_cache"

    def resolved_recipe(self) -> Recipe:
        """The named recipe, with the fields that have a flag of their own replaced."""
        changed = {n: getattr(self, n) for n in RECIPE_CHOICES if getattr(self, n) is not None}
        return replace(RECIPES[self.recipe], **changed)

    def to_json(self) -> str:
        values = asdict(self)
        values |= values.pop("host_options")
        return json.dumps(values, indent=2, default=str)
