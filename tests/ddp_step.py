"""Run by test_detector.py, alone or under torchrun: the gradients of one stage-II step on a fixed global batch.

    ddp_step.py OUT BACKBONE,NORM ..: 4 images with boxes and 12 with labels, shared by the processes; rank 0 writes the
    gradients of each kind of model to OUT.
"""
import sys

import torch

from s21k.core.config import load_config
from s21k.core.distributed import start_distributed, stop_distributed
from s21k.core.randomness import set_seed
from s21k.models.detector import build_detector
from s21k.training.run import set_backend_flags, wrap_ddp
from tests.toy import SMALL, batch


def share(whole, rank, size):
    """This rank's images: position rank * local + i, as in the streams."""
    local = len(whole) // size
    part = slice(rank * local, (rank + 1) * local)
    return whole.pack(whole.images[part], whole.sizes[part], whole.targets[part], whole.image_ids[part],
                      whole.scales[part], whole.seeds[part])


def gradients(world, backbone: str, norm: str) -> dict:
    # More regions than there are proposals, and the category term over objects: the counts that divide the losses
    # then differ from rank to rank, and must be averaged.
    cfg = load_config(["toy", *SMALL, f"model.backbone={backbone}", f"model.norm={norm}", "stage2.drop_path=0.3",
                       "model.regions_per_image=64", "stage2.loss_norm=fg", "model.with_masks=true"])
    set_backend_flags(cfg, world)
    set_seed(0, "initialisation")
    detector = build_detector(cfg)
    with torch.no_grad():
        # proposals that depend on the image, not on the initial near-zero deltas
        detector.rpn.deltas.weight.mul_(5)
    model = wrap_ddp(detector, cfg, world)
    det, cls = batch(4, objects=3), batch(12, objects=1, seed=1, first_seed=100)
    losses = model(share(det, world.rank, world.size), share(cls, world.rank, world.size))
    sum(losses.values()).backward()
    return {name: p.grad for name, p in detector.named_parameters()}


def main(out: str, *kinds: str) -> None:
    world = start_distributed()
    found = {kind: gradients(world, *kind.split(",")) for kind in kinds}
    if world.rank == 0:
        torch.save(found, out)
    stop_distributed()


if __name__ == "__main__":
    main(*sys.argv[1:])
