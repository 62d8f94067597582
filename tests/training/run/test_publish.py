"""Weight files in half precision, and low-rank ones: what is written, resumed and merged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from siamese_diffusion.models.kinds import UNET, Kind
from siamese_diffusion.models.low_rank import expanded
from siamese_diffusion.models.weights import read_weights, without_prefix, write_weights
from siamese_diffusion.training.errors import TrainingError
from siamese_diffusion.training.merge_bundle import merge_files
from siamese_diffusion.training.run.publish import publish
from support.tiny_runs import train

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def low_rank(tiny: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of low rank, with a state of each."""
    folder = tmp_path_factory.mktemp("low rank")
    train(tiny, pairs, folder, *LOW_RANK)
    return folder


LOW_RANK = [
    "--network_dim=4", "--network_alpha=2", "--save_every_n_steps=1", "--keep_last_n=9",
    "--train_batch_size=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", FORMATS)
def test_a_weight_file_is_its_states_rounded(
    precision: str, plain_folder: Path, tmp_path: Path
) -> None:
    bundle = plain_folder / "siamese.safetensors"
    publish(bundle, tmp_path / "half.safetensors", precision)
    whole, half = read_weights(bundle), read_weights(tmp_path / "half.safetensors")
    assert half.kind is Kind.BUNDLE and half.metadata == whole.metadata
    assert half.tensors.keys() == whole.tensors.keys()
    for key, value in whole.tensors.items():
        assert torch.equal(half.tensors[key], value.to(FORMATS[precision]))
    size = bundle.stat().st_size
    assert (tmp_path / "half.safetensors").stat().st_size < 0.51 * size
    publish(bundle, tmp_path / "whole.safetensors", "float")
    assert (tmp_path / "whole.safetensors").samefile(bundle)


def test_values_beyond_the_format_are_an_error_with_nothing_written(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", {"key": torch.full((2,), 1e5)}, {})
    with pytest.raises(TrainingError, match=r"key has values beyond fp16's range.*or bf16"):
        publish(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.slow
def test_a_run_writes_half_precision_and_resumes_from_full(
    tiny: Path, pairs: Path, plain_folder: Path, tmp_path: Path
) -> None:
    half = ["--train_batch_size=4", "--save_every_n_steps=1", "--keep_last_n=9"]
    train(tiny, pairs, tmp_path, *half, "--save_precision=fp16")
    (state,) = (tmp_path / "state").glob("step00000003")
    full = read_weights(state / "weights.safetensors").tensors
    assert {value.dtype for value in full.values()} == {torch.float32}
    expected = read_weights(plain_folder / "siamese.safetensors").tensors
    assert all(torch.equal(full[key], value) for key, value in expected.items())
    for name in ("siamese.safetensors", "siamese-step00000002.safetensors"):
        found = read_weights(tmp_path / name).tensors
        assert {value.dtype for value in found.values()} == {torch.float16}
    # From the state of step 2 on, as if nothing had been rounded; another format may be chosen.
    (tmp_path / "siamese.safetensors").unlink()
    shutil.rmtree(state)
    resumed = train(tiny, pairs, tmp_path, *half, "--save_precision=float")
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())


@pytest.mark.slow
def test_a_half_bundle_merges_into_the_bases_number_format(
    tiny: Path, plain_folder: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half.safetensors"
    publish(plain_folder / "siamese.safetensors", half, "fp16")
    merge_files(tiny, half, tmp_path / "merged.safetensors")
    merged, bundle = read_weights(tmp_path / "merged.safetensors"), read_weights(half)
    for key, value in bundle.decoder().items():
        assert merged.tensors[key].dtype is torch.float32
        assert torch.equal(merged.tensors[key], value.float())


@pytest.mark.slow
def test_low_rank_resumes_bit_for_bit(
    low_rank: Path, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(low_rank, folder)
    expected = read_weights(folder / "siamese.safetensors")
    assert expected.kind is Kind.LOW_RANK
    assert expected.metadata["ss_network_dim"] == "4"
    (folder / "siamese.safetensors").unlink()
    for step in (2, 3):
        shutil.rmtree(folder / f"state/step0000000{step}")
    resumed = train(tiny, pairs, folder, *LOW_RANK)
    assert resumed.keys() == expected.tensors.keys()
    assert all(torch.equal(resumed[key], value) for key, value in expected.tensors.items())


@pytest.mark.slow
def test_low_rank_merges_exactly(low_rank: Path, tiny: Path, tmp_path: Path) -> None:
    merge_files(tiny, low_rank / "siamese.safetensors", tmp_path / "merged.safetensors")
    merged = read_weights(tmp_path / "merged.safetensors")
    assert merged.kind is Kind.MERGED
    base, low = read_weights(tiny).tensors, read_weights(low_rank / "siamese.safetensors").tensors
    name = f"{UNET}output_blocks.0.0.in_layers.2"
    up, down = (low[f"{name}.lora_{part}.weight"] for part in ("up", "down"))
    by_hand = torch.einsum("or,rikl->oikl", up[:, :, 0, 0].double(), down.double()) * (2 / 4)
    expected = base[f"{name}.weight"].double() + by_hand
    assert by_hand.abs().max() > 1e-5
    torch.testing.assert_close(
        merged.tensors[f"{name}.weight"].double(), expected, rtol=1e-6, atol=1e-7
    )
    # What the loaders make of base and bundle is the merged model, bit for bit.
    whole = expanded(read_weights(low_rank / "siamese.safetensors"), without_prefix(base, UNET))
    for key, value in whole.tensors.items():
        assert torch.equal(merged.tensors[key], value)
