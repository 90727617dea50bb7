"""A run's folder: its resolved configuration, its checkpoints, and what it continues from."""
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from s21k.core.config import STAGE2_ONLY, Config, save_config, training_difference
from s21k.core.distributed import World, gather_objects, on_all_ranks, print0
from s21k.core.errors import InputError, TrainingFault, refused
from s21k.core.trees import leaves
from s21k.training.amp import note_precision
from s21k.training.checkpoint import check_categories, is_ours, latest, read, save, unfinished
from s21k.training.optim import match_layout


def set_backend_flags(cfg: Config, world: World, one_size: bool = True) -> None:
    """Deterministic algorithms where the configuration says so (None: yes on CPU, no on CUDA).
    one_size: all batches have one size, so that cuDNN's search for the fastest algorithm pays."""
    wanted = world.device.type == "cpu" if cfg.deterministic is None else cfg.deterministic
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")      # cuBLAS asks for it; read when CUDA starts
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = one_size and not wanted
    torch.utils.deterministic.fill_uninitialized_memory = False


def wrap_ddp(model: nn.Module, cfg: Config, world: World) -> nn.Module:
    """The model on its device, under DistributedDataParallel where there are several processes.
    find_unused_parameters: stage I leaves layers of the pyramid without gradient; and without it DDP rebuilds its
    buckets after the first step, so that a restarted run on three or more ranks would add gradients otherwise."""
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
    """What a run's data is: the categories of each classifier's rows, a fingerprint of each stream (with its order)."""
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


def to_continue(path: Path) -> Path | None:
    """The checkpoint to continue from, if there is one. InputError: only some of the processes see one."""
    found = latest(path)
    seen = gather_objects(found is not None)
    if len(set(seen)) > 1:
        raise InputError(f"{path}: only some processes see a checkpoint there ({seen}, by rank), expected one folder "
                         "that all of them share")
    return found


# Keys of the other stage alone may change between two starts of a run: how their names begin.
OTHER_STAGE = {"stage1": STAGE2_ONLY, "stage2": ("stage1.",)}


@dataclasses.dataclass
class Run:
    """One stage's training: configuration, data, checkpoint, and, once the script has made them, what is trained.
    found: the checkpoint it continues from, or None."""
    cfg: Config
    world: World
    stage: str                              # "stage1" or "stage2"
    identity: Identity
    path: Path                              # of its checkpoint
    found: Path | None
    model: nn.Module | None = None          # without DistributedDataParallel
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler | None = None

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.path.parent

    def resume(self) -> int:
        """Continue from the checkpoint if there is one, and say so. Returns the number of steps done.
        Then writes config.yaml, the whole resolved configuration, beside it. InputError: the checkpoint was made with
        another configuration, other categories, or other data."""
        step = on_all_ranks(self._restore)
        steps = gather_objects(step)
        if len(set(steps)) > 1:
            raise InputError(f"{self.path}: the processes continue from different steps ({steps}, by rank), expected "
                             "one folder that all of them share")
        if self.found is not None:
            print0(f"continuing {self.found} after {step} steps")
        return step

    def _restore(self) -> int:
        step = 0
        if self.found is not None:
            content = read(self.found, self.world.device)
            self._check(content)
            try:
                for part in ("model", "optimizer", "scaler"):
                    getattr(self, part).load_state_dict(content[part])
                match_layout(self.optimizer)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{self.found}: does not fit this run ({str(error):.200})") from None
            step = content["step"]
        if self.world.rank == 0:
            save_config(self.cfg, self.folder / "config.yaml")
        return step

    def _check(self, content: dict[str, Any]) -> None:
        if not is_ours(content):
            raise InputError(f"{self.found}: expected a checkpoint of this run, its keys start "
                             f"{sorted(map(str, content))[:3]}")
        if keys := training_difference(self.cfg, content["config"], OTHER_STAGE[self.stage]):
            raise InputError(f"{self.found} was made with another configuration; different: {', '.join(keys)}; "
                             "give another output_dir=, or remove the folder")
        check_categories(content["categories"], self.identity.categories, self.found)
        for name, fingerprint in self.identity.data.items():
            if content["data"].get(name) != fingerprint:
                raise InputError(f"{self.found}: its {name} data was {content['data'].get(name)}, now it is "
                                 f"{fingerprint}: the images or their order changed")

    def save(self, step: int, total: int, norm: torch.Tensor) -> None:
        """Rank 0 writes the checkpoint of a run that has done `step` of `total` steps.
        norm: of the last gradient, the same on every rank. TrainingFault, on every rank: it is not finite, so that the
        weights are lost (fp16 skips such steps by itself), or the file cannot be written; the previous one is kept."""
        if not self.scaler.is_enabled() and not norm.isfinite():
            raise TrainingFault(f"step {step}: the gradient is not finite; the previous checkpoint is kept")
        failure = ""
        if self.world.rank == 0:
            try:
                states = {part: getattr(self, part).state_dict() for part in ("model", "optimizer", "scaler")}
                save(self.path, {**states, "step": step, "total": total, "config": dataclasses.asdict(self.cfg),
                                 **dataclasses.asdict(self.identity)})
            except OSError as error:
                failure = str(error)
        if failure := gather_objects(failure)[0]:
            raise TrainingFault(f"step {step}: {self.path} cannot be written ({failure}); the previous checkpoint is "
                                "kept")


def open_run(cfg: Config, world: World, stage: str, identity: Identity) -> Run:
    """Make the output folder, look what is in it. InputError: other words or data on a rank, or no right to write."""
    check_ranks_agree(cfg, identity)
    folder = Path(cfg.output_dir)

    def make() -> None:
        with refused(f"output folder {folder}: cannot be written"):
            folder.mkdir(parents=True, exist_ok=True)

    on_all_ranks(make)
    path = folder / f"{stage}.pt"
    return Run(cfg, world, stage, identity, path, to_continue(path))


def initial_state(cfg: Config) -> tuple[Path, dict[str, Any]]:
    """What stage II starts from: stage2.init, else stage1.pt of this folder, else of the same words without
    their stage-II changes. InputError when there is none."""
    places = ([Path(cfg.stage2.init)] if cfg.stage2.init
              else [Path(d) / "stage1.pt" for d in dict.fromkeys((cfg.output_dir, cfg.parent_dir))])
    for place in filter(None, map(latest, places)):
        content = read(place)
        if is_ours(content):
            note_precision(cfg, content["config"], place)
        if line := unfinished(content, place):
            print0(f"warning: {line}")
        return place, content
    raise InputError(f"no stage-I checkpoint at {' or '.join(map(str, places))}: run train_stage1.py with the same "
                     "words, or give stage2.init=PATH (or stage2.init=scratch for none)")


def trained(cfg: Config) -> Path:
    """The stage-II checkpoint to use: eval.checkpoint, else stage2.pt of the run. InputError when it is not there."""
    path = Path(cfg.eval.checkpoint) if cfg.eval.checkpoint else latest(Path(cfg.output_dir) / "stage2.pt")
    if path is None:
        raise InputError(f"{cfg.output_dir}: no stage2.pt in it; run train_stage2.py with the same words, or give "
                         f"eval.checkpoint=PATH")
    return path
