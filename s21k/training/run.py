"""A run's folder: its resolved configuration, its checkpoints, and what it continues from."""
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from s21k.core.config import Config, save_config, training_difference
from s21k.core.distributed import World, gather_objects, on_all_ranks, print0
from s21k.core.errors import InputError, TrainingFault
from s21k.core.trees import leaves
from s21k.training.amp import note_precision
from s21k.training.checkpoint import check_categories, is_ours, latest, read, save


def open_folder(cfg: Config, world: World) -> Path:
    """Make the output folder."""
    folder = Path(cfg.output_dir)

    def make() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {folder}: cannot be written ({error})") from None

    on_all_ranks(make)
    return folder


def set_backend_flags(cfg: Config, world: World, one_size: bool = True) -> None:
    """Deterministic algorithms where the configuration says so (None: yes on CPU, no on CUDA).

    one_size: all batches have one size, so that cuDNN's search for the fastest algorithm pays.
    """
    wanted = world.device.type == "cpu" if cfg.deterministic is None else cfg.deterministic
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")      # cuBLAS asks for it; read when CUDA starts
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = one_size and not wanted
    torch.utils.deterministic.fill_uninitialized_memory = False


def wrap_ddp(model: nn.Module, cfg: Config, world: World) -> nn.Module:
    """The model on its device, under DistributedDataParallel where there are several processes.

    find_unused_parameters: stage I leaves layers of the pyramid without gradient; and without it
    DDP rebuilds its buckets after the first step, so that a restarted run on three or more ranks
    would add gradients in another order.
    """
    model = model.to(world.device)
    if world.size == 1:
        return model
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) and cfg.model.norm == "sync_bn":
        if world.device.type == "cpu":
            raise InputError("model.norm=sync_bn needs CUDA with several processes, expected gn or frozen_bn on CPU")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[world.device.index] if world.device.type == "cuda" else None,
                                   find_unused_parameters=True)


