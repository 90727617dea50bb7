"""Mask R-CNN's mask head (He et al., 2017), class-agnostic: novel categories have no masks to learn from [P39, G2].

R positive regions    N detections    m = 28, the side of a predicted mask
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s21k.core.distributed import mean_over_ranks
from s21k.core.structures import Regions, Target
from s21k.core.transfer import to_device
from s21k.models.roi_pool import pool_regions

POOL = 14


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a deconvolution to twice the side, one logit a cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))
        self.deconv = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.predictor = nn.Conv2d(channels, 1, 1)
        for layer in (*self.convs, self.deconv):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, pyramid: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """pyramid P2.., boxes B times (Ri, 4) -> logits (R, m, m)."""
        x = pool_regions(pyramid, boxes, POOL)                           # (R, channels, 14, 14)
        for conv in self.convs:
            x = F.relu(conv(x))
        x = F.relu(self.deconv(x))                                       # (R, channels, 28, 28)
        return self.predictor(x).squeeze(1)                              # (R, 28, 28)

    def losses(self, pyramid: list[Tensor], regions: list[Regions], targets: list[Target]) -> dict[str, Tensor]:
        """{"mask"}: binary cross-entropy, the mean over the cells of all processes' regions that hold an object."""
        boxes = [r.boxes[:r.num_objects] for r in regions]
        logits = self(pyramid, boxes)                                    # (R, m, m)
        side = logits.shape[-1]
        objects = torch.cat([r.gt_index[:r.num_objects] for r in regions]).cpu()
        flat = iter(zip(objects.tolist(), torch.cat(boxes).tolist()))    # of all images: two waits for the device
        wanted = [target.masks.crop(*next(flat), side) for r, target in zip(regions, targets)
                  for _ in range(r.num_objects)]
        wanted = to_device(torch.stack(wanted).float() if wanted else torch.zeros(0, side, side), logits.device)
        count = mean_over_ranks(to_device(len(logits), logits.device, torch.float32)).clamp(min=1)
        loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
        return {"mask": loss / (count * logits.shape[-1] ** 2)}

    def predict(self, pyramid: list[Tensor], boxes: Tensor) -> Tensor:
        """One image: boxes (N, 4) -> the probability of each cell of each box, (N, m, m)."""
        return self(pyramid, [boxes]).float().sigmoid()
