"""Colonoscopy: Kvasir-SEG, CVC-ClinicDB, and PraNet's Polyps, which holds parts of both."""

from __future__ import annotations

from pathlib import Path

from .archive import find_pairs, match, named, not_found
from .items import Found, Item

# The authors' answer to which prompt to use (issue 4 of the published repository).
CAPTION = "A photo of a polyp."

KVASIR = (
    "Get kvasir-seg.zip from https://datasets.simula.no/kvasir-seg/, unpack it, and give the "
    "folder that holds images/ and masks/."
)
CLINIC = (
    "Get CVC-ClinicDB from https://polyp.grand-challenge.org/CVCClinicDB/, unpack it, and give "
    'the folder that holds "Original" and "Ground Truth" (TIFF, or the PNG edition).'
)
PRANET = (
    "Get the training and testing dataset (TrainDataset, TestDataset) from "
    "https://github.com/DengPingFan/PraNet, unpack both, and give the folder that holds them."
)

# The first frame of each of CVC-ClinicDB's 29 video sequences; frames are numbered 1 to 612.
SEQUENCE_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298),
    *(318, 343, 364, 384, 409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
FRAMES = 612

TEST_SETS = {"CVC-300": 60, "CVC-ClinicDB": 62, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196}
TEST_SETS["Kvasir"] = 100


def read_kvasir_seg(root: Path) -> Found:
    """Kvasir-SEG: 1000 images and masks, both JPEG. Nothing says which share a patient."""
    folders = next(find_pairs(root, ("images",), ("masks",)), None)
    if folders is None:
        raise not_found("Kvasir-SEG", root, ["images/ and masks/, side by side"], KVASIR)
    found = Found()
    for stem, image, mask in match(found, *folders, expected=1000):
        found.items.append(Item(stem, image, (mask,), CAPTION, group=stem))
    found.notes.append("Kvasir-SEG names no patients: each image counts as a group of its own.")
    return found


def read_cvc_clinicdb(root: Path) -> Found:
    """CVC-ClinicDB: 612 frames; those of a sequence show one polyp and are a group."""
    folders = next(find_pairs(root, ("original",), ("ground truth",)), None)
    if folders is None:
        missing = ["Original/ and Ground Truth/, side by side"]
        raise not_found("CVC-ClinicDB", root, missing, CLINIC)
    found = Found()
    for stem, image, mask in match(found, *folders, expected=FRAMES):
        group = sequence(stem)
        if group is None:
            found.problems.append(f"{image}: its name is not a frame number from 1 to {FRAMES}")
        else:
            found.items.append(Item(f"{int(stem):03}", image, (mask,), CAPTION, group))
    return found


def sequence(stem: str) -> str | None:
    """The video sequence of a CVC-ClinicDB frame, "sequence_01" to "sequence_29"."""
    if not stem.isdecimal() or not 1 <= int(stem) <= FRAMES:
        return None
    number = sum(start <= int(stem) for start in SEQUENCE_STARTS)
    return f"sequence_{number:02}"


def read_polyps(root: Path) -> Found:
    """PraNet's 1450 training pairs and five test sets: what the paper calls Polyps."""
    names = ("TrainDataset", *TEST_SETS)
    sets = {name: _set(root, name) for name in names}
    missing = [f"{name}/ with images/ and masks/" for name in names if sets[name] is None]
    if missing:
        raise not_found("the Polyps dataset of PraNet", root, missing, PRANET)
    found = Found()
    for name, folders in sets.items():
        if folders is not None:
            _add_polyps(found, name, *folders)
    return found


def _set(root: Path, name: str) -> tuple[Path, Path] | None:
    """images/ and masks/ of one of PraNet's sets; some editions call them image/ and mask/."""
    for folder in named(root, name):
        for pair in find_pairs(folder, ("images", "image"), ("masks", "mask")):
            return pair
    return None


def _add_polyps(found: Found, name: str, images: Path, masks: Path) -> None:
    """One of PraNet's sets: numbered files of the train set are frames of CVC-ClinicDB."""
    training = name == "TrainDataset"
    for stem, image, mask in match(found, images, masks, expected=TEST_SETS.get(name, 1450)):
        frame = sequence(stem) if training or name == "CVC-ClinicDB" else None
        own = stem if training or name == "Kvasir" else f"{name}_{stem}"
        found.items.append(
            Item(
                name=stem if training else f"{name}_{stem}",
                image=image,
                masks=(mask,),
                caption=CAPTION,
                group=f"CVC-ClinicDB_{frame}" if frame else own,
                split="train" if training else "test",
            )
        )
