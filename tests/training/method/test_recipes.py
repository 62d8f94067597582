"""Each recipe against its formulas (docs/method.md), written out plainly on the same networks."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from siamese_diffusion.models.recipe import RECIPES, Recipe
from siamese_diffusion.training.method.ldm_keys import UNetShape
from siamese_diffusion.training.method.networks import Control, SiameseNetworks, new_controlnet
from siamese_diffusion.training.method.noise_schedule import NoiseSchedule, Prediction
from siamese_diffusion.training.method.objective import Batch, Objective
from torch import Tensor, nn
from torch.nn.functional import mse_loss

SHAPE = UNetShape((32, 64), (True, False), 1, 32, False)
STEP, STEPS = 60, 100


def networks(hint_channels: int) -> SiameseNetworks:
    """Random networks; those that start at zero too, since they would hide what is behind them."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SHAPE.diffusers_config())
    nets = SiameseNetworks(unet, new_controlnet(unet, hint_channels)).double()
    for parameter in nets.controlnet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return nets


def random_batch(mask_channels: int = 1) -> Batch:
    random = torch.Generator().manual_seed(1)
    latents, noise = torch.randn((2, 2, 4, 4, 4), generator=random).double()
    mask = torch.zeros(2, mask_channels, 32, 32).double()
    mask[0, :, :16, :8] = mask[1, -1, 8:20, 8:28] = 1
    return Batch(
        latents=latents,
        noise=noise,
        timesteps=torch.tensor([150, 700]),
        text=torch.randn((2, 77, 32), generator=random).double(),
        mask=mask,
        image=torch.rand((2, 3, 32, 32), generator=random).double(),
    )


def add(mask: Control, image: Control, blended: bool) -> Control:
    """sg(c_m) + w c_i, or sg(c_m) + w (c_i - sg(c_m))."""
    weight = STEP / STEPS

    def one(c_m: Tensor, c_i: Tensor) -> Tensor:
        return c_m.detach() + weight * (c_i - c_m.detach() if blended else c_i)

    pairs = zip(mask.skips, image.skips, strict=True)
    return Control(tuple(one(*pair) for pair in pairs), one(mask.middle, image.middle))


def velocity(latents: Tensor, batch: Batch) -> Tensor:
    """v = sqrt(alpha) noise - sqrt(1 - alpha) latents, with diffusers' alphas."""
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    signal = scheduler.alphas_cumprod[batch.timesteps].double().view(-1, 1, 1, 1)
    return signal.sqrt() * batch.noise - (1 - signal).sqrt() * latents


def plain_losses(
    nets: SiameseNetworks, batch: Batch, name: str, prediction: Prediction
) -> dict[str, Tensor]:
    """Loss terms (B,) with their graphs, all at once."""
    schedule, t, text = NoiseSchedule(prediction), batch.timesteps, batch.text
    noisy = schedule.add_noise(batch.latents, batch.noise, t)
    wanted = velocity(batch.latents, batch) if prediction == "v" else batch.noise
    image, mask = batch.image, batch.mask.expand(-1, 3, -1, -1)
    if name == "concat":
        image = torch.cat([batch.image, batch.mask], 1)
        mask = torch.cat([torch.zeros_like(batch.image), batch.mask], 1)

    def mse(found: Tensor, wanted: Tensor) -> Tensor:
        return mse_loss(found, wanted, reduction="none")

    def mean(squares: Tensor) -> Tensor:
        return squares.mean((1, 2, 3))

    c_m = nets.control(noisy, t, text, mask)
    eps_m = nets.decode(nets.encode(noisy, t, text), text, c_m)
    losses = {"mask": mean(mse(eps_m, wanted))}
    if name == "mask_only":
        return losses
    c_i = nets.control(noisy, t, text, image)
    joint = add(c_m, c_i, blended=name == "concat")
    eps_i = nets.decode(nets.encode(noisy, t, text), text, joint)
    losses["image"] = mean(mse(eps_i, wanted))
    weight = torch.ones_like(eps_i)
    if name == "adaptive":  # lesion pixels weigh 1 - area, background pixels area
        lesion = batch.mask.amax(1, keepdim=True)
        area = lesion.mean((1, 2, 3), keepdim=True)
        share = lesion.unflatten(3, (4, 8)).unflatten(2, (4, 8)).mean((3, 5))  # in a latent pixel
        weight = share * (1 - area) + (1 - share) * area
    losses["consistency"] = mean(weight * mse(eps_m, eps_i.detach()))
    predicted = schedule.predict_latents(noisy, eps_i, t).detach()
    noisy = schedule.add_noise(predicted, batch.noise, t)
    c_a = nets.control(noisy, t, text, mask)
    eps_a = nets.decode(nets.encode(noisy, t, text), text, c_a)
    wanted = velocity(predicted, batch) if prediction == "v" else batch.noise
    losses["augmentation"] = mean(mse(eps_a, wanted)) * (t <= 200)
    return losses


