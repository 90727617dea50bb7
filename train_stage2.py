"""Stage II: train boxes and image labels together, starting from stage I (Sec. 3.2, Fig. 2b; P1).

    python train_stage2.py r18 tiny                        one process
    torchrun --nproc-per-node=8 train_stage2.py r18 tiny   eight: the same images in the same order
    python train_stage2.py r18 tiny no_stage1              an ablation of Tables 2 and 3

Words are files of s21k/configs or paths of YAML files; key=value overrides. Starts from
stage2.init=PATH, else from stage1.pt of the same words. Writes runs/<words>/stage2.pt, log.jsonl,
curves.svg and config.yaml; started again with the same words, it continues.
"""
import math
from pathlib import Path

import torch

from s21k.core.config import load_config
from s21k.core.distributed import print0, start_distributed, stop_distributed, together
from s21k.core.errors import InputError, run_command
from s21k.core.randomness import set_seed
from s21k.data.first_look import look_ahead
from s21k.data.loaders import open_classification, open_detection, stage2_batches
from s21k.experiments.plot import plot_curves
from s21k.models.detector import build_detector
from s21k.models.pretrained import load_backbone
from s21k.models.roi_pool import level_shares
from s21k.plan import plan_stage2
from s21k.training.amp import autocast, resolve_amp
from s21k.training.checkpoint import check_categories, is_ours
from s21k.training.health import Health
from s21k.training.log import Log
from s21k.training.optim import build_optimizer, parameter_groups, set_learning_rate
from s21k.training.run import (
    Identity,
    agree,
    gradients_meet,
    initial_state,
    open_folder,
    resume_run,
    save_run,
    settle,
    spread,
    to_continue,
)
from s21k.training.schedule import warmup_steps


def main(words: list[str]) -> None:
    cfg = load_config([word for word in words if word != "--plan"])
    if "--plan" in words:
        return plan_stage2(cfg)
    s = cfg.stage2
    world = start_distributed(cfg.timeout)
    cfg = resolve_amp(cfg, world, Path(cfg.output_dir) / "stage2.pt")
    settle(cfg, world)
    det_data = together(lambda: open_detection(cfg))
    cls_data = together(lambda: open_classification(cfg, "train")) if cfg.data.cls else None
    together(lambda: look_ahead(cfg, "eval"))
    identity = Identity({"det": det_data.category_names} | ({"cls": cls_data.class_names} if cls_data else {}),
                        {"det": det_data.fingerprint()} | ({"cls": cls_data.fingerprint()} if cls_data else {}))
    agree(cfg, identity)
    folder = open_folder(cfg, world)

    set_seed(cfg.seed, "initialisation")                                # the same weights on every rank
    detector = build_detector(cfg)
    if s.init != "scratch" and to_continue(folder / "stage2.pt") is None:    # "-stage I" (P68) starts from nothing
        source, content = together(lambda: initial_state(cfg))
        taken = []
        if is_ours(content):
            check_categories(content["categories"], {k: v for k, v in identity.categories.items() if k == "cls"}, source)
            taken, random = detector.inherit(content["model"], s.inherit, s.load_image_classifier)
            print0(f"from {source}: {', '.join(taken)}; random: {', '.join(random)}")
        else:
            print0(load_backbone(detector.encoder.backbone, content))
        if s.copy_fpn_output != "none":
            if "FPN" not in taken:
                raise InputError(f"stage2.copy_fpn_output={s.copy_fpn_output}: no FPN is taken from {source}, expected none")
            detector.encoder.fpn.copy_output(int(s.copy_fpn_output[1]))
    model = spread(detector, cfg, world)
    optimizer = build_optimizer(parameter_groups(detector, s.weight_decay), "adamw", s.lr)     # P60, G18
    scaler = torch.amp.GradScaler(world.device.type, enabled=cfg.amp == "fp16")
    first = resume_run(folder / "stage2.pt", world, cfg, detector, optimizer, scaler, identity, ignore="stage1.")

    micro_batch = s.det_batch // s.accumulate                           # images with boxes of one part of a step
    with_cls = cls_data is not None and s.cls_per_det > 0
    print0(f"stage II: {s.iterations} steps of {s.det_batch} images with boxes (of {len(det_data)}, {det_data.left_out} boxes "
           f"left out) and {s.det_batch * s.cls_per_det if with_cls else 0} with labels")
    sides = s.size * torch.linspace(*s.scale, 1000).clamp(max=1.0)
    print0(f"whole-image RoI of a square picture under the jitter: {level_shares(sides)} by FPN's rule")
    log = Log(folder / "log.jsonl", first, s.iterations, s.log_every, world, "stage2")
    det_batches = cls_batches = None
    if first < s.iterations:
        det_batches = log.waits(stage2_batches(cfg, det_data, "det", world, micro_batch, first * s.accumulate))
    if with_cls and det_batches is not None:                                      # 1 : 3 in each iteration (P57)
        cls_batches = log.waits(stage2_batches(cfg, cls_data, "cls", world, s.cls_per_det * micro_batch, first * s.accumulate))
    milestones = [round(share * s.iterations) for share in s.milestones]
    loss_weights = {"image_category": s.image_loss_weight}              # lambda (P61); every other loss has weight 1
    done = first
    model.train()
    with Health(world, log, cfg.data.max_faults) as health:
        for step in range(first, s.iterations):
            lr = warmup_steps(step, s.lr, s.warmup, milestones)
            set_learning_rate(optimizer, lr)
            set_seed(cfg.seed, world.rank, step)                            # nothing random is stored
            for micro in range(s.accumulate):
                det = next(det_batches).to(world.device)                    # b images with boxes
                cls = next(cls_batches).to(world.device) if cls_batches is not None else None   # 3b images, one label each
                with gradients_meet(model, micro == s.accumulate - 1):              # processes add up in the last part
                    with autocast(cfg.amp, world.device):
                        losses = model(det, cls)                            # one forward, so DDP sees one graph
                    loss = sum(loss_weights.get(name, 1.0) * value for name, value in losses.items())
                    scaler.scale(loss / s.accumulate).backward()
                log.add(health.check(losses, [det, cls], step))             # after the device has all of its work
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), s.clip_norm or math.inf)      # 0: no clipping
            health.gradient(norm, scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            log.step_done(step, lr, health.skipped)
            done = step + 1
            if done % s.save_every == 0 or done == s.iterations or health.stop:
                save_run(folder / "stage2.pt", world, cfg, detector, optimizer, scaler, done, s.iterations, identity, norm)
                plot_curves(folder, world)
            if health.stop:                                                 # asked for by a signal; the same words continue
                break
    plot_curves(folder, world)
    log.close()
    print0(f"stage II {'done' if done == s.iterations else f'stopped after {done} of {s.iterations} steps'}: {folder / 'stage2.pt'}")
    stop_distributed()


if __name__ == "__main__":
    run_command(main, __doc__)
