"""What a run writes into its weights' metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from ...models.metadata import SiameseMetadata
from ...models.recipe import Recipe
from ..config import TrainConfig
from ..hosts.interface import Host
from ..method.base_model import BaseModel

# Names of projects and runs in their trackers.
PRIVATE = ("log_prefix", "log_tracker_name", "wandb_run_name")


def bundle_metadata(
    config: TrainConfig, host: Host, base: BaseModel, mask_classes: Mapping[str, str], step: int
) -> dict[str, str]:
    """Metadata of the weights after `step` steps, the host's own included."""
    theirs = host.metadata(config)
    recipe = config.resolved_recipe()
    metadata = SiameseMetadata(
        recipe=recipe,
        resolution=config.size,
        step=step,
        base_hash=base.base_hash,
        context_dim=base.shape.context_dim,
        mask_classes=mask_classes,
        prediction_type=base.prediction,
        title=theirs.get("modelspec.title", config.output_name),
        host=host.name,
    )
    published = config_to_publish(config, recipe)
    strings = {**theirs, **metadata.to_strings(), "siamese.config": published}
    return strings | (_lora_strings(config) if config.network_dim else {})


def _lora_strings(config: TrainConfig) -> dict[str, str]:
    """What tools that show LoRA files look for."""
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.network_dim),
        "ss_network_alpha": str(config.rank_alpha),
    }


def config_to_publish(config: TrainConfig, recipe: Recipe) -> str:
    """The configuration as JSON; not the folders and secrets of whoever trained it."""
    values = asdict(config)
    options = values.pop("host_options")
    options.pop("vae", None)  # a file of theirs
    for name in PRIVATE:
        values.pop(name)
    plain = {k: v for k, v in values.items() if isinstance(v, (str, int, float, tuple))}
    return json.dumps({**plain, **options, **asdict(recipe)})
