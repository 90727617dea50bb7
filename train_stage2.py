"""Stage II: train boxes and image labels together, starting from stage I (Sec. 3.2, Fig. 2b) [P1].

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

from s21k.core.config import Config, load_config
from s21k.core.distributed import on_all_ranks, print0, start_distributed, stop_distributed
from s21k.core.errors import InputError, run_command
from s21k.core.randomness import set_seed
from s21k.data.first_look import look_ahead
from s21k.data.loaders import open_classification, open_detection, stage2_batches
from s21k.experiments.plot import plot_curves
from s21k.models.detector import Detector, build_detector, novel_rows
from s21k.models.pretrained import load_backbone
from s21k.models.roi_pool import level_shares
from s21k.plan import plan_stage2
from s21k.training.amp import autocast, resolve_amp
from s21k.training.checkpoint import check_categories, is_ours
from s21k.training.log import Log
from s21k.training.optim import build_optimizer, parameter_groups, set_learning_rate
from s21k.training.run import Identity, initial_state, no_sync_except_last, open_run, set_backend_flags, wrap_ddp
from s21k.training.schedule import warmup_steps
from s21k.training.step_monitor import StepMonitor


def start_from_stage1(cfg: Config, detector: Detector, identity: Identity) -> None:
    """Take over what stage II inherits [P1, P35]: of stage I's checkpoint, or of public weights the backbone alone."""
    source, content = on_all_ranks(lambda: initial_state(cfg))
    taken: list[str] = []
    if is_ours(content):
        labelled = {name: names for name, names in identity.categories.items() if name == "cls"}
        check_categories(content["categories"], labelled, source)
        taken, random = detector.inherit(content["model"], cfg.stage2.inherit, cfg.stage2.load_image_classifier)
        print0(f"from {source}: {', '.join(taken)}; random: {', '.join(random)}")
    else:
        print0(load_backbone(detector.encoder.backbone, content))
    copied = cfg.stage2.copy_fpn_output
    if copied != "none":
        if "FPN" not in taken:
            raise InputError(f"stage2.copy_fpn_output={copied}: no FPN is taken from {source}, expected none")
        detector.encoder.fpn.copy_output(int(copied[1]))


def main(words: list[str]) -> None:
    cfg = load_config([word for word in words if word != "--plan"])
    if "--plan" in words:
        return plan_stage2(cfg)
    s = cfg.stage2
    world = start_distributed(cfg.timeout)
    cfg = resolve_amp(cfg, world, Path(cfg.output_dir) / "stage2.pt")
    set_backend_flags(cfg, world)
    det_data = on_all_ranks(lambda: open_detection(cfg))
    cls_data = on_all_ranks(lambda: open_classification(cfg, "train")) if cfg.data.cls else None
    on_all_ranks(lambda: look_ahead(cfg, "eval"))
    identity = Identity({"det": det_data.category_names} | ({"cls": cls_data.class_names} if cls_data else {}),
                        {"det": det_data.fingerprint()} | ({"cls": cls_data.fingerprint()} if cls_data else {}))
    run = open_run(cfg, world, "stage2", identity)

    set_seed(cfg.seed, "initialisation")                                # the same weights on every rank
    detector = build_detector(cfg)
    if s.init != "scratch" and run.found is None:                       # "-stage I" [P68] starts from nothing
        start_from_stage1(cfg, detector, identity)
    if s.ignore_novel_above > 0:                                        # ours, off by default [G6]
        detector.box_head.novel_rows = on_all_ranks(lambda: novel_rows(cfg)).to(world.device)
    model = wrap_ddp(detector, cfg, world)
    optimizer = build_optimizer(parameter_groups(detector, s.weight_decay), "adamw", s.lr)     # [P60, G18]
    scaler = torch.amp.GradScaler(world.device.type, enabled=cfg.amp == "fp16")
    run.model, run.optimizer, run.scaler = detector, optimizer, scaler
    first = run.resume()

    micro_batch = s.det_batch // s.accumulate                           # images with boxes of one part of a step
    with_cls = cls_data is not None and s.cls_per_det > 0
    print0(f"stage II: {s.iterations} steps of {s.det_batch} images with boxes (of {len(det_data)}, "
           f"{det_data.left_out} boxes left out) and {s.det_batch * s.cls_per_det if with_cls else 0} with labels")
    sides = s.size * torch.linspace(*s.scale, 1000).clamp(max=1.0)
    print0(f"whole-image RoI of a square image under the jitter: {level_shares(sides)} by FPN's rule")
    log = Log(run.folder / "log.jsonl", first, s.iterations, s.log_every, world, "stage2")
    det_batches = cls_batches = None
    if first < s.iterations:
        det_batches = log.waits(stage2_batches(cfg, det_data, "det", world, micro_batch, first * s.accumulate))
    if with_cls and det_batches is not None:                                      # 1 : 3 in each iteration [P57]
        cls_batches = log.waits(stage2_batches(cfg, cls_data, "cls", world, s.cls_per_det * micro_batch,
                                               first * s.accumulate))
    milestones = [round(share * s.iterations) for share in s.milestones]
    loss_weights = {"image_category": s.image_loss_weight}              # lambda [P61]; every other loss has weight 1
    done = first
    model.train()
    with StepMonitor(world, log, cfg.data.max_faults) as monitor:
        for step in range(first, s.iterations):
            lr = warmup_steps(step, s.lr, s.warmup, milestones)
            set_learning_rate(optimizer, lr)
            set_seed(cfg.seed, world.rank, step)                            # nothing random is stored
            for micro in range(s.accumulate):
                det = next(det_batches).to(world.device)                    # b images with boxes
                cls = next(cls_batches).to(world.device) if cls_batches is not None else None  # 3b images, a label each
                with no_sync_except_last(model, micro == s.accumulate - 1):
                    with autocast(cfg.amp, world.device):               # processes add up in the last part
                        losses = model(det, cls)                            # one forward, so DDP sees one graph
                    loss = sum(loss_weights.get(name, 1.0) * value for name, value in losses.items())
                    scaler.scale(loss / s.accumulate).backward()
                log.add(monitor.check(losses, [det, cls], step))             # after the device has all of its work
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(detector.parameters(), s.clip_norm or math.inf)      # 0: no clipping
            monitor.gradient(norm, scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            log.step_done(step, lr, monitor.skipped)
            done = step + 1
            if done % s.save_every == 0 or done == s.iterations or monitor.stop:
                run.save(done, s.iterations, norm)
                plot_curves(run.folder, world)
            if monitor.stop:
                break  # asked for by a signal; the same words continue
    plot_curves(run.folder, world)
    log.close()
    print0(f"stage II {'done' if done == s.iterations else f'stopped after {done} of {s.iterations} steps'}: "
           f"{run.path}")
    stop_distributed()


if __name__ == "__main__":
    run_command(main, __doc__)
