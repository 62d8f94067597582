"""From the flags to pairs: what a run does, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..common.backgrounds import Backgrounds
from ..common.files import describe_error
from ..common.folder_lock import FolderLock
from ..common.mask_files import is_palette
from ..common.pair_files import PairFiles
from ..common.pictures import Size
from ..common.text import one_line, visible
from ..models.shapes import Changes
from .check import problems
from .command_line import Request
from .engines.local import MakeModel, devices, run_locally
from .errors import StoppedError, SynthesisError
from .jobs import PREFIXES_FROM, FolderJob, Job, TarJob, units_of
from .masks import (
    AugmentedMasks,
    MaskFiles,
    MaskSource,
    RandomMasks,
    ShapeSettings,
    folder_of_masks,
    listed_masks,
    pictures_below,
)
from .model import SiameseModel
from .plan import Plan
from .progress import Progress
from .records import INDEX, MANIFEST, SHARDS, Record, Values, claim, claimed, finish
from .samplers import make_scheduler
from .settings import Settings, Shard
from .shard import Masking, Outcome
from .weights import Weights, find_weights

log = logging.getLogger(__name__)

SHOWN = 20  # problems on the terminal
MOST_PAIRS = 10**9  # of all parts of a run
Engine = Callable[[Job, Sequence[int]], Iterator[Outcome]]


def run(request: Request) -> bool:
    """Make what is missing. Whether every pair of the run, or of its shard, is there now."""
    weights, settings, job = prepare(request)
    values = run_values(request, weights, settings, job)
    make_model = partial(load_model, weights, settings, request.torch_compile)
    shard = request.shard or Shard()
    engine = make_engine(request, make_model)
    lock = FolderLock(
        request.output_dir, f".{shard.name}.lock", "--output_dir", "synthesis", SynthesisError
    )
    try:
        with lock.hold():
            claim(request.output_dir, values)
            record = synthesize(job, request.output_dir, values, shard, engine)
    except OSError as error:
        if error.errno is None:
            raise
        raise StoppedError(
            f"{describe_error(error)}. Make room, or check the path and its permissions, and give "
            "the same command again to go on."
        ) from error
    return not record.failed


def check(request: Request) -> bool:
    """List what is missing or damaged. Whether nothing is."""
    weights, _, job = prepare(request)
    count = 0
    for problem in problems(job, request.output_dir, is_palette(weights.classes), request.shard):
        print(visible(problem))
        count += 1
    if count:
        log.info(
            "%d of %d pairs are missing or damaged. Delete damaged files, and give the command "
            "again without --check to make what is missing.",
            count, len(job.plan),
        )  # fmt: skip
    else:
        log.info("%d pairs, all whole", len(job.plan))
    return not count


def prepare(request: Request) -> tuple[Weights, Settings, Job]:
    """All that needs no weights in memory, checked."""
    weights = find_weights(
        request.pretrained_model_name_or_path,
        request.bundle,
        request.checkpoint,
        request.v_parameterization,
        request.tokenizer_cache_dir,
    )
    size = request.resolution
    if request.random_masks and size is None:
        size = _trained_size(weights)
    settings = request.settings(size)
    make_scheduler(settings.sampler, settings.schedule, "epsilon", settings.steps)
    masks = _mask_source(request, size)
    plan = Plan(masks, request.images_per_mask, request.anonymous)
    masking = Masking(weights.classes, size, _backgrounds(request, weights), settings.seed)
    return weights, settings, _make_job(request, plan, masking)


def _trained_size(weights: Weights) -> Size:
    if weights.metadata is None:
        raise SynthesisError("--random_masks: the weights name no resolution; give --resolution.")
    return weights.metadata.resolution


def _mask_source(request: Request, size: Size | None) -> MaskSource:
    if request.random_masks and size:
        _check_pairs(request, request.random_masks)
        area = (request.smallest / 100, request.largest / 100)
        shapes = ShapeSettings(request.lesions, area)
        prompt = request.prompt or ""
        return RandomMasks(request.random_masks, size, shapes, request.seed, prompt)
    files = _mask_files(request)
    _check_pairs(request, len(files))
    if not request.augment_masks:
        return files
    changes = Changes(not request.no_flip, request.rotation, request.scale, request.elastic)
    return AugmentedMasks(files, request.augment_masks, changes, request.seed)


def _check_pairs(request: Request, masks: int) -> None:
    """Raise SynthesisError for more pairs than a run has."""
    copies = request.augment_masks or 1
    pairs = masks * copies * request.images_per_mask
    if pairs > MOST_PAIRS:
        changed = f" x {copies} copies (--augment_masks)" if request.augment_masks else ""
        raise SynthesisError(
            f"--images_per_mask {request.images_per_mask}: {masks} masks{changed} x "
            f"{request.images_per_mask} images are {pairs} pairs; at most {MOST_PAIRS} are made "
            "in a run. Lower it, or make several runs, each with its own --seed and --output_dir."
        )


def _mask_files(request: Request) -> MaskFiles:
    masks = request.masks
    if masks is not None and masks.is_file():
        return listed_masks(masks)
    if masks is None or not masks.is_dir():
        raise SynthesisError(f"--masks {masks}: no such folder or file. Check the path.")
    return folder_of_masks(masks, request.prompt or "")


def _backgrounds(request: Request, weights: Weights) -> Backgrounds | None:
    folder = request.backgrounds
    if folder is None:
        return None
    if is_palette(weights.classes):
        raise SynthesisError(
            "--backgrounds: lesions of one class only are painted, and these weights were trained "
            "on palette masks. Leave it out."
        )
    return Backgrounds([*pictures_below(folder, "--backgrounds").values()], request.edge)


def _make_job(request: Request, plan: Plan, masking: Masking) -> Job:
    folder = request.output_dir.absolute()
    if request.tar:
        return TarJob(plan, folder, masking, request.batch_size)
    # As it was begun, even if masks have been added since.
    by_prefix = bool(claimed(folder).get("by_prefix", len(plan) >= PREFIXES_FROM))
    return FolderJob(plan, PairFiles(folder, by_prefix), masking, request.batch_size)


def run_values(request: Request, weights: Weights, settings: Settings, job: Job) -> dict[str, Any]:
    """What decides the pairs, by the flags' names: the same for every part of a run."""
    values = {**settings.to_values(), "prompt": request.prompt, **weights.to_values()}
    if request.anonymous:  # the captions' fingerprint knows the prompt
        values |= {"anonymous": True, "prompt": None}
    if request.random_masks:
        values |= {n: getattr(request, n) for n in ("lesions", "smallest", "largest")}
    if request.augment_masks:
        values |= {n: getattr(request, n) for n in ("no_flip", "rotation", "scale", "elastic")}
    if behind := job.masking.backgrounds:
        values |= {"backgrounds": behind.fingerprint(), "edge": behind.edge}
    if request.anonymous or (request.masks and request.masks.is_file()):
        values["captions"] = job.plan.masks.fingerprint()
    if isinstance(job, FolderJob):
        return {**values, "tar": False, "by_prefix": job.files.by_prefix}
    # Which pairs are in which file depends on all of them.
    return {**values, "tar": True, "pairs": job.plan.fingerprint()}


