"""Stage I: train an image classifier as a detector's RoI head on one RoI, the entire image (Sec. 3.2) [P1].

    python train_stage1.py r18 tiny                        one process
    torchrun --nproc-per-node=8 train_stage1.py r18 tiny   eight: the same images in the same order
    python train_stage1.py r18 tiny stage1.epochs=2        key=value: over the words, the later one over the earlier

Words are files of s21k/configs or paths of YAML files. Writes runs/<words>/stage1.pt, log.jsonl,
curves.svg and config.yaml; started again with the same words, it continues.
"""
import math
from pathlib import Path

import torch
import torch.nn.functional as F

from s21k.core.config import load_config
from s21k.core.distributed import World, on_all_ranks, print0, start_distributed, stop_distributed, sum_over_ranks
from s21k.core.errors import run_command
from s21k.core.randomness import set_seed
from s21k.core.transfer import model_to, to_device
from s21k.data.first_look import look_ahead
from s21k.data.loaders import open_classification, stage1_batches, validation_batches
from s21k.data.mixup import Mixup
from s21k.experiments.plot import plot_curves
from s21k.files.images import normalize
from s21k.models.classifier import build_classifier
from s21k.models.pretrained import load_backbone
from s21k.models.roi_pool import level_shares
from s21k.plan import plan_stage1
from s21k.training.amp import autocast, resolve_amp
from s21k.training.checkpoint import read
from s21k.training.log import Log
from s21k.training.optim import build_optimizer, parameter_groups, set_learning_rate
from s21k.training.run import Identity, open_run, set_backend_flags, wrap_ddp
from s21k.training.schedule import warmup_cosine
from s21k.training.step_monitor import StepMonitor


@torch.no_grad()
def top1_accuracy(model: torch.nn.Module, batches, world: World, amp: str) -> float:
    """Share of the validation images whose most probable class is theirs; all processes together."""
    model.eval()
    right = torch.zeros((), device=world.device)
    seen, unreadable = 0, 0                                                      # an unreadable image is never right
    for batch in batches:
        batch = batch.to(world.device)
        with autocast(amp, world.device):
            logits = model(normalize(batch.images))                              # (B, C^)
        right += (logits.argmax(1) == batch.image_labels()).sum()
        seen, unreadable = seen + len(batch), unreadable + sum(map(bool, batch.faults))
    model.train()
    right, total, unreadable = sum_over_ranks(
        torch.stack([right, *to_device([seen, unreadable], world.device, torch.float32)])).tolist()
    if unreadable:
        print0(f"{int(unreadable)} validation images cannot be read and count as wrong")
    return right / total


def main(words: list[str]) -> None:
    cfg = load_config([word for word in words if word != "--plan"])
    if "--plan" in words:
        return plan_stage1(cfg)
    s = cfg.stage1
    world = start_distributed(cfg.timeout)
    cfg = resolve_amp(cfg, world, Path(cfg.output_dir) / "stage1.pt")
    set_backend_flags(cfg, world)
    train = on_all_ranks(lambda: open_classification(cfg, "train"))
    val = on_all_ranks(lambda: open_classification(cfg, "val", train.class_names)) if cfg.data.cls.val else None
    on_all_ranks(lambda: look_ahead(cfg, "det", "eval"))
    identity = Identity({"cls": train.class_names}, {"cls": train.fingerprint()})
    run = open_run(cfg, world, "stage1", identity)
    steps_per_epoch = max(1, len(train) // s.batch)
    total, warmup = max(1, round(s.epochs * steps_per_epoch)), round(s.warmup_epochs * steps_per_epoch)

    set_seed(cfg.seed, "initialisation")                                         # the same weights on every rank
    classifier = build_classifier(cfg.model, cfg.data.cls.classes, s.drop_path)
    if s.init is not None:
        print0(load_backbone(classifier.backbone, read(s.init)))
    model = wrap_ddp(model_to(classifier, world.device), cfg, world)
    groups = parameter_groups(classifier, s.weight_decay, exempt=s.optimizer == "adamw")
    optimizer = build_optimizer(groups, s.optimizer, s.rate(s.lr), s.momentum)
    scaler = torch.amp.GradScaler(world.device.type, enabled=cfg.amp == "fp16")
    mixup = Mixup(cfg.data.cls.classes, s.mixup, s.cutmix, s.label_smoothing)
    run.model, run.optimizer, run.scaler = classifier, optimizer, scaler
    first = run.resume()

    print0(f"stage I: {len(train)} images, {len(train.class_names)} classes, {total} steps of {s.batch} images, "
           f"whole-image RoI at {s.size} px: {level_shares(torch.tensor([float(s.size)]))} by FPN's rule")
    log = Log(run.folder / "log.jsonl", first, total, s.log_every, world, "stage1")
    batches = log.waits(stage1_batches(cfg, train, world, first)) if first < total else None
    done = first
    model.train()
    with StepMonitor(world, log, cfg.data.max_faults) as monitor:
        for step in range(first, total):
            lr = warmup_cosine(step, total, warmup, s.rate(s.lr), s.rate(s.min_lr))
            set_learning_rate(optimizer, lr)
            set_seed(cfg.seed, world.rank, step)                                     # nothing random is stored
            batch = next(batches).to(world.device)
            images, soft_labels = mixup(normalize(batch.images), batch.image_labels())   # (B, 3, H, W), (B, C^)
            with autocast(cfg.amp, world.device):
                logits = model(images, batch.seeds)                                  # (B, C^)
            loss = F.cross_entropy(logits.float(), soft_labels)                      # Eq. 3, mean over the images
            scaler.scale(loss).backward()
            log.add(monitor.check({"loss": loss}, [batch], step))       # the step's one wait for the device
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(classifier.parameters(), s.clip_norm or math.inf)  # 0: no clipping
            monitor.gradient(norm, scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            log.step_done(step, lr, monitor.skipped)
            done, last = step + 1, step + 1 == total
            if done % s.save_every == 0 or last or monitor.stop:
                run.save(done, total, norm)
                plot_curves(run.folder, world)
            if monitor.stop:
                break  # asked for by a signal; the same words continue
            if val is not None and (done % (steps_per_epoch * s.validate_every) == 0 or last):
                accuracy = top1_accuracy(classifier, validation_batches(cfg, val, world), world, cfg.amp)
                log.write({"stage": "stage1", "step": done, "epoch": round(done / steps_per_epoch, 2),
                           "val_top1": accuracy})
                print0(f"\nstage I after {done} of {total} steps: top-1 accuracy {100 * accuracy:.1f} % on {len(val)} "
                       f"images")
    plot_curves(run.folder, world)
    log.close()
    print0(f"stage I {'done' if done == total else f'stopped after {done} of {total} steps'}: {run.path}")
    stop_distributed()


if __name__ == "__main__":
    run_command(main, __doc__)
