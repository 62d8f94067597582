"""The ComfyUI nodes: node classes in *_nodes.py, what they do in the other modules."""
