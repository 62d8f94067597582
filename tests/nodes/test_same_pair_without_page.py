"""The node and siamese-synthesize make the same pair."""

from __future__ import annotations

import numpy as np
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.synthesis.synthesize import main
from siamese_diffusion.tools.comfy_host import ComfyHost
from support.workflow_prompts import CAPTION, MERGED, dataset_prompt, files, pixels, write_mask

pytest_plugins = ["support.comfy_inside", "support.served_models"]


def test_node_and_script_make_the_same_pairs(served: ComfyHost, folder: str) -> None:
    """Of masks of two sizes, in batches on both sides, with the prompt of the workflow."""
    write_mask(served.input / folder / "m4.png", (slice(0, 24), slice(16, 40)), width=48)
    prompt = dataset_prompt(folder, "page", images_per_mask=2, subfolders=True, batch_size=3)
    texts = [
        node["inputs"]["text"] for node in prompt.values() if node["class_type"] == "CLIPTextEncode"
    ]
    positive = next(text for text in texts if text)
    served.run(prompt)
    out = served.output / "script"
    sampling = prompt["make"]["inputs"]
    flags = {
        "checkpoint": served.models / "checkpoints" / MERGED, "masks": served.input / folder,
        "images_per_mask": 2, "prompt": positive, "output_dir": out, "batch_size": 4,
        "steps": sampling["steps"], "cfg": sampling["cfg"], "seed": sampling["seed"],
    }  # fmt: skip
    assert main([f"--{name}={value}" for name, value in flags.items()]) == 0
    page = served.output / "page"
    assert [pair.stem for pair in read_prompt_jsonl(out / "prompt.jsonl").pairs][:2] == [
        "m1_1", "m1_2",
    ]  # fmt: skip
    assert {pair.caption for pair in read_prompt_jsonl(page / "prompt.jsonl").pairs} == {CAPTION}
    pictures = [name for name in files(page) if name.endswith(".png")]
    assert pictures == [name for name in files(out) if name.endswith(".png")]
    assert len(pictures) == 20
    for name in pictures:
        difference = np.abs(pixels(page / name).astype(int) - pixels(out / name))
        assert difference.max() <= (2 if name.startswith("images") else 0), name
