"""kohya-ss sd-scripts as host: its models, text encoding, optimizers and noise options."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import CLIPTextModel

from ....common.hashes import file_hash
from ....models.metadata import SD2_CONTEXT
from ....models.weights import load_checked
from ...config import TrainConfig
from ...data.batch_order import Share, generator
from ...data.dataset_toml import FLAGS, FOLDERS, SUBSET_KEYS, check_table
from ...errors import ConfigError
from ...method.base_model import BaseModel
from ...method.ldm_keys import read_diffusers_shape
from ...method.noise_schedule import BETA_END, BETA_START, TIMESTEPS, Prediction
from ...method.objective import Batch
from ...toml_files import Table
from ..encoders import KLAutoencoder
from ..optimizers import package_advice, parse_arguments, with_fused
from ..tokenizer import load_tokenizer, tokenizer_folder
from .library import Library, build_parser, commit, english, load_library
from .models import check_vae, context_dim, folder_hash, load_parts

KNOWN_KEYS = FLAGS.keys() | SUBSET_KEYS | FOLDERS
NOISE_FLAGS = ("noise_offset", "multires_noise_iterations", "min_timestep", "max_timestep")
ANY_CAPTION = ""  # where nobody chose an extension: .txt and .caption


class SdScripts:
    """Host for people who have sd-scripts: its models, text encoding, optimizers and options."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Raises ConfigError for a checkout that does not work, or options that do not."""
        self.name = f"sd-scripts {commit(folder)}".strip()
        self._library = load_library(folder)
        self._parser = build_parser(self._library)
        self._options = self._namespace(config)
        self._check_timesteps()
        self._schedule = DDPMScheduler(
            TIMESTEPS, BETA_START, BETA_END, beta_schedule="scaled_linear", clip_sample=False
        )
        custom = self._library.custom_train_functions
        if config.zero_terminal_snr:
            custom.fix_noise_scheduler_betas_for_zero_terminal_snr(self._schedule)
        custom.prepare_scheduler_for_custom_training(self._schedule, "cpu")

    def _namespace(self, config: TrainConfig) -> argparse.Namespace:
        """The configuration as sd-scripts' functions want it: its defaults, under our flags."""
        args = self._parser.parse_args([])
        for name, value in {**vars(config), **config.host_options}.items():
            setattr(args, name, _plain(value))
        args.caption_extension = config.caption_extension or ANY_CAPTION
        args.lr_warmup_steps = config.warmup_steps
        # What its checks would otherwise set, with a warning each time.
        args.cache_latents = True
        args.sample_every_n_steps = config.sample_every_n_steps or None
        try:
            self._library.train_util.verify_training_args(args)
            self._library.train_util.prepare_dataset_args(args, True)
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"sd-scripts refuses these flags: {english(error)}") from error
        return args

    def _check_timesteps(self) -> None:
        first = self._options.min_timestep or 0
        end = TIMESTEPS if self._options.max_timestep is None else self._options.max_timestep
        if not 0 <= first < end <= TIMESTEPS:
            raise ConfigError(
                f"--min_timestep {first} and --max_timestep {end}: expected 0 <= min < max <= "
                f"{TIMESTEPS}."
            )

    def resolve_subsets(self, content: Table, problems: list[str]) -> dict[str, Table]:
        config_util = self._library.config_util
        sanitizer = config_util.ConfigSanitizer(False, False, True, True)
        try:
            blueprint = config_util.BlueprintGenerator(sanitizer).generate(content, self._options)
        except Exception as error:  # of voluptuous, which only sd-scripts needs
            problems += [english(each) for each in getattr(error, "errors", [error])]
            return {}
        found: dict[str, Table] = {}
        for number, dataset in enumerate(blueprint.dataset_group.datasets, start=1):
            for index, subset in enumerate(dataset.subsets, start=1):
                where = f"[[datasets]] {number}, subset {index}"
                keys = {**_chosen(dataset.params), **_chosen(subset.params)}
                found[where] = check_table(where, keys, KNOWN_KEYS, problems)
        if not found and not problems:
            problems.append("no subsets; expected [[datasets]] with [[datasets.subsets]]")
        return found

    def check(self, config: TrainConfig) -> None:
        context_dim(config.pretrained_model_name_or_path)
        vae = self._options.vae
        check_vae(None if vae is None else Path(vae))
        if config.tokenizer_cache_dir is not None:
            tokenizer_folder(config.tokenizer_cache_dir)
        self.make_optimizer(config, [nn.Parameter(torch.ones(1))])

    def load_base_model(self, config: TrainConfig, accelerator: Accelerator) -> BaseModel:
        path = config.pretrained_model_name_or_path
        args = self._namespace(config)
        args.v2 = context_dim(path) == SD2_CONTEXT
        text_encoder, vae, unet = load_parts(self._library, args, path, accelerator)
        weights = unet.state_dict()
        shape = read_diffusers_shape(weights)
        module = UNet2DConditionModel(**shape.diffusers_config())
        load_checked(module, weights, f"{path}: UNet")
        prediction: Prediction = "v" if config.v_parameterization else "epsilon"
        return BaseModel(
            unet=module,
            shape=shape,
            autoencoder=KLAutoencoder(vae),
            text_encoder=SdTextEncoder(self._library, text_encoder, args),
            prediction=prediction,
            base_hash=file_hash(path) if path.is_file() else folder_hash(path),
        )

    def make_optimizer(
        self, config: TrainConfig, parameters: list[nn.Parameter]
    ) -> tuple[Optimizer, LRScheduler]:
        train_util = self._library.train_util
        args = self._namespace(config)
        if train_util.is_schedulefree_optimizer(None, args):
            raise ConfigError(
                f"--optimizer_type {config.optimizer_type}: schedule-free optimizers are not "
                "supported; use another, with --lr_scheduler."
            )
        parse_arguments(config.optimizer_args)  # whose message says which one is wrong
        args.optimizer_args = with_fused(config.optimizer_type, config.optimizer_args, parameters)
        try:
            optimizer = train_util.get_optimizer(args, parameters)[-1]
        except Exception as error:
            install = (
                package_advice(config.optimizer_type) if isinstance(error, ImportError) else ""
            )
            raise ConfigError(
                f"--optimizer_type {args.optimizer_type}: {english(error)}{install}"
            ) from error
        return optimizer, self._make_schedule(args, optimizer)

    def _make_schedule(self, args: argparse.Namespace, optimizer: Optimizer) -> LRScheduler:
        given = "lr_scheduler_type" if args.lr_scheduler_type else "lr_scheduler"
        name = f"--{given} {getattr(args, given)}"
        try:
            # One step of the schedule for each step of the optimizer, however many processes.
            schedule = self._library.train_util.get_scheduler_fix(args, optimizer, num_processes=1)
        except Exception as error:
            raise ConfigError(f"{name}: {english(error)}") from error
        if isinstance(schedule, ReduceLROnPlateau):
            raise ConfigError(f"{name}: needs a loss to watch at every step; use another schedule.")
        return schedule

    def apply_noise_options(self, batch: Batch, share: Share, seed: int, step: int) -> Batch:
        if not any(getattr(self._options, name) for name in NOISE_FLAGS):
            return batch
        # Drawn for the whole batch; no row's noise depends on the latents of another.
        latents = torch.zeros((share.count, *batch.latents.shape[1:]))
        latents[share.rows] = batch.latents
        with seeded(seed, step):
            noise, _, timesteps = self._library.train_util.get_noise_noisy_latents_and_timesteps(
                self._options, self._schedule, latents
            )
        return replace(batch, noise=noise[share.rows], timesteps=timesteps[share.rows])

    def loss_weight(self, timesteps: Tensor) -> Tensor | None:
        args, custom = self._options, self._library.custom_train_functions
        on_cpu = timesteps.cpu()
        one = weight = torch.ones(len(timesteps))
        if args.min_snr_gamma:
            weight = custom.apply_snr_weight(
                weight, on_cpu, self._schedule, args.min_snr_gamma, args.v_parameterization
            )
        if args.scale_v_pred_loss_like_noise_pred:
            weight = custom.scale_v_prediction_loss_like_noise_prediction(
                weight, on_cpu, self._schedule
            )
        if args.v_pred_like_loss:
            weight = custom.add_v_prediction_like_loss(
                weight, on_cpu, self._schedule, args.v_pred_like_loss
            )
        if args.debiased_estimation_loss:
            weight = custom.apply_debiased_estimation(
                weight, on_cpu, self._schedule, args.v_parameterization
            )
        return None if weight is one else weight.to(timesteps.device)

    def metadata(self, config: TrainConfig) -> dict[str, str]:
        args = self._namespace(config)
        spec = self._library.train_util.get_sai_model_spec_dataclass({}, args, False, False, False)
        return spec.to_metadata_dict()


