"""The nodes that ComfyUI registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .conditioning import SiameseApplyMask
from .dataset import SiameseLoadMaskFolder, SiameseSavePairs
from .loaders import SiameseBundleLoader, SiameseCheckpointLoader
from .mask_nodes import SiameseAugmentMask, SiameseRandomMask
from .model_info import SiameseModelInfo
from .picture_nodes import SiameseContactSheet, SiameseFilterPairs, SiameseOverlay
from .sampler import SiameseSampler
from .synthesize import SiameseSynthesizeDataset


class SiameseExtension(ComfyExtension):
    """ComfyUI asks it once, at start-up."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            SiameseCheckpointLoader,
            SiameseBundleLoader,
            SiameseModelInfo,
            SiameseApplyMask,
            SiameseSampler,
            SiameseLoadMaskFolder,
            SiameseSavePairs,
            SiameseSynthesizeDataset,
            SiameseAugmentMask,
            SiameseRandomMask,
            SiameseOverlay,
            SiameseContactSheet,
            SiameseFilterPairs,
        ]
