"""The DHI network, recipes and weight files: no ComfyUI, no diffusers."""