class SdTextEncoder:
    """sd-scripts' tokenizing and text encoding: clip skip, and captions of 150 or 225 tokens."""

    def __init__(self, library: Library, module: CLIPTextModel, args: argparse.Namespace) -> None:
        layers = module.config.num_hidden_layers
        if args.clip_skip is not None and not 1 <= args.clip_skip <= layers:
            raise ConfigError(
                f"--clip_skip is {args.clip_skip}; this base model's text encoder has {layers} "
                "layers."
            )
        self.module = module
        self.settings = f"clip_skip={args.clip_skip} max_token_length={args.max_token_length}"
        folder = args.tokenizer_cache_dir
        tokenizer = load_tokenizer(module.config.hidden_size, Path(folder) if folder else None)

        class LocalTokenizer(library.strategy_sd.SdTokenizeStrategy):
            """With the same tokenizer as the standalone host, so that nothing is downloaded."""

            def _load_tokenizer(self, *_: Any, **__: Any) -> Any:
                return tokenizer

        self._tokens = LocalTokenizer(args.v2, args.max_token_length)
        self._encoding = library.strategy_sd.SdTextEncodingStrategy(args.clip_skip)

    def encode(self, captions: Sequence[str]) -> Tensor:
        tokens = self._tokens.tokenize(list(captions))
        return self._encoding.encode_tokens(self._tokens, [self.module], tokens)[0].float()


def _plain(value: Any) -> Any:
    """As argparse would have read it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _chosen(params: Any) -> dict[str, Any]:
    """The keys of sd-scripts' resolved parameters that we know, and others that were changed."""
    defaults = asdict(type(params)())
    keys = {
        key: _plain(value)
        for key, value in asdict(params).items()
        if value is not None and (key in KNOWN_KEYS or value != defaults[key])
    }
    if keys.get("caption_extension") == ANY_CAPTION:
        del keys["caption_extension"]
    return keys


@contextmanager
def seeded(seed: int, step: int) -> Iterator[None]:
    """Inside, the global random generators depend on (seed, step) alone; sd-scripts draws there."""
    number = int(torch.randint(2**62, (), generator=generator(seed, "sd-scripts", step)))
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(state)
