"""Siamese-Diffusion for ComfyUI: turns segmentation masks into matching medical images.

Importing this module is cheap: nodes load when ComfyUI asks for them, training never does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes.extension import SiameseExtension

WEB_DIRECTORY = "./web"
__version__ = "0.1.0"


async def comfy_entrypoint() -> SiameseExtension:
    """Called by ComfyUI once at start-up."""
    from .nodes.extension import SiameseExtension

    return SiameseExtension()
