"""sd-scripts' flags beyond TrainConfig's: those that its host takes, and those that are refused.

What it calls by another name is in aliases.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ConfigError
from .aliases import KNOWN

# With an effect here, where sd-scripts is the host.
HOST_FLAGS = frozenset(
    {
        "adaptive_noise_scale",
        "clip_skip",
        "debiased_estimation_loss",
        "lr_decay_steps",
        "lr_scheduler_args",
        "lr_scheduler_min_lr_ratio",
        "lr_scheduler_num_cycles",
        "lr_scheduler_power",
        "lr_scheduler_timescale",
        "lr_scheduler_type",
        "max_timestep",
        "max_token_length",
        "metadata_author",
        "metadata_description",
        "metadata_license",
        "metadata_tags",
        "metadata_title",
        "min_snr_gamma",
        "min_timestep",
        "multires_noise_discount",
        "multires_noise_iterations",
        "noise_offset",
        "noise_offset_random_strength",
        "scale_v_pred_loss_like_noise_pred",
        "v_pred_like_loss",
        "vae",
    }
)

# Another training than the one that was asked for, by what to say to those who ask.
_REASONS = {
    "latents are cached, so images cannot change from step to step; use --flip_aug": (
        "color_aug face_crop_aug_range random_crop"
    ),
    "captions are dropped at random; use --caption_dropout_rate": "caption_dropout_every_n_epochs",
    "text embeddings are cached; write the variants as captions of their own": (
        "enable_wildcard secondary_separator keep_tokens_separator"
    ),
    "images are resized linearly, masks by nearest neighbour": "resize_interpolation",
    "datasets are prompt.jsonl files, two folders or a --dataset_config": "dataset_class in_json",
    "the mask is the condition here, not a weight of the loss": "alpha_mask masked_loss",
    "the ControlNet begins as a copy of the base model's encoder": "controlnet_model_name_or_path",
    "low rank here is LoRA alone; use --network_dim and --network_alpha": (
        "network_args network_weights"
    ),
    "the text encoder stays as it is": "train_text_encoder",
    "nothing is downloaded; use huggingface-cli, then --resume": "resume_from_huggingface",
    "choose DeepSpeed with accelerate launch": (
        "deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path "
        "offload_param_device offload_param_nvme_path zero3_init_flag zero3_save_16bit_model "
        "fp16_master_weights_and_gradients"
    ),
    "every run writes its configuration to output_dir/config.json; leave it out": "output_config",
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}

# sd-scripts' defaults that are more than "off", of what is refused or has no meaning here.
DEFAULTS = {
    "dynamo_backend": "inductor",
    "sample_sampler": "ddim",
    "token_warmup_min": 1,
    "vae_batch_size": 1,
    "zero_stage": 2,
}
# Flags that only have an effect beside another.
NEEDS = {
    "multires_noise_discount": "multires_noise_iterations",
    "noise_offset_random_strength": "noise_offset",
}
# Flags of the learning rate, by the schedules that read them.
SCHEDULE_FLAGS = {
    "lr_decay_steps": ("warmup_stable_decay",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_num_cycles": (
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "warmup_stable_decay",
    ),
    "lr_scheduler_power": ("polynomial",),
    "lr_scheduler_timescale": ("inverse_sqrt",),
}


def is_off(name: str, value: Any) -> bool:
    """Whether a flag of sd-scripts in a file is as if it were not there."""
    if name in REFUSED or name in KNOWN:
        return not value or DEFAULTS.get(name) == value
    return name in HOST_FLAGS and not value


def refuse(names: Sequence[str], where: str = "") -> None:
    """Raise ConfigError naming those of `names` that have no effect here, and why."""
    refused = [name for name in names if name in REFUSED]
    if refused:
        reasons = "".join(f"\n  --{name}: {REFUSED[name]}." for name in refused)
        raise ConfigError(f"{where}flags of sd-scripts that would mean another training:{reasons}")
