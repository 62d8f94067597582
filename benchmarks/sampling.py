"""Sampling masks in ComfyUI: ours, a core ControlNet of the same size, the published procedure.

All three run a UNet and ControlNet of the same size and weights in one process; the core ControlNet
differs in its hint network alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..models.kinds import UNET, Kind
from ..models.weights import StateDict, WeightFile
from ..tools.comfy_host import import_comfyui
from ..training.method.bundle import bundle_tensors
from ..training.method.ldm_keys import UNetShape, unet_to_ldm
from ..training.method.noise_schedule import TIMESTEPS, NoiseSchedule
from .measure import machine, median_ratio
from .report import Result, Row, compare
from .turns import interleave_steps
from .workload import NANO, SD15, Scale, random_batch, random_networks

STEPS = 50
CFG = 9.0
PUBLISHED_PIXELS = 384
# ComfyUI knows a Stable Diffusion 1.5 by its 320 channels and text width: no smaller one loads.
TINY_SHAPE = replace(NANO, channels=(320,), attention=(True,))
AGAINST = {
    "published": "against the published procedure",
    "core": "against a core ControlNet of the same size",
}
StepDone = Callable[[], None]
Side = Callable[[StepDone], Tensor]  # a whole run; to be told after each step

# Input channels of each 3x3 convolution of a core hint network, and its output's.
CORE_HINT_CHANNELS = (3, 16, 16, 32, 32, 96, 96, 256, 320)


@dataclass(frozen=True)
class Networks:
    """ComfyUI's MODEL and CONTROL_NET with random weights, on the CPU."""

    model: Any
    control: Any


@dataclass(frozen=True)
class Inputs:
    """masks (B, H, W) of 0 and 1, noise (B, 4, H/8, W/8), text and empty (1, 77, D)."""

    masks: Tensor
    noise: Tensor
    text: Tensor
    empty: Tensor


@torch.inference_mode()
def measure_sampling(scale: Scale, tiny: bool = False) -> Result:
    """Compare whole runs; a batch is that many masks at once."""
    steps = 2 if tiny else STEPS
    scale = replace(scale, shape=TINY_SHAPE) if tiny else scale
    networks, inputs = load_networks(scale.shape), random_inputs(scale)
    sides: dict[str, Side] = {
        **in_comfyui(networks["ours"], networks["core"], inputs, steps),
        "published": partial(published_sampling, networks["published"], inputs, steps, CFG),
    }
    seen = {name: observe(side, networks[name].control) for name, side in sides.items()}
    ours = networks["ours"].model.model.latent_format.process_in(seen["ours"].latents)
    published = seen["published"].latents
    deviation = float((ours - published).norm() / published.norm())
    seconds = interleave_steps(sides, scale.rounds)
    rows = [
        *_time_rows(seconds),
        Row("change of the latents", "", f"{deviation:.1e}", None, "≤ 5e-4"),
        *_observed_rows(seen, scale.batch),
        _full_size_row(steps),
    ]
    flops = {name: run.flops for name, run in seen.items()}
    raw = {"seconds": seconds, "flops": flops, "latents_deviation": deviation}
    title = f"Sampling, {steps} steps: {scale.name}, batch {scale.batch}, {scale.pixels} px"
    return Result("sampling", title, machine(), rows, raw, baseline="the other")


def load_networks(shape: UNetShape) -> dict[str, Networks]:
    """A copy for each side, all with the same weights."""
    import_comfyui()
    import comfy.controlnet
    import comfy.sd
    import comfy.utils

    from ..nodes.control import load_control

    comfy.utils.set_progress_bar_enabled(False)
    nets = random_networks(shape)
    unet = {UNET + key: value for key, value in unet_to_ldm(nets.unet.state_dict(), shape).items()}
    bundle = WeightFile(Path("random"), Kind.BUNDLE, bundle_tensors(nets, shape), {})
    core = {k: v for k, v in bundle.control().items() if not k.startswith("input_hint_block.")}
    controls = {
        "ours": load_control(bundle),
        "core": comfy.controlnet.load_controlnet_state_dict({**core, **_core_hint_block()}),
        "published": load_control(bundle),
    }
    only_unet = {"output_vae": False, "output_clip": False}
    return {
        name: Networks(comfy.sd.load_state_dict_guess_config(dict(unet), **only_unet)[0], control)
        for name, control in controls.items()
    }


def _core_hint_block() -> StateDict:
    tensors = {}
    for index, (channels_in, channels_out) in enumerate(pairwise(CORE_HINT_CHANNELS)):
        key = f"input_hint_block.{2 * index}"  # a SiLU after each
        tensors[f"{key}.weight"] = 0.05 * torch.randn(channels_out, channels_in, 3, 3)
        tensors[f"{key}.bias"] = torch.zeros(channels_out)
    return tensors


def random_inputs(scale: Scale) -> Inputs:
    batch = random_batch(scale, 0)
    return Inputs(batch.mask[:, 0], batch.noise, batch.text[:1], torch.randn_like(batch.text[:1]))


# The sides