def no_sync_except_last(model: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Within a step of several parts, the processes add their gradients up in the last part only."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a run's data is: the categories of each classifier's rows, and a fingerprint of each stream (images and
    their order)."""
    categories: dict[str, list[str]]
    data: dict[str, str]


def check_ranks_agree(cfg: Config, identity: Identity) -> None:
    """InputError on every process: one of them was given other words, or reads other data, than rank 0."""
    mine = {key: value for key, value in leaves(dataclasses.asdict(cfg)).items()
            if key not in ("data.root", "data.workers")}
    mine |= {f"{name} data": value for name, value in identity.data.items()}
    first, *others = gather_objects(mine)
    for rank, theirs in enumerate(others, start=1):
        for name in sorted(first.keys() | theirs.keys()):
            if first.get(name) != theirs.get(name):
                raise InputError(f"rank {rank} has {name} {theirs.get(name)!r:.80}, rank 0 has "
                                 f"{first.get(name)!r:.80}; expected the same words and data on every process")


def save_run(path: Path, world: World, cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer,
             scaler: torch.amp.GradScaler, step: int, total: int, identity: Identity, norm: torch.Tensor) -> None:
    """Rank 0 writes the checkpoint of a run that has done `step` of `total` steps.

    norm: of the last gradient, the same on every rank. TrainingFault, on every rank: it is not finite, so that the
    weights are lost (fp16 skips such steps by itself), or the file cannot be written; the checkpoint before stands.
    """
    if not scaler.is_enabled() and not norm.isfinite():
        raise TrainingFault(f"step {step}: the gradient is not finite; the checkpoint before stands")
    failure = ""
    if world.rank == 0:
        try:
            save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                        "step": step, "total": total, "config": dataclasses.asdict(cfg),
                        **dataclasses.asdict(identity)})
        except OSError as error:
            failure = str(error)
    if failure := gather_objects(failure)[0]:
        raise TrainingFault(f"step {step}: {path} cannot be written ({failure}); the checkpoint before stands")


def to_continue(path: Path) -> Path | None:
    """The checkpoint to continue from, if there is one. InputError: only some of the processes see one (a folder that
    not all machines share)."""
    found = latest(path)
    seen = gather_objects(found is not None)
    if len(set(seen)) > 1:
        raise InputError(f"{path}: only some processes see a checkpoint there ({seen}, by rank), expected one folder "
                         f"that all of them share")
    return found


def resume_run(path: Path, world: World, cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer,
               scaler: torch.amp.GradScaler, identity: Identity, ignore: str | tuple[str, ...]) -> int:
    """Continue from the checkpoint at path if there is one, and say so. Returns the number of steps done.

    Then writes config.yaml, the whole resolved configuration, beside it. ignore: how the keys of the other stage alone
    start ("stage1."), which may differ. InputError: the checkpoint was made with another configuration, other
    categories, or other data.
    """
    found = to_continue(path)

    def restore() -> int:
        content: dict[str, Any] = {"step": 0} if found is None else read(found, world.device)
        if found is not None:
            _restore(content, found, cfg, model, optimizer, scaler, identity, ignore)
        if world.rank == 0:
            save_config(cfg, path.parent / "config.yaml")
        return content["step"]

    step = on_all_ranks(restore)
    steps = gather_objects(step)
    if len(set(steps)) > 1:
        raise InputError(f"{path}: the processes continue from different steps ({steps}, by rank), expected one folder "
                         f"that all of them share")
    if found is not None:
        print0(f"continuing {found} after {step} steps")
    return step


def _restore(content: dict[str, Any], found: Path, cfg: Config, model: nn.Module, optimizer: torch.optim.Optimizer,
             scaler: torch.amp.GradScaler, identity: Identity, ignore: str | tuple[str, ...]) -> None:
    if not is_ours(content):
        raise InputError(f"{found}: expected a checkpoint of this run, its keys start {sorted(map(str, content))[:3]}")
    if keys := training_difference(cfg, content["config"], ignore):
        raise InputError(f"{found} was made with another configuration; different: {', '.join(keys)}; "
                         "give another output_dir=, or remove the folder")
    check_categories(content["categories"], identity.categories, found)
    for name, fingerprint in identity.data.items():
        if content["data"].get(name) != fingerprint:
            raise InputError(f"{found}: its {name} data was {content['data'].get(name)}, now it is {fingerprint}: the "
                             f"images or their order changed")
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        scaler.load_state_dict(content["scaler"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{found}: does not fit this run ({str(error):.200})") from None


def initial_state(cfg: Config) -> tuple[Path, dict[str, Any]]:
    """What stage II starts from: stage2.init, else stage1.pt of this folder, else of the same words without
    their stage-II changes. InputError when there is none."""
    places = ([Path(cfg.stage2.init)] if cfg.stage2.init
              else [Path(d) / "stage1.pt" for d in dict.fromkeys((cfg.output_dir, cfg.parent_dir))])
    for place in filter(None, map(latest, places)):
        content = read(place)
        if is_ours(content):
            note_precision(cfg, content["config"], place)
        if is_ours(content) and content["step"] < content["total"]:
            print0(f"warning: {place} is unfinished: {content['step']} of {content['total']} steps")
        return place, content
    raise InputError(f"no stage-I checkpoint at {' or '.join(map(str, places))}: run train_stage1.py with the same "
                     f"words, "
                     "or give stage2.init=PATH (or stage2.init=scratch for none)")


def trained(cfg: Config) -> Path:
    """The stage-II checkpoint to use: eval.checkpoint, else stage2.pt of the run. InputError when it is not there."""
    path = Path(cfg.eval.checkpoint) if cfg.eval.checkpoint else latest(Path(cfg.output_dir) / "stage2.pt")
    if path is None:
        raise InputError(f"{cfg.output_dir}: no stage2.pt in it; run train_stage2.py with the same words, or give "
                         f"eval.checkpoint=PATH")
    return path
