"""What surviving costs a step: seeding, the processes' exchange, the checks, a checkpoint.

    python -m tests.bench.overhead [--all] [--json PATH]    or under torchrun, on several processes (OMP_NUM_THREADS=1)

A stage-II step of ResNet-18 at 1 + 3 images of 512 px a process, and beside it the calls that are there only so that a
run can be restarted, checked and stopped: seeding of the step and of each image, the exchange of faults, the gradient's
look; and a checkpoint, a 1,000th of it. Medians over 6 steps (--all: 24), in one run.
"""
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from s21k.core.config import load_config
from s21k.core.distributed import start_distributed, stop_distributed
from s21k.core.randomness import derive_seed, seeded, set_seed
from s21k.models.detector import build_detector
from s21k.training.checkpoint import save
from s21k.training.log import Log
from s21k.training.optim import build_optimizer, parameter_groups
from s21k.training.run import wrap_ddp
from s21k.training.step_monitor import StepMonitor
from tests.bench.timing import Bench
from tests.toy import batch

MINUTES = (1, 3)


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    steps = 24 if bench.begin().all else 6
    if "WORLD_SIZE" not in os.environ:
        torch.set_num_threads(2)
    world = start_distributed()
    cfg = load_config(["toy", "model.backbone=resnet18", "model.norm=gn", "stage2.size=512", "model.fpn_channels=256",
                       "model.region_dim=1024",
                       "model.regions_per_image=512", "model.rpn_batch=256",
                       "model.rpn_pre_nms=[2000,1000]", "model.rpn_proposals=[1000,1000]"])
    set_seed(0)
    detector = build_detector(cfg)
    model = wrap_ddp(detector, cfg, world).train()
    optimizer = build_optimizer(parameter_groups(detector, 0.05), "adamw", 1e-4)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    det, cls = batch(1, size=512), batch(3, objects=1, size=512, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "log.jsonl", 0, steps, 1000, world, "bench")
        monitor = StepMonitor(world, log, 0.01)                                # without its signals
        whole, extra = [], []
        for step in range(steps):
            began = time.perf_counter()
            set_seed(cfg.seed, world.rank, step)
            for position in range(4):
                with seeded(derive_seed(cfg.seed, "det", position)):
                    pass
            seeded_at = time.perf_counter()
            losses = model(det, cls)
            if world.size > 1:
                # so that waiting for the slower one is not counted as the exchange
                torch.distributed.barrier()
            before = time.perf_counter()
            monitor.check(losses, [det, cls], step)
            checked = time.perf_counter()
            sum(losses.values()).backward()
            norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
            looked = time.perf_counter()
            monitor.gradient(norm, scaler)
            spent = (seeded_at - began) + (checked - before) + (time.perf_counter() - looked)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            whole.append(time.perf_counter() - began)
            extra.append(spent)
        began = time.perf_counter()
        if world.rank == 0:
            save(Path(folder) / "c.pt", {"model": detector.state_dict(), "optimizer": optimizer.state_dict()})
        saving = time.perf_counter() - began
        step, own = statistics.median(whole[2:]), statistics.median(extra[2:])
        if world.rank == 0:
            bench.line(f"{world.size} process(es): a step {1000 * step:.0f} ms, of it {1000 * own:.2f} ms "
                       f"({100 * own / step:.2f} %); a checkpoint {1000 * saving:.0f} ms, "
                       f"every 1,000 steps {100 * saving / 1000 / step:.3f} % of a step", step=step, own=own,
                       saving=saving)
        log.close()
    stop_distributed()


if __name__ == "__main__":
    main()
