"""What a ComfyUI graph shows."""
