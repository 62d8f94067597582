"""Weight files that harm, each a small change to one that is accepted; and what reads them."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from siamese_diffusion.models.kinds import CONTROL, DHI_KEY, UNET, Kind
from siamese_diffusion.models.metadata import SiameseMetadata, read_recipe
from siamese_diffusion.models.recipe import RECIPES
from siamese_diffusion.models.weights import WeightsError, read_weights
from torch import Tensor

from support.hostile_pickles import PICKLES

DHI = CONTROL + DHI_KEY
TEXT = f"{CONTROL}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
OUT = f"{UNET}out.2.weight"
METADATA = SiameseMetadata(
    RECIPES["published"], (64, 64), 3, "f" * 64, {"255": "lesion"}
).to_strings()

Write = Callable[[Path], object]


def tensors(hint_channels: int = 3, context: int = 768) -> dict[str, Any]:
    """As few as a bundle is known by."""
    return {
        DHI: torch.ones(16, hint_channels, 3, 3),
        TEXT: torch.ones(8, context),
        OUT: torch.ones(4, 8, 3, 3),
    }


def holding(zipped: bool = True, **values: Any) -> Write:
    """A pickled bundle, with further tensors in place of `text`."""
    named = {TEXT if key == "text" else key: value for key, value in values.items()}

    def write(path: Path) -> None:
        torch.save({**tensors(), **named}, path, _use_new_zipfile_serialization=zipped)

    return write


def saying(changed: dict[str, str | None], hint_channels: int = 3, context: int = 768) -> Write:
    """A bundle whose metadata is changed; None leaves a line out."""
    told = {k: v for k, v in {**METADATA, **changed}.items() if v is not None}
    return lambda path: save_file(tensors(hint_channels, context), path, told)


def with_tensors(**changed: Tensor) -> Write:
    names = {"text": TEXT, "out": OUT, "dhi": DHI}
    values = {**tensors(), **{names[key]: value for key, value in changed.items()}}
    return lambda path: save_file(values, path, METADATA)


def content(value: Any) -> Write:
    """A pickle of anything."""
    return lambda path: torch.save(value, path)


def holding_itself() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["state_dict"] = loop
    return loop


def two_that_hold_each_other() -> dict[str, Any]:
    one: dict[str, Any] = {}
    one["state_dict"] = {"state_dict": one}
    return one


def nested(depth: int) -> dict[str, Any]:
    value = tensors()
    for _ in range(depth):
        value = {"state_dict": value}
    return value


class Shadowing:
    """Pickled as a dictionary whose `get`, `items` and `keys` are no methods."""

    def __reduce__(self) -> Any:
        attributes = {"get": 1, "items": 1, "keys": 1}
        return OrderedDict, (), attributes, None, iter([("state_dict", holding_itself())])


def zipped_again(method: int, change: Callable[[str, bytes], bytes] = lambda _, b: b) -> Write:
    def write(path: Path) -> None:
        torch.save(tensors(), path)
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in entries:
                archive.writestr(name, change(name, data))

    return write


def bomb(path: Path) -> None:
    """300 MB of zeros in 300 kB."""
    zipped_again(
        zipfile.ZIP_DEFLATED, lambda name, data: bytes(300 << 20) if name.endswith("/0") else data
    )(path)


def lying_directory(path: Path) -> None:
    """A zip whose directory says that an entry is larger than the file."""
    torch.save(tensors(), path)
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def header(description: dict[str, Any] | bytes, values: bytes = b"", length: int = -1) -> Write:
    """A safetensors file of that header."""
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    size = len(text) if length < 0 else length
    return lambda path: path.write_bytes(struct.pack("<Q", size) + text + values)


def f32(shape: list[int], end: int, dtype: str = "F32", start: int = 0) -> dict[str, Any]:
    return {DHI: {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


def stretched(*shape: int) -> Tensor:
    """One value, shown as many."""
    return torch.ones(1).expand(*shape)


def quantised() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(8, 768), 0.1, 0, torch.qint8)


def last(value: float, count: int = 200_000) -> Tensor:
    """Many ones, and another value at the very end."""
    values = torch.ones(count)
    values[-1] = value
    return values.reshape(-1, 8)


def many_names(count: int) -> Write:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return header({str(number): one for number in range(count)})


def same_name_twice(path: Path) -> None:
    one = json.dumps(f32([1], 4)).strip("{}")
    header(f"{{{one}}},{one}}}}}".encode(), bytes(4))(path)


NAN, INF = float("nan"), float("inf")

# Name -> how the file is written. Names ending in .pth are pickles.
HOSTILE: dict[str, Write] = {
    # pickles that hang, or that no tensors are in
    "itself.pth": content(holding_itself()),
    "each other.pth": content(two_that_hold_each_other()),
    "deep.pth": content(nested(100)),
    "four deep.pth": content(nested(4)),
    "shadowing.pth": content(Shadowing()),
    "list.pth": content([torch.ones(1)]),
    "number.pth": content(1),
    "tensor.pth": content(torch.ones(1)),
    "empty.pth": content({}),
    "plain pickle.pth": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "bytearray.pth": content({"a": Call(bytearray, 1 << 33)}),
    "old bytearray.pth": lambda path: torch.save(
        {"a": Call(bytearray, 1 << 33)}, path, _use_new_zipfile_serialization=False
    ),
    "tensor of 40 GB.pth": holding(text=Call(torch.Tensor, 100_000, 100_000)),
    "tensor of 40 TB.pth": holding(text=Call(torch.Tensor, 10_000_000, 1_000_000)),
    # tensors that are not what they seem
    "sparse.pth": holding(text=torch.ones(8, 768).to_sparse()),
    "huge sparse.pth": holding(
        text=torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (1 << 30, 1 << 30))
    ),
    "sparse rows.pth": holding(text=torch.ones(8, 768).to_sparse_csr()),
    "meta.pth": holding(text=torch.empty(8, 768, device="meta")),
    "huge meta.pth": holding(text=torch.empty(1 << 30, 1 << 30, device="meta")),
    "quantised.pth": holding(text=quantised()),
    "old quantised.pth": holding(zipped=False, text=quantised()),
    "nested.pth": holding(text=torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    "stretched.pth": holding(text=stretched(8, 768)),
    "stretched to 4 TB.pth": holding(text=stretched(1 << 20, 1 << 20)),
    "old stretched.pth": holding(zipped=False, text=stretched(1 << 20, 1 << 20)),
    "overlapping.pth": holding(text=torch.ones(800).as_strided((8, 768), (1, 1))),
    "one tensor, many names.pth": content(
        {**tensors(), **dict.fromkeys(map(str, range(2000)), torch.ones(100_000))}
    ),
    # zips
    "compressed.pth": zipped_again(zipfile.ZIP_DEFLATED),
    "bomb.pth": bomb,
    "bzip2.pth": zipped_again(zipfile.ZIP_BZIP2),
    "lying directory.pth": lying_directory,
    "pickle cut short.pth": zipped_again(
        zipfile.ZIP_STORED, lambda name, data: data[:40] if name.endswith("data.pkl") else data
    ),
    **PICKLES,
    # values
    "late nan.safetensors": with_tensors(out=last(NAN)),
    "late inf.safetensors": with_tensors(out=last(INF)),
    "late minus inf.pth": holding(text=last(-INF)),
    "late half.safetensors": with_tensors(out=last(NAN).half()),
    "late bfloat16.safetensors": with_tensors(out=last(-INF).bfloat16()),
    "late float8.safetensors": with_tensors(out=last(NAN).to(torch.float8_e5m2)),
    "late double.safetensors": with_tensors(out=last(NAN).double()),
    "beyond float32.safetensors": with_tensors(out=last(1.0, 72).double() * 1e300),
    "uint16.pth": holding(text=torch.ones(8, 768, dtype=torch.uint16)),
    "nan.pth": holding(text=torch.full((8, 768), NAN)),
    "one nan.safetensors": with_tensors(text=torch.tensor([[1.0] * 767 + [NAN]])),
    "inf.safetensors": with_tensors(dhi=torch.full((16, 3, 3, 3), INF)),
    "both infinities.safetensors": with_tensors(text=torch.tensor([[INF, -INF] * 384])),
    "half inf.safetensors": with_tensors(out=torch.full((4, 8, 3, 3), -INF).half()),
    "bfloat16 nan.safetensors": with_tensors(out=torch.full((4, 8, 3, 3), NAN).bfloat16()),
    "float8 nan.safetensors": with_tensors(out=torch.full((9,), NAN).to(torch.float8_e4m3fn)),
    "double nan.safetensors": with_tensors(text=torch.full((8, 768), NAN).double()),
    "int64.safetensors": with_tensors(text=torch.ones(8, 768).long()),
    "uint8.safetensors": with_tensors(text=torch.ones(8, 768).byte()),
    "int8.pth": holding(text=torch.ones(8, 768).char()),
    "bool.safetensors": with_tensors(text=torch.ones(8, 768).bool()),
    "complex.pth": holding(text=torch.ones(8, 768).to(torch.complex64)),
    # shapes
    "flat DHI.safetensors": with_tensors(dhi=torch.ones(3)),
    "scalar DHI.safetensors": with_tensors(dhi=torch.ones(())),
    "no channels.safetensors": with_tensors(dhi=torch.ones(16, 0, 3, 3)),
    "many channels.safetensors": with_tensors(dhi=torch.ones(16, 4096, 3, 3)),
    # safetensors headers
    "header too long.safetensors": header({}, length=1 << 40),
    "header of nothing.safetensors": header(b""),
    "header is a list.safetensors": header(b"[1]"),
    "deep header.safetensors": header(b'{"a":' * 100_000),
    "header not text.safetensors": header(b'{"\xff\xfe": 1}'),
    "beyond the file.safetensors": header(f32([16, 3, 3, 3], 1728)),
    "terabytes.safetensors": header(f32([1 << 20, 1 << 20], 1 << 42)),
    "overflow.safetensors": header(f32([1 << 40, 1 << 40], 64), bytes(64)),
    "shape and size differ.safetensors": header(f32([16, 3, 3, 3], 64), bytes(64)),
    "backwards.safetensors": header(f32([4], 0, start=16), bytes(16)),
    "negative.safetensors": header(f32([-1], 4), bytes(4)),
    "unknown type.safetensors": header(f32([4], 16, "F33"), bytes(16)),
    "many names.safetensors": many_names(60_000),
    "one name twice.safetensors": same_name_twice,
    "hole.safetensors": header(f32([1], 8, start=4), bytes(8)),
    "values left over.safetensors": header(f32([1], 4), bytes(4000)),
    "half a byte.safetensors": header(f32([1], 1, "F4"), bytes(1)),
    "metadata of numbers.safetensors": header({"__metadata__": {"a": 1}}),
    "metadata is a list.safetensors": header({"__metadata__": [1]}),
    "metadata alone.safetensors": header({"__metadata__": {"siamese.step": "1"}}),
    "nothing at all.safetensors": lambda path: path.write_bytes(b""),
    "seven bytes.safetensors": lambda path: path.write_bytes(bytes(7)),
    "HTML.safetensors": lambda path: path.write_text("<!DOCTYPE html><html></html>"),
    "a pickle.safetensors": content(tensors()),
    "a pickle.SAFETENSORS": content(tensors()),
    "safetensors.pth": lambda path: save_file(tensors(), path),
    "folder.safetensors": Path.mkdir,
    "pipe.safetensors": os.mkfifo,
    "pipe.pth": os.mkfifo,
    "loop.safetensors": lambda path: path.symlink_to(path.name),
    "nowhere.safetensors": lambda path: path.symlink_to("nowhere"),
    "device.pth": lambda path: path.symlink_to("/dev/zero"),
    # metadata
    "no version.safetensors": saying({"siamese.format_version": None}),
    "version 0.safetensors": saying({"siamese.format_version": "0"}),
    "version -1.safetensors": saying({"siamese.format_version": "-1"}),
    "version 2.safetensors": saying({"siamese.format_version": "2"}),
    "long version.safetensors": saying({"siamese.format_version": "9" * 4000}),
    "version nan.safetensors": saying({"siamese.format_version": "nan"}),
    "no recipe.safetensors": saying({"siamese.recipe": None}),
    "recipe is a list.safetensors": saying({"siamese.recipe": "[]"}),
    "recipe of numbers.safetensors": saying({"siamese.recipe": '{"branches": 1}'}),
    "deep recipe.safetensors": saying({"siamese.recipe": "[" * 100_000}),
    "resolution 0.safetensors": saying({"siamese.resolution": "0x0"}),
    "negative resolution.safetensors": saying({"siamese.resolution": "-64x64"}),
    "odd resolution.safetensors": saying({"siamese.resolution": "63x64"}),
    "huge resolution.safetensors": saying({"siamese.resolution": "8000000x64"}),
    "resolution of three.safetensors": saying({"siamese.resolution": "64x64x64"}),
    "step -1.safetensors": saying({"siamese.step": "-1"}),
    "step inf.safetensors": saying({"siamese.step": "inf"}),
    "huge step.safetensors": saying({"siamese.step": "9" * 30}),
    "classes are a list.safetensors": saying({"siamese.mask_classes": "[1, 2]"}),
    "classes are numbers.safetensors": saying({"siamese.mask_classes": '{"a": 1}'}),
    "classes are nothing.safetensors": saying({"siamese.mask_classes": "null"}),
    "many classes.safetensors": saying(
        {"siamese.mask_classes": json.dumps({f"#{n:06x}": "n" for n in range(10_000)})}
    ),
    "classes of no colour.safetensors": saying({"siamese.mask_classes": '{"#zz": "a"}'}),
    "classes of two kinds.safetensors": saying(
        {"siamese.mask_classes": '{"#000000": "a", "255": "b"}'}
    ),
    "classes of surrogates.safetensors": saying({"siamese.mask_classes": '{"255": "\\ud800"}'}),
    "classes of commands.safetensors": saying({"siamese.mask_classes": '{"255": "\\u001b[2J"}'}),
    "a class of a long name.safetensors": saying(
        {"siamese.mask_classes": json.dumps({"255": "n" * 1_000_000})}
    ),
    "deep classes.safetensors": saying({"siamese.mask_classes": '{"a":' * 100_000}),
    "prediction.safetensors": saying({"modelspec.prediction_type": "sample"}),
    "architecture.safetensors": saying({"modelspec.architecture": "flux-1-dev/siamese"}),
    "of 2.x by metadata.safetensors": saying(
        {"modelspec.architecture": "stable-diffusion-v2-512/siamese"}
    ),
    "of 2.x by weights.safetensors": saying({}, context=1024),
    "2.x of another prediction.safetensors": saying(
        {
            "modelspec.architecture": "stable-diffusion-v2-512/siamese",
            "modelspec.prediction_type": "v",
        },
        context=1024,
    ),
    "hash.safetensors": saying({"siamese.base_hash": "\ud800".encode("utf-8", "replace").decode()}),
    "recipe of other weights.safetensors": saying(
        {"siamese.recipe": RECIPES["concat"].to_json()}
    ),
    "palette classes of binary weights.safetensors": saying(
        {
            "siamese.recipe": RECIPES["concat"].to_json(),
            "siamese.mask_classes": '{"#000000": "background"}',
        },
        hint_channels=4,
    ),
    # names
    "surrogates.pth": content({**tensors(), CONTROL + "\ud800\udfff": torch.full((2,), NAN)}),
    "long name.pth": content({**tensors(), CONTROL + "a" * 1_000_000: torch.full((2,), NAN)}),
    "escape.pth": content({**tensors(), CONTROL + "\x1b[2J\n": torch.full((2,), NAN)}),
    "not UTF-8 \udce9.pth": holding(text=torch.full((8, 768), NAN)),
}  # fmt: skip

# The same writers leave these as they should be.
ACCEPTED: dict[str, Write] = {
    "bundle.safetensors": saying({}),
    "pickle.pth": content(tensors()),
    "old pickle.pth": holding(zipped=False),
    "state_dict.pth": content(nested(2)),
    "zipped again.pth": zipped_again(zipfile.ZIP_STORED),
    "parameters.pth": holding(text=torch.nn.Parameter(torch.ones(8, 768))),
    "views.pth": holding(text=torch.ones(768, 8).t()),
    "two names.pth": holding(other=(one := torch.ones(8)), another=one),
    "large values.safetensors": with_tensors(text=torch.full((8, 768), 3e38)),
    "large halves.safetensors": with_tensors(text=torch.full((8, 768), 6e4).half()),
    "float8.safetensors": with_tensors(text=torch.ones(8, 768).to(torch.float8_e4m3fn)),
    "constants.pth": content(
        {
            **tensors(),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77),
            "cond_stage_model.model.attn_mask": torch.full((77, 77), -INF),
            "model_ema.num_updates": torch.tensor(3),
        }
    ),
    "of 2.x.safetensors": saying(
        {"modelspec.architecture": "stable-diffusion-v2-512/siamese"}, context=1024
    ),
    "palette.safetensors": saying(
        {
            "siamese.recipe": RECIPES["concat"].to_json(),
            "siamese.mask_classes": '{"#000000": "background"}',
        },
        hint_channels=6,
    ),
    "CAPITALS.SAFETENSORS": saying({}),
    "no values.safetensors": with_tensors(text=torch.ones(0, 768)),
    "checkpoint of Lightning.ckpt": content(
        {
            "state_dict": tensors(),
            "epoch": 3,
            "lr": 1e-5,
            "done": True,
            "nothing": None,
            "optimizer_states": [{"state": {0: {"betas": (0.9, 0.999)}}, "big": 1 << 40}],
        }
    ),
    "without metadata.safetensors": lambda path: save_file(tensors(), path),
}


def read_folder(folder: Path) -> None:
    """Load each file as the loaders do; print, as JSON, the messages and the memory it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told: dict[str, str | None] = {}
    seconds: dict[str, float] = {}
    for path in sorted(folder.iterdir()):
        start = time.perf_counter()
        try:
            read_recipe(read_weights(path, expect=[Kind.BUNDLE]))
            told[path.name] = None
        except WeightsError as error:
            told[path.name] = str(error)
        except BaseException as error:
            told[path.name] = f"a trace: {error!r}"
        seconds[path.name] = time.perf_counter() - start
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    json.dump({"told": told, "kilobytes": taken, "seconds": seconds}, sys.stdout)
