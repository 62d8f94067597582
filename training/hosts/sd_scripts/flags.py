"""sd-scripts' flags beyond TrainConfig's: those that its host takes, and those that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ConfigError

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

# Without an effect on either host, by what to say to those who have them in their commands.
_REASONS = {
    "is read from the checkpoint; leave it out": "v2",
    "PyTorch's scaled dot product attention is always used; leave it out": "sdpa",
    "use --xformers, or neither: PyTorch's own attention is as lean": "mem_eff_attn",
    "latents are always cached, batches are encoded as they fit; leave it out": (
        "cache_latents vae_batch_size"
    ),
    "caches are always checked; leave it out": "skip_cache_check",
    "text embeddings are cached, so captions cannot change from step to step": (
        "shuffle_caption keep_tokens keep_tokens_separator caption_separator secondary_separator "
        "enable_wildcard token_warmup_min token_warmup_step caption_tag_dropout_rate "
        "caption_dropout_every_n_epochs weighted_captions cache_text_encoder_outputs"
    ),
    "captions are read from .txt and .caption; leave it out": "caption_extension caption_extention",
    "set it in a --dataset_config": "caption_prefix caption_suffix",
    "set num_repeats in a --dataset_config": "dataset_repeats",
    "latents are cached, so images cannot change from step to step; use --flip_aug": (
        "color_aug face_crop_aug_range random_crop"
    ),
    "images are resized linearly, masks by nearest neighbour": "resize_interpolation",
    "buckets always scale images to their size; use --min_bucket_reso": "bucket_no_upscale",
    "datasets are prompt.jsonl files, two folders or a --dataset_config": "dataset_class in_json",
    "the mask is the condition here, not a weight of the loss": "alpha_mask masked_loss",
    "use --dry_run": "debug_dataset",
    "file sizes and captions are read anew at each start; leave it out": "cache_info",
    "images are read by threads; leave it out": (
        "max_data_loader_n_workers persistent_data_loader_workers"
    ),
    "this trains a ControlNet and the UNet's decoder, nothing else": (
        "network_module network_dim network_alpha network_args network_weights "
        "train_text_encoder controlnet_model_name_or_path"
    ),
    "weights are saved as float32 safetensors, as they are trained": (
        "save_precision save_model_as use_safetensors"
    ),
    "training is counted in steps; use --max_train_steps": "max_train_epochs",
    "training is counted in steps; use --save_every_n_steps": (
        "save_every_n_epochs save_n_epoch_ratio"
    ),
    "use --keep_last_n": (
        "save_last_n_epochs save_last_n_epochs_state save_last_n_steps save_last_n_steps_state"
    ),
    "a state is always saved with the weights; leave it out": "save_state save_state_on_train_end",
    "nothing is uploaded; use huggingface-cli": (
        "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token "
        "huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface async_upload"
    ),
    "previews show pairs of the dataset; use --sample_every_n_steps, --sample_count, "
    "--sample_steps and --sample_cfg": (
        "sample_at_first sample_every_n_epochs sample_prompts sample_sampler"
    ),
    "logs are written to output_dir/logs; use --log_with": (
        "logging_dir log_prefix log_tracker_name log_tracker_config log_config "
        "console_log_level console_log_file console_log_simple"
    ),
    "use wandb's own environment variables": "wandb_run_name wandb_api_key",
    "the losses are mean squared errors, as published": (
        "loss_type huber_schedule huber_c huber_scale"
    ),
    "the image branch's own augmentation takes its place": (
        "ip_noise_gamma ip_noise_gamma_random_strength"
    ),
    "sampling in ComfyUI uses Stable Diffusion's own noise schedule": "zero_terminal_snr",
    "use --optimizer_type": "use_8bit_adam use_lion_optimizer",
    "weights and gradients stay float32; use --mixed_precision": "full_fp16 full_bf16 fp8_base",
    "is for SDXL and later models": "fused_backward_pass",
    "models are loaded to RAM and moved part by part; leave it out": "lowram highvram",
    "gradients are added up without DDP; leave it out": (
        "ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph"
    ),
    "--torch_compile uses PyTorch's default backend": "dynamo_backend",
    "choose DeepSpeed with accelerate launch": (
        "deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path "
        "offload_param_device offload_param_nvme_path zero3_init_flag zero3_save_16bit_model "
        "fp16_master_weights_and_gradients"
    ),
    "every run writes its configuration to output_dir/config.json; leave it out": "output_config",
    "is not written to a bundle": (
        "metadata_usage_hint metadata_thumbnail metadata_merged_from metadata_trigger_phrase "
        "metadata_preprocessor metadata_is_negative_embedding"
    ),
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}

# Of those, sd-scripts' defaults that are more than "off": its --output_config writes them all.
DEFAULTS = {
    "caption_extension": ".caption",
    "caption_separator": ",",
    "dataset_repeats": 1,
    "dynamo_backend": "inductor",
    "huber_c": 0.1,
    "huber_scale": 1.0,
    "huber_schedule": "snr",
    "loss_type": "l2",
    "max_data_loader_n_workers": 8,
    "sample_sampler": "ddim",
    "save_model_as": "safetensors",
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
    if name in REFUSED:
        return not value or DEFAULTS.get(name) == value
    return name in HOST_FLAGS and not value


def refuse(names: Sequence[str], where: str = "") -> None:
    """Raise ConfigError naming those of `names` that have no effect here, and why."""
    refused = [name for name in names if name in REFUSED]
    if refused:
        reasons = "".join(f"\n  --{name}: {REFUSED[name]}." for name in refused)
        raise ConfigError(f"{where}flags of sd-scripts that have no effect here:{reasons}")
