"""Plain twin: plain_roi_align in s21k/models/plain.py; read it first.

RoIAlign (He et al., 2017) as two matrix products, for runs on CUDA that must repeat bit for bit.

torchvision's CUDA kernel adds gradients in an order that changes from run to run. RoIAlign is separable: the samples of
a region form a grid, a bilinear weight is a product of one weight in y and one in x, and a bin's value is the mean of
its samples. So a region's bins are rows @ features @ columns, and the gradient is a product of the same matrices.

R regions    out  bins a side    H, W  size of the feature map
"""
import torch
from torch import Tensor

REGIONS = 32                            # of one image at a time: the product in between has R * C * out * W numbers


def bin_weights(low: Tensor, high: Tensor, out: int, length: int) -> Tensor:
    """One direction: regions from low (R,) to high (R,), in cells -> (R, out, length), each cell's share in each bin.
    A bin has ceil(its size) samples, at least one where it has a size. One further than a cell outside counts as 0."""
    size = (high - low) / out                                                            # (R,) of a bin
    samples = size.ceil().clamp(min=0)                                                   # (R,) in a bin
    most = int(samples.max()) if len(samples) else 0
    cells = torch.arange(length, device=low.device, dtype=low.dtype)
    bins = torch.arange(out, device=low.device, dtype=low.dtype)
    weights = low.new_zeros(len(low), out, length)
    for number in range(most):
        within = (number + 0.5) / samples                                                # (R,) place in the bin
        place = low[:, None] + (bins + within[:, None]) * size[:, None]                  # (R, out)
        counts = (place >= -1) & (place <= length) & (number < samples)[:, None]
        tent = (1 - (place.clamp(0, length - 1)[..., None] - cells).abs()).clamp(min=0)  # (R, out, length)
        weights += torch.where(counts[..., None], tent, 0.0)
    return weights / samples.clamp(min=1)[:, None, None]


def separable_roi_align(features: Tensor, rois: Tensor, out: int, scale: float, sampling_ratio: int = 0,
                        aligned: bool = True) -> Tensor:
    """features (B, C, H, W), rois (R, 5) of (image, x1, y1, x2, y2) in ascending image -> (R, C, out, out).
    torchvision.ops.roi_align's interface and figures, for sampling_ratio=0 and aligned=True only. As there, it computes
    in float32 also under autocast, and gives the features' own type back."""
    assert sampling_ratio == 0 and aligned
    with torch.autocast(features.device.type, enabled=False):
        exact = features if features.dtype == torch.float64 else features.float()
        return _align(exact, rois.to(exact.dtype), out, scale).to(features.dtype)


def _align(features: Tensor, rois: Tensor, out: int, scale: float) -> Tensor:
    """The two products, some regions of one image at a time."""
    h, w = features.shape[-2:]
    x1, y1, x2, y2 = (rois[:, 1:] * scale - 0.5).unbind(1)
    rows, columns = bin_weights(y1, y2, out, h), bin_weights(x1, x2, out, w)             # (R, out, H), (R, out, W)
    counts = (rois[:, :1] == torch.arange(len(features), device=rois.device)).sum(dim=0).tolist()
    parts = [features.new_zeros(0, features.shape[1], out, out)]
    for image, image_rows, image_columns in zip(features, rows.split(counts), columns.split(counts)):
        for some_rows, some_columns in zip(image_rows.split(REGIONS), image_columns.split(REGIONS)):
            tall = torch.einsum("roh,chw->rcow", some_rows, image)                       # (r, C, out, W)
            parts.append(torch.einsum("rcow,rpw->rcop", tall, some_columns))             # (r, C, out, out)
    return torch.cat(parts)
