"""siamese-synthesize paints lesions into backgrounds, which stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import maximum_filter
from siamese_diffusion.common.backgrounds import Backgrounds
from siamese_diffusion.common.pictures import read_image, read_mask
from siamese_diffusion.common.prompt_jsonl import read_prompt_jsonl
from siamese_diffusion.synthesis.masks import RandomMasks, ShapeSettings
from siamese_diffusion.synthesis.model import SiameseModel
from siamese_diffusion.synthesis.plan import Plan
from siamese_diffusion.synthesis.settings import SAMPLERS, Settings
from siamese_diffusion.synthesis.shard import Masking, Wanted
from siamese_diffusion.synthesis.synthesize import main
from siamese_diffusion.synthesis.weights import find_weights
from support.synthesis_runs import SIZE, contents, most_different, synthesis_flags, write_bundle

pytest_plugins = ["support.synthesis_runs"]
pytestmark = pytest.mark.slow  # whole runs

EDGE = 4
BEHIND = {"a": (50, 42), "sub/b": (64, 72)}  # width and height; not all multiples of 8


@pytest.fixture
def backgrounds(tmp_path: Path) -> Path:
    folder = tmp_path / "behind"
    (folder / "sub").mkdir(parents=True)
    for number, (name, (width, height)) in enumerate(BEHIND.items()):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder


def beyond(mask: np.ndarray) -> np.ndarray:
    """Where a background must stay."""
    kept: np.ndarray = ~maximum_filter(mask, 2 * EDGE + 1)
    return kept


def background_of(image: np.ndarray, mask: np.ndarray, folder: Path) -> str:
    """The name of the one that is in the image beyond the lesion, bit for bit."""
    (found,) = [
        name
        for name, (width, height) in BEHIND.items()
        if image.shape[:2] == (height, width)
        and np.array_equal(image[beyond(mask)], read_image(folder / f"{name}.png")[beyond(mask)])
    ]
    return found


def test_backgrounds_stay_beyond_the_edge(
    tiny_weights: Path, masks: Path, backgrounds: Path, tmp_path: Path
) -> None:
    common = ["--images_per_mask=3", f"--backgrounds={backgrounds}", f"--edge={EDGE}"]
    out = tmp_path / "out"
    assert main(synthesis_flags(tiny_weights, masks, out, *common)) == 0
    pairs = read_prompt_jsonl(out / "prompt.jsonl").pairs
    assert len(pairs) == 9
    used = set()
    for pair in pairs:
        image, mask = read_image(pair.image), read_mask(pair.mask)
        name = background_of(image, mask, backgrounds)
        assert not np.array_equal(image[mask], read_image(backgrounds / f"{name}.png")[mask])
        used.add(name)
    assert used == {*BEHIND}
    assert main(synthesis_flags(tiny_weights, masks, out, *common, "--check")) == 0
    batches = tmp_path / "batches"
    assert main(synthesis_flags(tiny_weights, masks, batches, *common, "--batch_size=4")) == 0
    assert most_different(contents(batches), contents(out)) <= 1


def test_a_lost_mask_is_made_again_at_the_background_s_size(
    tiny_weights: Path, masks: Path, backgrounds: Path, tmp_path: Path
) -> None:
    arguments = synthesis_flags(tiny_weights, masks, tmp_path / "out", "--steps=1")
    arguments.append(f"--backgrounds={backgrounds}")
    assert main(arguments) == 0
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "masks" / "m1_1.png").unlink()
    assert main(arguments) == 0
    assert contents(tmp_path / "out") == before


@pytest.fixture(scope="module")
def model(tiny_weights: Path) -> SiameseModel:
    weights = find_weights(None, tiny_weights / "siamese.safetensors", None, False, None)
    return SiameseModel(weights, Settings(steps=3), "cpu", compiled=False)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_sampler_keeps_the_background(
    model: SiameseModel, backgrounds: Path, sampler: str
) -> None:
    """And what it samples does not depend on the batch."""
    files = [backgrounds / f"{name}.png" for name in BEHIND]
    masking = Masking({}, (SIZE, SIZE), Backgrounds(files, EDGE))
    source = RandomMasks(3, (SIZE, SIZE), ShapeSettings(), 0, "a polyp")
    wanted: list[Wanted] = [masking.read(item) for item in Plan(source, 1).items()]
    model.settings = Settings(steps=3, sampler=sampler)
    together = model.images(wanted)
    for one, image in zip(wanted, together, strict=True):
        assert background_of(image, one.saved_mask, backgrounds)
        alone = model.images([one])[0]
        assert np.abs(image.astype(int) - alone).max() <= 2


def test_a_background_that_fills_the_memory_is_refused(
    tiny_weights: Path, masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """64 million pixels take 0.6 MB in the file; painted into, they took 8 GB."""
    caplog.set_level("INFO")
    (folder := tmp_path / "behind").mkdir()
    Image.new("L", (8000, 8000)).save(folder / "a.png")
    arguments = synthesis_flags(tiny_weights, masks, tmp_path / "out", f"--backgrounds={folder}")
    assert main([*arguments, "--resolution=32"]) == 1
    found = f"{folder / 'a.png'}: a background of 64 million pixels; lesions are painted into"
    assert f"{found} at most 34 million. Scale it down" in caplog.text


def test_a_damaged_background_is_reported_and_stops_nothing_else(
    tiny_weights: Path,
    masks: Path,
    backgrounds: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    (backgrounds / "sub" / "b.png").write_bytes(b"no picture")
    arguments = synthesis_flags(tiny_weights, masks, tmp_path / "out", "--images_per_mask=3")
    assert main([*arguments, f"--backgrounds={backgrounds}"]) == 1
    assert f"{backgrounds / 'sub' / 'b.png'}: cannot be decoded as an image" in caplog.text
    made = len(read_prompt_jsonl(tmp_path / "out" / "prompt.jsonl").pairs)
    assert 0 < made < 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--backgrounds=nowhere"], "--backgrounds nowhere: no such folder."),
        (["--backgrounds={empty}"], "no images"),
    ],
)
def test_a_folder_without_backgrounds_is_one_line(
    tiny_weights: Path,
    masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    change = [text.format(empty=tmp_path / "empty") for text in change]
    assert main(synthesis_flags(tiny_weights, masks, tmp_path / "out", *change)) == 2
    found = capsys.readouterr().err
    assert "--backgrounds" in found
    assert message in found
    assert found.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_backgrounds_or_another_edge_are_other_settings(
    tiny_weights: Path,
    masks: Path,
    backgrounds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = synthesis_flags(tiny_weights, masks, tmp_path / "out", "--steps=1")
    arguments.append(f"--backgrounds={backgrounds}")
    assert main(arguments) == 0
    assert main([*arguments, "--edge=3"]) == 2
    assert "edge 16, now 3" in capsys.readouterr().err
    shutil.copy(backgrounds / "a.png", backgrounds / "c.png")
    assert main(arguments) == 2
    assert "backgrounds '" in capsys.readouterr().err


def test_palette_weights_are_refused(
    tiny_weights: Path,
    backgrounds: Path,
    masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(tiny_weights / "base.safetensors", tmp_path)
    classes = {"#000000": "background", "#ff0000": "polyp"}
    write_bundle(tmp_path / "siamese.safetensors", tmp_path / "base.safetensors", classes)
    arguments = synthesis_flags(tmp_path, masks, tmp_path / "out", f"--backgrounds={backgrounds}")
    assert main(arguments) == 2
    assert "were trained on palette masks" in capsys.readouterr().err