def gradients(nets: SiameseNetworks, loss: Tensor) -> list[Tensor]:
    trained = [p for p in nets.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["published", "concat", "adaptive", "mask_only"])
@pytest.mark.parametrize(
    ("mask_channels", "prediction"), [(1, "epsilon"), (3, "epsilon"), (1, "v")]
)
def test_a_recipe_computes_and_learns_what_its_formulas_say(
    name: str, mask_channels: int, prediction: Prediction
) -> None:
    recipe = RECIPES[name]
    nets = networks(recipe.hint_channels(mask_channels))
    batch = random_batch(mask_channels)
    expected = plain_losses(nets, batch, name, prediction)
    wanted = gradients(nets, sum(expected.values(), torch.zeros(2)).mean())
    if name in ("published", "adaptive"):
        # Nothing of the image branch's loss reaches the decoder.
        decoder = {id(p) for p in nets.decoder.parameters()}
        trained = [p for p in nets.parameters() if p.requires_grad]
        image = gradients(nets, expected["image"].mean())
        wanted = [
            g - i if id(p) in decoder else g for p, g, i in zip(trained, wanted, image, strict=True)
        ]

    nets.zero_grad(set_to_none=True)
    objective = Objective(nets, NoiseSchedule(prediction), recipe, STEPS)
    found = objective.losses(batch, STEP, lambda terms: terms.mean().backward())
    assert found.keys() == expected.keys()
    for term, values in expected.items():
        # diffusers' alphas are float32.
        rtol = 1e-9 if prediction == "epsilon" else 1e-5
        torch.testing.assert_close(found[term], values.detach(), rtol=rtol, atol=0)
    grads = [p.grad for p in nets.parameters() if p.requires_grad]
    rtol, atol = (1e-7, 1e-7) if prediction == "epsilon" else (1e-4, 1e-6)
    for grad, want in zip(grads, wanted, strict=True):
        found_grad = torch.zeros_like(want) if grad is None else grad
        torch.testing.assert_close(found_grad, want, rtol=rtol, atol=atol)


def test_a_new_controlnet_is_the_encoder_and_changes_nothing_yet() -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SHAPE.diffusers_config()).double()
    controlnet = new_controlnet(unet, hint_channels=3).double()
    encoder, copied = unet.state_dict(), controlnet.state_dict()
    shared = encoder.keys() & copied.keys()
    assert {key.split(".")[0] for key in shared} == {
        "time_embedding", "conv_in", "down_blocks", "mid_block",
    }  # fmt: skip
    assert all(torch.equal(copied[key], encoder[key]) for key in shared)
    zero = ("controlnet_down_blocks.", "controlnet_mid_block.")
    added = {key for key in copied if key.startswith(zero)}
    hint = {key for key in copied if key.startswith("controlnet_cond_embedding.")}
    assert copied.keys() == shared | added | hint
    last = [*controlnet.controlnet_cond_embedding.children()][-1]
    assert not any(copied[key].any() for key in added)
    assert not any(parameter.any() for parameter in last.parameters())

    nets, batch = SiameseNetworks(unet, controlnet), random_batch()
    with torch.no_grad():
        control = nets.control(batch.latents, batch.timesteps, batch.text, batch.image)
        encoded = nets.encode(batch.latents, batch.timesteps, batch.text)
        plain = nets.decode(encoded, batch.text)
        assert torch.equal(nets.decode(encoded, batch.text, control), plain)


