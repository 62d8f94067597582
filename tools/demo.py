"""The whole product on made-up data, without any download: `make demo`.

Makes image-mask pairs and a nano Stable Diffusion, trains a Siamese model on them, runs the
workflow in a real ComfyUI on masks that training never saw, and measures whether the lesions are
where the masks say. Finished stages are kept in demo_output/ and reused; --fresh starts over.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..common.pairs import Pair
from ..common.pictures import read_image, read_mask
from ..common.prompt_jsonl import read_prompt_jsonl
from .comfy_host import ROOT, ComfyHost, HostError
from .pairs import Bools, Bytes, find_lesion, iou, write_pairs
from .picture_sheet import contact_sheet
from .stages import Stage, Stages

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OUTPUT = ROOT / "demo_output"
WORKFLOW = "1_mask_to_image"
WORKFLOW_API = ROOT / "workflows" / "api" / f"{WORKFLOW}.json"
BASE_NAME = "nano_sd15.safetensors"
BUNDLE_NAME = "siamese_demo.safetensors"
MASK_NAME = "demo_mask_{:02}.png"
REQUIRED_IOU = 0.6
SHUFFLED_LIMIT = 0.25


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What two CPU cores do in under 15 minutes; a change makes old stages start over."""

    size: int = 64  # pixels
    train_pairs: int = 256
    test_masks: int = 16
    base_steps: int = 200
    steps: int = 240
    batch: int = 8
    learning_rate: float = 4e-4
    sampling_steps: int = 20
    cfg: float = 9.0


class Demo:
    """The stages, each a method that keeps what an earlier run has finished."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.host = ComfyHost(folder / "comfyui")
        self.train, self.test = folder / "pairs" / "train", folder / "pairs" / "test"
        self.base = self.host.models / "checkpoints" / BASE_NAME
        self.bundle = self.host.models / "controlnet" / BUNDLE_NAME
        # Measured on two cores: 172 s for the base, 571 s for all that follows.
        self.stages = Stages(
            [
                Stage("image-mask pairs", 2),
                Stage(f"nano base model, {settings.base_steps} steps", 172, self.base.is_file),
                Stage(f"Siamese model, {settings.steps} steps", 510, self.bundle.is_file),
                Stage(f"sampling {settings.test_masks} unseen masks in ComfyUI", 60),
                Stage("do the lesions follow the masks?", 1),
            ]
        )

    def run(self) -> bool:
        """All stages; True when the figures are good enough."""
        with self.stages.next():
            self.make_pairs()
        with self.stages.next():
            self.make_base()
        with self.stages.next():
            self.train_siamese()
        with self.stages.next():
            images = self.sample()
        with self.stages.next():
            return self.report(images)

    # Stages

    def make_pairs(self) -> None:
        """Pairs to train on, and others to sample."""
        settings = self.settings
        write_pairs(self.train, settings.train_pairs, settings.size, seed=0)
        write_pairs(self.test, settings.test_masks, settings.size, seed=1)
        print(f"{settings.train_pairs} pairs in {self.train}")
        print(f"{settings.test_masks} pairs in {self.test}, not used in training")

    def make_base(self) -> None:
        """The stand-in for Stable Diffusion."""
        if self.base.is_file():
            print(f"kept: {self.base}")
            return
        from .base_training import BaseTraining
        from .nano import build_nano  # diffusers and transformers take seconds to import

        settings = self.settings
        build_nano(
            self.base,
            pairs=self.train / "prompt.jsonl",
            training=BaseTraining(settings.base_steps),
            resolution=settings.size,
        )
        print(self.base)

    def train_siamese(self) -> None:
        """Run train_siamese.py as a user would, and put its bundle where ComfyUI looks."""
        if self.bundle.is_file():
            print(f"kept: {self.bundle}")
            return
        settings, run = self.settings, self.folder / "run"
        flags = {
            "host": "standalone",  # sd-scripts does not know the tiny autoencoder
            "pretrained_model_name_or_path": self.base,
            "train_data": self.train / "prompt.jsonl",
            "output_dir": run,
            "output_name": self.bundle.stem,
            "resolution": settings.size,
            "train_batch_size": settings.batch,
            "max_train_steps": settings.steps,
            "learning_rate": settings.learning_rate,
            "lr_scheduler": "cosine",
            "lr_warmup_steps": 20,
            "max_grad_norm": 1,
            "sample_every_n_steps": 0,
            "sample_steps": 20,
        }
        command = [sys.executable, str(ROOT / "training" / "train_siamese.py")]
        for name, value in flags.items():
            command += [f"--{name}", str(value)]
        print(shlex.join(command), flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise DemoError("train_siamese.py failed; its message is above.")
        self.bundle.parent.mkdir(parents=True, exist_ok=True)
        (run / BUNDLE_NAME).replace(self.bundle)

    def sample(self) -> list[Bytes]:
        """Images (size, size, 3) of the test masks, in their order."""
        self.place_files()
        images = []
        with self.host as host:
            for number in tqdm(range(self.settings.test_masks), desc="sampling", unit="image"):
                (path,) = host.images(host.run(self.prompt(number)))
                images.append(read_image(path))
        return images

    def place_files(self) -> None:
        """Put the masks where ComfyUI looks, and all that the workflow names under those names.

        The page then runs it as it is.
        """
        self.host.provision()
        for number, pair in enumerate(self.test_pairs()):
            shutil.copy(pair.mask, self.host.input / MASK_NAME.format(number))
        prompt = read_prompt()
        for class_type, name, file in (
            ("CheckpointLoaderSimple", "ckpt_name", self.base),
            ("SiameseBundleLoader", "bundle_name", self.bundle),
            ("LoadImageMask", "image", self.host.input / MASK_NAME.format(0)),
        ):
            for inputs in find_inputs(prompt, class_type, name):
                link = file.with_name(inputs[name])
                link.unlink(missing_ok=True)
                link.symlink_to(file.name)

    def test_pairs(self) -> list[Pair]:
        return read_prompt_jsonl(self.test / "prompt.jsonl").pairs

    def prompt(self, number: int) -> dict[str, Any]:
        """The workflow's API form for test mask `number`."""
        settings = self.settings
        values: dict[str, dict[str, Any]] = {
            "LoadImageMask": {"image": MASK_NAME.format(number), "channel": "red"},
            "SiameseSampler": {
                "seed": number,
                "steps": settings.sampling_steps,
                "cfg": settings.cfg,
            },
            "SaveImage": {"filename_prefix": "demo/siamese"},
        }
        return patch_prompt(read_prompt(), values)

    def report(self, images: Sequence[Bytes]) -> bool:
        """Print and write the figures, and the contact sheet."""
        pairs = self.test_pairs()
        real = [read_image(pair.image) for pair in pairs]
        masks = [read_mask(pair.mask) for pair in pairs]
        found = [find_lesion(image) for image in images]
        figures = {
            "iou": mean_iou(masks, found),
            "ceiling": mean_iou(masks, [find_lesion(image) for image in real]),
            "shuffled": shuffled_iou(masks, found),
        }
        good = figures["iou"] >= REQUIRED_IOU and figures["shuffled"] < SHUFFLED_LIMIT
        sheet = self.folder / "contact_sheet.png"
        pictures = {"mask": masks, "sampled": images, "lesion found": found}
        contact_sheet(pictures).save(sheet)
        seconds = round(self.stages.seconds)
        results = self.folder / "results.json"
        results.write_text(
            json.dumps({**figures, "seconds": seconds, "settings": asdict(self.settings)}, indent=2)
        )
        print(f"images:        {self.host.output / 'demo'}")
        print(f"contact sheet: {sheet} (mask | sampled | lesion found)")
        print(f"training:      {self.folder / 'run'} (loss curves, preview)")
        print(f"results:       {results}")
        print(
            f"mean IoU of mask and lesion found: {figures['iou']:.2f} (needed: {REQUIRED_IOU}); "
            f"in real images: {figures['ceiling']:.2f}; with shuffled masks: "
            f"{figures['shuffled']:.2f} (needed: below {SHUFFLED_LIMIT}); {seconds} s in all"
        )
        return good


