"""sd-scripts' flags that say what a flag of ours says, what is so anyway, or nothing here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ....common.arguments import Parser
from ...config import TrainConfig
from ...errors import ConfigError

# A switch -> our flag and its value.
SWITCHES: dict[str, tuple[str, Any]] = {
    "debug_dataset": ("dry_run", True),
    "use_8bit_adam": ("optimizer_type", "AdamW8bit"),
    "use_lion_optimizer": ("optimizer_type", "Lion"),
}
RENAMED = {
    "caption_extention": "caption_extension",
    "save_last_n_epochs": "keep_last_n",
    "save_last_n_epochs_state": "keep_last_n",
}
# Their number of steps decides how many checkpoints are kept.
LAST_STEPS = ("save_last_n_steps", "save_last_n_steps_state")
COMPUTED = {*LAST_STEPS, "output_config", "save_n_epoch_ratio", "wandb_api_key"}

# What they ask for is always so.
ALWAYS_SO = frozenset(
    {
        "cache_latents",
        "cache_text_encoder_outputs",
        "cache_text_encoder_outputs_to_disk",
        "log_config",
        "mem_eff_attn",
        "persistent_data_loader_workers",
        "save_state",
        "save_state_on_train_end",
        "sdpa",
        "skip_cache_check",
        "use_safetensors",
        "v2",
    }
)
# Without a meaning here, and without an influence on what is learnt: one warning names those given.
NO_MEANING = frozenset(
    {
        "async_upload",
        "cache_info",
        "console_log_file",
        "console_log_level",
        "console_log_simple",
        "ddp_gradient_as_bucket_view",
        "ddp_static_graph",
        "ddp_timeout",
        "dynamo_backend",
        "fp8_base",
        "full_bf16",
        "full_fp16",
        "fused_backward_pass",
        "highvram",
        "huggingface_path_in_repo",
        "huggingface_repo_id",
        "huggingface_repo_type",
        "huggingface_repo_visibility",
        "huggingface_token",
        "log_tracker_config",
        "lowram",
        "metadata_is_negative_embedding",
        "metadata_merged_from",
        "metadata_preprocessor",
        "metadata_thumbnail",
        "metadata_trigger_phrase",
        "metadata_usage_hint",
        "sample_sampler",
        "save_state_to_huggingface",
        "token_warmup_min",
        "token_warmup_step",
        "vae_batch_size",
        "weighted_captions",
    }
)
# One of their values is what is done here; another would be something else.
ONE_VALUE = {
    "save_model_as": ("safetensors", "weights are saved as safetensors, which cannot run code"),
    "network_module": ("networks.lora", "low rank here is LoRA alone; see --network_dim"),
}
KNOWN = frozenset({*SWITCHES, *RENAMED, *COMPUTED, *ALWAYS_SO, *NO_MEANING, *ONE_VALUE})

_NUMBERS = {
    *LAST_STEPS, "save_last_n_epochs", "save_last_n_epochs_state", "save_n_epoch_ratio",
    "ddp_timeout", "vae_batch_size", "token_warmup_min",
}  # fmt: skip
_TEXTS = {
    "caption_extention", "console_log_file", "console_log_level", "dynamo_backend",
    "huggingface_path_in_repo", "huggingface_repo_id", "huggingface_repo_type",
    "huggingface_repo_visibility", "huggingface_token", "log_tracker_config",
    "metadata_is_negative_embedding", "metadata_merged_from", "metadata_preprocessor",
    "metadata_thumbnail", "metadata_trigger_phrase", "metadata_usage_hint", "network_module",
    "sample_sampler", "save_model_as", "wandb_api_key",
}  # fmt: skip
_FRACTIONS = {"token_warmup_step"}


def kind_of(name: str) -> type:
    """The type of a known flag's value; bool for a switch."""
    kinds = {int: _NUMBERS, str: _TEXTS, float: _FRACTIONS}
    return next((kind for kind, names in kinds.items() if name in names), bool)


def parse_aliases(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The known flags among the command line's words, and the other words."""
    parser = Parser(
        prog="train_siamese.py",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for name in sorted(KNOWN):
        kind = kind_of(name)
        if kind is bool:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=kind)
    found, others = parser.parse_known_args(words)
    return vars(found), others


def translate(theirs: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Our flags for those of sd-scripts; `values` are those of ours that are given.

    Raises ConfigError for two flags that say the same, and for a value that would mean another
    training.
    """
    ours: dict[str, Any] = {}

    def give(name: str, value: Any, source: str) -> None:
        if values.get(name, value) != value or ours.get(name, value) != value:
            raise ConfigError(f"--{source} and --{name} say different things; give one of them.")
        ours[name] = value

    for source, value in theirs.items():
        if source in SWITCHES and value:
            give(*SWITCHES[source], source)
        elif source == "caption_extention":
            give(RENAMED[source], value, source)
        elif source in ONE_VALUE and value != ONE_VALUE[source][0]:
            expected, reason = ONE_VALUE[source]
            raise ConfigError(f"--{source} is {value!r}; expected {expected}: {reason}.")
    if (kept := _kept(theirs, values)) is not None:
        give("keep_last_n", kept, "save_last_n_*")
    if "save_n_epoch_ratio" in theirs:
        give("save_every_n_epochs", _interval(theirs, values), "save_n_epoch_ratio")
    if "logging_dir" in values and "log_with" not in values:
        ours["log_with"] = "tensorboard"
    if "wandb_api_key" in theirs:
        # wandb reads it there; it belongs neither in config.json nor in weights.
        os.environ["WANDB_API_KEY"] = theirs["wandb_api_key"]
    return ours


def _kept(theirs: Mapping[str, Any], values: Mapping[str, Any]) -> int | None:
    """How many checkpoints --save_last_n_* keep: states and weights alike, so the larger number."""
    counts = [value for name, value in theirs.items() if RENAMED.get(name) == "keep_last_n"]
    steps = [theirs[name] for name in LAST_STEPS if name in theirs]
    if steps and "save_every_n_epochs" in values:
        raise ConfigError(
            "--save_last_n_steps: checkpoints are saved by epochs; use --save_last_n_epochs."
        )
    default = TrainConfig.save_every_n_steps
    every = values.get("save_every_n_steps", default)
    if every:
        counts += [value // every + 1 for value in steps]  # as there: the last N steps and this one
    return max(counts, default=None)


def _interval(theirs: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """Epochs between checkpoints for --save_n_epoch_ratio of them."""
    epochs = values.get("max_train_epochs")
    if epochs is None:
        raise ConfigError(
            "--save_n_epoch_ratio: needs --max_train_epochs; or use --save_every_n_steps."
        )
    return max(1, epochs // max(1, theirs["save_n_epoch_ratio"]))