def test_a_branch_is_freed_before_the_next_decoder_runs() -> None:
    nets = networks(3)
    kept: list[weakref.ref] = []  # what the backward pass of each branch's ControlNet needs
    alive: list[list[bool]] = []  # which of them there are when a decoder ends

    def remember(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
        kept.append(weakref.ref(inputs[0].untyped_storage()))

    def look(*_: Any) -> None:
        alive.append([storage() is not None for storage in kept])

    nets.controlnet.controlnet_mid_block.register_forward_hook(remember)
    nets.unet.conv_out.register_forward_hook(look)
    objective = Objective(nets, NoiseSchedule(), RECIPES["published"], STEPS)
    objective.losses(random_batch(), STEP, lambda terms: terms.mean().backward())
    # The image branch goes first; its control joins the mask's, which is needed again.
    assert alive == [[True, True], [True, False], [False, False, True]]


def test_the_augmentation_begins_after_a_third() -> None:
    nets = networks(3)
    for step, terms in ((33, 3), (34, 4)):
        objective = Objective(nets, NoiseSchedule(), RECIPES["published"], 100)
        assert len(objective.losses(random_batch(), step)) == terms
    late = replace(random_batch(), timesteps=torch.tensor([201, 700]))
    assert objective.losses(late, 34)["augmentation"].tolist() == [0, 0]


def test_a_constant_weight_is_that_of_the_last_step_at_every_step() -> None:
    nets, batch = networks(3), random_batch()
    constant = Objective(nets, NoiseSchedule(), Recipe(image_weight="constant"), STEPS)
    published = Objective(nets, NoiseSchedule(), RECIPES["published"], STEPS)
    for found, wanted in (
        (constant.losses(batch, STEP), published.losses(batch, STEPS)),
        (constant.losses(batch, STEPS), published.losses(batch, STEPS)),
    ):
        for term, values in wanted.items():
            torch.testing.assert_close(found[term], values)
    ramp = published.losses(batch, STEP)["image"]
    assert not torch.allclose(constant.losses(batch, STEP)["image"], ramp)


def test_without_augmentation_the_other_terms_stay() -> None:
    nets, batch = networks(3), random_batch()
    without = Objective(nets, NoiseSchedule(), Recipe(augmentation="none"), STEPS)
    wanted = Objective(nets, NoiseSchedule(), RECIPES["published"], STEPS).losses(batch, STEP)
    found = without.losses(batch, STEP)
    assert wanted.keys() - found.keys() == {"augmentation"}
    for term, values in found.items():
        torch.testing.assert_close(values, wanted[term])


def test_v_prediction_is_that_of_diffusers() -> None:
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction",
    )  # fmt: skip
    batch, schedule = random_batch(), NoiseSchedule("v")
    target = schedule.target(batch.latents, batch.noise, batch.timesteps)
    noisy = schedule.add_noise(batch.latents, batch.noise, batch.timesteps)
    velocity = scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    torch.testing.assert_close(target, velocity, rtol=1e-5, atol=1e-5)
    expected = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    torch.testing.assert_close(noisy, expected, rtol=1e-5, atol=1e-5)
    predicted = schedule.predict_latents(noisy, target, batch.timesteps)
    torch.testing.assert_close(predicted, batch.latents, rtol=1e-5, atol=1e-5)
