"""For development only: a real ComfyUI host, nano models, the demo."""