def in_comfyui(ours: Networks, core: Networks, inputs: Inputs, steps: int) -> dict[str, Side]:
    """`ours` and `core`: apply the masks with the node of each, and sample."""
    import nodes as host_nodes

    from ..nodes.conditioning_nodes import SiameseApplyMask
    from ..nodes.sampling import PUBLISHED_SCHEDULER, Settings, sample

    positive, negative = ([[text, {}]] for text in (inputs.text, inputs.empty))
    settings = Settings(steps, CFG, "ddim", PUBLISHED_SCHEDULER, seed=0)
    image = inputs.masks[..., None].expand(-1, -1, -1, 3)

    def sampled(model: Any, applied: Any, step_done: StepDone) -> Tensor:
        pair = applied[0], applied[1]
        return sample(model, inputs.noise, *pair, settings, lambda *_: step_done())

    def run_ours(step_done: StepDone) -> Tensor:
        applied = SiameseApplyMask.execute(
            positive=positive, negative=negative, control_net=ours.control, mask=inputs.masks,
            strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        return sampled(ours.model, applied.args, step_done)

    def run_core(step_done: StepDone) -> Tensor:
        apply = host_nodes.ControlNetApplyAdvanced().apply_controlnet
        applied = apply(positive, negative, core.control, image, 1.0, 0.0, 1.0)
        return sampled(core.model, applied, step_done)

    return {"ours": run_ours, "core": run_core}


def published_sampling(
    networks: Networks, inputs: Inputs, steps: int, cfg: float, step_done: StepDone
) -> Tensor:
    """The published DDIM, plainly: noise -> latents (B, 4, h, w), scaled as the UNet has them.

    At each step the whole model runs twice, with the text and without, hint network included. It
    is a bare loop, without any of ComfyUI's work around it.
    """
    schedule = NoiseSchedule()
    timesteps = list(range(1, TIMESTEPS, TIMESTEPS // steps))
    x = inputs.noise
    for timestep, previous in zip(timesteps[::-1], [*timesteps[-2::-1], 0], strict=True):
        now, then = (torch.full((len(x),), value) for value in (timestep, previous))
        with_text, without = (
            _predict(networks, x, now, text, inputs.masks) for text in (inputs.text, inputs.empty)
        )
        noise = without + cfg * (with_text - without)
        x = schedule.add_noise(schedule.predict_latents(x, noise, now), noise, then)
        step_done()
    return x


def _predict(networks: Networks, x: Tensor, timesteps: Tensor, text: Tensor, masks: Tensor) -> Any:
    control = networks.control.control_model
    hint = masks[:, None].expand(-1, control.input_hint_block.hint_channels, -1, -1)
    context = text.expand(len(x), -1, -1)
    features = control.input_hint_block.encode(hint)
    outputs = control(x, hint, timesteps, context, features)
    return networks.model.model.diffusion_model(x, timesteps, context, control=outputs)


# Measuring


@dataclass(frozen=True)
class Observed:
    """One run: its latents, masks that passed through the hint network, arithmetic operations."""

    latents: Tensor
    masks: int
    flops: int


def observe(side: Side, control: Any) -> Observed:
    """Run a side, not for its time; `control` is the CONTROL_NET that it uses."""
    masks = 0

    def hook(_module: torch.nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal masks
        masks += len(output)

    # One layer, through which each forward pass goes once.
    handle = control.control_model.input_hint_block[0].register_forward_hook(hook)
    try:
        with FlopCounterMode(display=False) as counter:
            latents = side(lambda: None)
    finally:
        handle.remove()
    return Observed(latents, masks, counter.get_total_flops())


def _time_rows(seconds: Mapping[str, list[float]]) -> list[Row]:
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for name, target in (("published", "≤ 0.90"), ("core", "≤ 1.00")):
        ratio = median_ratio(seconds["ours"], seconds[name])
        pair = median[name], median["ours"]
        rows.append(compare(f"time, {AGAINST[name]}", *pair, "s", target, ratio))
    return rows


def _observed_rows(seen: Mapping[str, Observed], batch: int) -> list[Row]:
    passes = {name: f"{run.masks / batch:g}" for name, run in seen.items()}
    flops = {name: run.flops / 1e12 for name, run in seen.items()}
    return [
        *(
            Row(f"passes of the hint network, {what}", passes[name], passes["ours"])
            for name, what in AGAINST.items()
        ),
        *(
            compare(f"arithmetic, {what}", flops[name], flops["ours"], "TFLOP")
            for name, what in AGAINST.items()
        ),
    ]


def _full_size_row(steps: int) -> Row:
    """Counted, not run: beside a full-size model the hint network is a smaller part."""
    hint, rest = count_flops(SD15, PUBLISHED_PIXELS)
    published, ours = (2 * steps * rest + passes * hint for passes in (2 * steps, 1))
    what = f"arithmetic in SD 1.5 at {PUBLISHED_PIXELS} px, {AGAINST['published']}"
    return compare(what, published / 1e12, ours / 1e12, "TFLOP")


def count_flops(shape: UNetShape, pixels: int) -> tuple[int, int]:
    """Of the hint network, and of UNet and ControlNet without it, for one latent and timestep."""
    nets = random_networks(shape, "meta")
    batch = random_batch(Scale("", shape, 1, pixels, 0), 0, "meta")
    counted = batch.latents, batch.timesteps, batch.text
    with FlopCounterMode(display=False) as whole:
        control = nets.control(*counted, batch.image)
        nets.decode(nets.encode(*counted), batch.text, control)
    with FlopCounterMode(display=False) as hint:
        nets.controlnet.controlnet_cond_embedding(batch.image)
    return hint.get_total_flops(), whole.get_total_flops() - hint.get_total_flops()
