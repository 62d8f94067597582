"""sd-scripts' flags beyond TrainConfig's: those that its host takes, and those that are refused.

What it calls by another name is in aliases.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...config import TrainConfig
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
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}

# Values that say the same as no flag: sd-scripts' defaults, and what does nothing there either.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "adaptive_noise_scale": (0,),
    "caption_dropout_every_n_epochs": (0,),
    "clip_skip": (1,),
    "dynamo_backend": ("inductor", "no"),
    "lr_decay_steps": (0,),
    "lr_scheduler_num_cycles": (1,),
    "lr_scheduler_power": (1,),
    "max_timestep": (1000,),
    "max_token_length": (75,),
    "min_snr_gamma": (0,),
    "min_timestep": (0,),
    "multires_noise_discount": (0.3,),
    "multires_noise_iterations": (0,),
    "noise_offset": (0,),
    "sample_sampler": ("ddim",),
    "token_warmup_min": (1,),
    "v_pred_like_loss": (0,),
    "vae_batch_size": (1,),
    "zero_stage": (0, 2),
}
# Flags that only have an effect beside another.
NEEDS = {
    "adaptive_noise_scale": "noise_offset",
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


def by_flag(words: Sequence[str]) -> dict[str, Any]:
    """Words of the command line by the flag that they follow; of one given twice the last.

    True for a flag alone, a list of several words; words before all flags are those of "".
    """
    found: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = [value] if equals else []
        else:
            found.setdefault(name, []).append(word)
    return {
        name: values if len(values) > 1 else [*values, True][0] for name, values in found.items()
    }


def is_off(name: str, value: Any) -> bool:
    """Whether a flag of sd-scripts is as if it were not there; its value may be text still."""
    if name not in REFUSED and name not in KNOWN and name not in HOST_FLAGS:
        return False
    if isinstance(value, (bool, list)):
        return not value
    if value == "" or (name in KNOWN and not value):
        return True
    with suppress(TypeError, ValueError, OverflowError):  # text, or whatever a file may hold
        value = float(value)
    return value in NEUTRAL.get(name, ())


def without_effect(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    """Flags of sd-scripts' host that do nothing beside the others, and what each of them is for."""
    found = {}
    schedule = ours.get("lr_scheduler", TrainConfig.lr_scheduler)
    for name in theirs:
        schedules = SCHEDULE_FLAGS.get(name, ())
        if NEEDS.get(name, name) not in theirs:
            found[name] = NEEDS[name]
        elif schedules and ("lr_scheduler_type" in theirs or schedule not in schedules):
            found[name] = ", ".join(schedules)
    return found


def refuse(names: Sequence[str], where: str = "") -> None:
    """Raise ConfigError naming those of `names` that have no effect here, and why."""
    refused = [name for name in names if name in REFUSED]
    if refused:
        reasons = "".join(f"\n  --{name}: {REFUSED[name]}." for name in refused)
        raise ConfigError(f"{where}flags of sd-scripts that would mean another training:{reasons}")
