"""Public datasets as they unpack, with all their files, in pictures of a few pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 24
# Frames of CVC-ClinicDB that the test set of PraNet holds here; the real list is its own.
POLYPS_TEST_FRAMES = range(5, 615, 10)


def photo(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A picture of its own for each number below 4096, also as JPEG: its bits, black and white."""
    bits = np.array([number >> bit & 1 for bit in range(12)], np.uint8).reshape(3, 4)
    blocks = Image.fromarray(bits * 255).resize(size, Image.Resampling.NEAREST)
    return blocks.convert("RGB")


def lesion(number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """A rectangle (H, W) of 255 on 0 that does not keep to JPEG's blocks of 8."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[3 : 9 + number % 9, 5:19] = 255
    return mask


def save(path: Path, picture: Image.Image | np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, quality=80) if path.suffix == ".jpg" else image.save(path)
    return path


def pairs(images: Path, masks: Path, names: Iterable[str], first: int = 0) -> None:
    """images, masks: paths with {} for the name."""
    for number, name in enumerate(names, start=first):
        save(Path(str(images).format(name)), photo(number))
        save(Path(str(masks).format(name)), lesion(number))


def kvasir_seg(folder: Path) -> Path:
    names = [f"cju{number:04}" for number in range(1000)]
    base = folder / "Kvasir-SEG"
    pairs(base / "images/{}.jpg", base / "masks/{}.jpg", names)
    (base / "kavsir_bboxes.json").write_text("{}", encoding="utf-8")
    return folder


def cvc_clinicdb(folder: Path, kind: str = "tif") -> Path:
    """kind: tif, as published, or png, in the folders of the PNG edition."""
    base = folder / "CVC-ClinicDB" if kind == "tif" else folder / "archive" / "PNG"
    names = [str(number) for number in range(1, 613)]
    pairs(base / f"Original/{{}}.{kind}", base / f"Ground Truth/{{}}.{kind}", names)
    return folder


def polyps(folder: Path) -> Path:
    frames = [str(n) for n in range(1, 613) if n not in POLYPS_TEST_FRAMES][:550]
    names = [*frames, *(f"cju{number:04}" for number in range(900))]
    train = folder / "TrainDataset"
    pairs(train / "image/{}.png", train / "masks/{}.png", names)
    held_out = [str(n) for n in range(1, 613) if str(n) not in frames]
    tests = {
        "CVC-300": [str(number) for number in range(149, 209)],
        "CVC-ClinicDB": held_out,
        "CVC-ColonDB": [str(number) for number in range(1, 381)],
        "ETIS-LaribPolypDB": [str(number) for number in range(1, 197)],
        "Kvasir": [f"cju{number:04}" for number in range(900, 1000)],
    }
    first = len(names)
    for name, stems in tests.items():
        base = folder / "TestDataset" / name
        pairs(base / "images/{}.png", base / "masks/{}.png", stems, first)
        first += len(stems)
    return folder


def isic2016(folder: Path) -> Path:
    return _isic(
        folder,
        "_Segmentation",
        {
            ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth"): 900,
            ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"): 379,
        },
    )


def isic2018(folder: Path) -> Path:
    return _isic(
        folder,
        "_segmentation",
        {
            ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"): 2594,
            ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"): 100,
            ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"): 1000,
        },
    )


def _isic(folder: Path, ending: str, parts: dict[tuple[str, str], int]) -> Path:
    first = 0
    for (images, masks), count in parts.items():
        names = [f"ISIC_{number:07}" for number in range(first, first + count)]
        # "Extract all" puts an archive's folder into one of the same name.
        pairs(
            folder / images / images / "{}.jpg", folder / masks / f"{{}}{ending}.png", names, first
        )
        (folder / images / images / "ATTRIBUTION.txt").write_text("", encoding="utf-8")
        first += count
    return folder


def folders(folder: Path, count: int = 20) -> Path:
    pairs(folder / "images/{}.png", folder / "masks/{}.png", [f"p{n}" for n in range(count)])
    for number in range(count):
        (folder / f"images/p{number}.txt").write_text(f"caption {number}", encoding="utf-8")
    return folder


# Sources of BBBC038: id -> size, and the rectangles (left, top, right, bottom) of its nuclei.
SOURCES = {
    "aaaaaaaa00": ((256, 256), [(10, 10, 60, 60), (50, 50, 90, 80)]),
    "bbbbbbbb00": ((300, 280), [(100, 100, 130, 150)]),
    "cccccccc00": ((520, 300), [(0, 0, 200, 200), (400, 30, 500, 90)]),
}
TILES = """\
source,index,split,modality,x,y,group,digest
aaaaaaaa,0,train,fluorescence,0,0,aaaaaaaa,00000000
bbbbbbbb,0,val,histology,40,20,bbbbbbbb,00000000
cccccccc,0,test,brightfield,0,10,cccccccc,00000000
cccccccc,1,test,brightfield,260,10,cccccccc,00000000
"""


def bbbc038(folder: Path) -> Path:
    for number, (name, (size, nuclei)) in enumerate(SOURCES.items()):
        base = folder / "stage1_train" / name
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 4))
        save(base / f"images/{name}.png", noise.astype(np.uint8))  # RGBA, as published
        for index, (left, top, right, bottom) in enumerate(nuclei):
            mask = np.zeros((size[1], size[0]), np.uint8)
            mask[top:bottom, left:right] = 255
            save(base / f"masks/nucleus{index}.png", mask)
    return folder


BUILDERS = {
    "polyps": polyps,
    "kvasir-seg": kvasir_seg,
    "cvc-clinicdb": cvc_clinicdb,
    "isic2016": isic2016,
    "isic2018": isic2018,
    "bbbc038": bbbc038,
    "folders": folders,
}