def read_prompt() -> dict[str, Any]:
    """The workflow's API form, as it is shipped."""
    prompt: dict[str, Any] = json.loads(WORKFLOW_API.read_text("utf-8"))
    return prompt


def patch_prompt(prompt: dict[str, Any], values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Set inputs by node class. Raises DemoError for a class or input that the prompt lacks."""
    for class_type, wanted in values.items():
        for inputs in find_inputs(prompt, class_type, *wanted):
            inputs.update(wanted)
    return prompt


def find_inputs(prompt: dict[str, Any], class_type: str, *names: str) -> list[dict[str, Any]]:
    """Inputs of each node of a class. Raises DemoError without a node or one of the inputs."""
    found = [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]
    if not found:
        raise DemoError(f"{WORKFLOW_API}: has no node {class_type}.")
    for inputs in found:
        if missing := set(names) - set(inputs):
            raise DemoError(f"{WORKFLOW_API}: {class_type} has no input {sorted(missing)}.")
    return found


def mean_iou(masks: Sequence[Bools], found: Sequence[Bools]) -> float:
    return float(np.mean([iou(a, b) for a, b in zip(masks, found, strict=True)]))


def shuffled_iou(masks: Sequence[Bools], found: Sequence[Bools]) -> float:
    """Mean IoU of every lesion found with every mask but its own."""
    values = [iou(a, b) for i, a in enumerate(masks) for j, b in enumerate(found) if i != j]
    return float(np.mean(values))


def prepare_folder(folder: Path, settings: DataclassInstance, fresh: bool) -> None:
    """Make the folder; what a run with other settings left there is removed."""
    stamp = folder / "settings.json"
    text = json.dumps(asdict(settings), indent=2)
    known = stamp.read_text("utf-8") if stamp.is_file() else None
    if folder.is_dir() and (fresh or known != text):
        if known is None and any(folder.iterdir()):
            raise DemoError(f"{folder} is not a folder of this command: move it away.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(text, "utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 when the figures are reached, 1 when not, 2 when a stage failed."""
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="start over")
    arguments = parser.parse_args(argv)
    settings = Settings()
    try:
        prepare_folder(OUTPUT, settings, arguments.fresh)
        demo = Demo(OUTPUT, settings)
        good = demo.run()
    except (DemoError, HostError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("Good." if good else "NOT reached.")
    print("The same ComfyUI, weights and workflow in a browser:")
    serve = [sys.executable, "-m", "siamese_diffusion.tools.comfy_host"]
    print(shlex.join([*serve, "--base", str(demo.host.base), "--workflow", WORKFLOW]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
