"""The nodes that ComfyUI registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .conditioning_nodes import SiameseApplyMask
from .dataset_nodes import SiameseLoadMaskFolder, SiameseSavePairs
from .loader_nodes import SiameseBundleLoader, SiameseCheckpointLoader
from .mask_nodes import SiameseAugmentMask, SiameseRandomMask, SiameseSoftenMask
from .model_info_nodes import SiameseModelInfo
from .picture_nodes import SiameseContactSheet, SiameseFilterPairs, SiameseOverlay
from .sampler_nodes import SiameseSampler
from .synthesize_nodes import SiameseSynthesizeDataset


class SiameseExtension(ComfyExtension):
    """ComfyUI asks it for the nodes once, when it starts."""

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
            SiameseSoftenMask,
            SiameseOverlay,
            SiameseContactSheet,
            SiameseFilterPairs,
        ]
