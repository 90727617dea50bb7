"""Region scores: Equations 1 to 5 of the paper (Sec. 3.2), as pure functions.

R  regions             C   categories of the detection data
K  evaluated categories    C^  categories of the classification data

  Eq. 1   S_fg   = sigmoid(f(x))      is there an object
  Eq. 2   S_c    = softmax(g(x))_c    which category of the detection data
  Eq. 3   S^_c   = softmax(g^(x))_c   which category of the classification data
  Eq. 4   S'_c   = S_fg * S_c,  S^'_c = S_fg * S^_c
  Eq. 5   S'_c   = S_c^(2/3) * S^_c^(1/3)   where both classifiers know the category
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from s21k.structures import BACKGROUND

# For categories that both classifiers know; every other category has the score of the one that knows it (P34).
FUSIONS = {"geometric": lambda det, cls, a: det ** a * cls ** (1 - a),       # Eq. 5
           "arithmetic": lambda det, cls, a: a * det + (1 - a) * cls,
           "det_only": lambda det, cls, a: det,
           "cls_only": lambda det, cls, a: cls}


def region_nll(fg_logits: Tensor, logits: Tensor, labels: Tensor, normalizer: Tensor | float,
               category_normalizer: Tensor | float | None = None) -> Tensor:
    """Negative log of the final score of Eq. 4, summed over R regions, divided by normalizer (P25, G3).

    fg_logits (R,), logits (R, C), labels (R,) in [0, C) or BACKGROUND. A background region is
    scored 1 - S_fg (the paper is silent): {S_fg * S_c, 1 - S_fg} sums to one, so this is one
    cross-entropy over C + 1 outcomes. In log space and float32. The category term alone is divided
    by category_normalizer where one is given. R = 0 gives 0, tied to the graph.
    """
    fg_logits, logits = fg_logits.float(), logits.float()
    is_object = labels != BACKGROUND
    # Of an object -log S_fg - log S_c, of the background -log(1 - S_fg): Eq. 4 in logarithms.
    foreground = F.binary_cross_entropy_with_logits(fg_logits, is_object.float(), reduction="sum")
    category = F.cross_entropy(logits[is_object], labels[is_object], reduction="sum")
    return foreground / normalizer + category / (normalizer if category_normalizer is None else category_normalizer)


def region_bce(fg_logits: Tensor, logits: Tensor, labels: Tensor, normalizer: Tensor | float) -> Tensor:
    """The other reading of P25: binary cross-entropy on each product S_fg * S_c of Eq. 4 (G3).

    Shapes as in region_nll. 1 - S' = (1 - S_fg) + S_fg (1 - S_c), each term in log space: finite near one,
    and f keeps its gradient there.
    """
    log_fg, log_bg = F.logsigmoid(fg_logits.float())[:, None], F.logsigmoid(-fg_logits.float())[:, None]     # (R, 1)
    log_category = F.log_softmax(logits.float(), dim=1)                                              # (R, C)
    # log(1 - S_c): of the likeliest category, whose S_c may be 1 to the last bit, as the sum over all others.
    likeliest = F.one_hot(log_category.argmax(1), log_category.shape[1]).bool()
    rest = log_category.masked_fill(likeliest, -1e4).logsumexp(1, keepdim=True)                      # (R, 1)
    log_other = torch.where(likeliest, rest, torch.log(-torch.expm1(log_category.clamp(max=-1e-3))))
    log_score, log_rest = log_fg + log_category, torch.logaddexp(log_bg, log_fg + log_other)         # (R, C)
    is_object = labels != BACKGROUND
    wanted = torch.zeros_like(log_score)
    wanted[is_object, labels[is_object]] = 1.0
    return -(wanted * log_score + (1 - wanted) * log_rest).sum() / normalizer


def image_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log of Eq. 3 over B whole-image regions: logits (B, C^), labels (B,).

    Every classification sample counts as foreground, as if S_fg = 1; f takes no part (P19, P26). B = 0 gives 0.
    """
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)


def fuse(fg_logits: Tensor, det_logits: Tensor, cls_logits: Tensor, det_index: Tensor, cls_index: Tensor,
         fusion: str = "geometric", exponent: float = 2 / 3) -> Tensor:
    """Final scores (R, K) of Eqs. 4 and 5 in float32.

    fg_logits (R,), det_logits (R, C), cls_logits (R, C^); det_index and cls_index (K,) are rows of
    g and g-hat, -1 where that classifier does not know the category (P33, P34).

    Eq. 5 is applied to S and S^ and multiplied by S_fg once: with the two primed scores of Eq. 4
    S_fg would appear as S_fg^(2/3) * S_fg^(1/3), which is the same.
    """
    def probability(logits: Tensor, index: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)[:, index]

    has_det, has_cls = det_index >= 0, cls_index >= 0
    both, only_det, only_cls = has_det & has_cls, has_det & ~has_cls, has_cls & ~has_det
    scores = torch.zeros(len(fg_logits), len(det_index), device=fg_logits.device)                    # (R, K)
    if only_det.any():
        scores[:, only_det] = probability(det_logits, det_index[only_det])
    if only_cls.any():
        scores[:, only_cls] = probability(cls_logits, cls_index[only_cls])
    if both.any():
        det, cls = probability(det_logits, det_index[both]), probability(cls_logits, cls_index[both])
        scores[:, both] = FUSIONS[fusion](det, cls, exponent)
    return torch.sigmoid(fg_logits.float())[:, None] * scores                                        # Eq. 4