def load_model(weights: Weights, settings: Settings, compiled: bool, device: str) -> SiameseModel:
    return SiameseModel(weights, settings, device, compiled)


def make_engine(request: Request, make_model: MakeModel) -> Engine:
    if request.ray is not None:
        from .engines.ray_cluster import run_on_ray

        return partial(run_on_ray, make_model=make_model, address=request.ray)
    # A job array gives each of its tasks one GPU.
    processes = request.processes or (1 if request.shard else len(devices()))
    return partial(run_locally, make_model=make_model, processes=processes)


def synthesize(job: Job, folder: Path, values: Values, shard: Shard, engine: Engine) -> Record:
    """Make a shard's pairs, and its records; the shards' lists, if this was the last one."""
    units = units_of(job, shard)
    record = Record(job.plan.fingerprint())
    progress = Progress(job.pairs(units), job.batch_size)
    try:
        for outcome in engine(job, units):
            record.add(outcome)
            progress.add(outcome)
    except SynthesisError as error:
        if record.pairs or record.failed:
            raise StoppedError(str(error)) from error
        raise
    finally:
        progress.close()
    whole = finish(folder, values, job, shard, units, record)
    _report(folder, shard, record, whole is not None)
    return record


def _report(folder: Path, shard: Shard, record: Record, merged: bool) -> None:
    log.info(
        "%d pairs: %d made now, %d were there; %d failed",
        record.pairs, record.made, record.there, len(record.failed),
    )  # fmt: skip
    for name, problem in [*record.failed.items()][:SHOWN]:
        log.info("  %s: %s", one_line(name), one_line(problem))
    if len(record.failed) > SHOWN:
        log.info("  ... all in %s", folder / SHARDS / f"{shard.name}.{MANIFEST}")
    if merged:
        log.info("%s", folder / INDEX)
    else:
        log.info("%s is written when all %d shards are done", folder / INDEX, shard.count)
