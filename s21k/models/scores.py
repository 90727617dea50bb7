"""Region scores: Equations 1 to 5 of the paper (Sec. 3.2).

R  regions             C   categories of the detection data
K  evaluated categories    C^  categories of the classification data

  Eq. 1   S_fg   = sigmoid(f(x))      is there an object                                  [P20]
  Eq. 2   S_c    = softmax(g(x))_c    which category of the detection data                [P21]
  Eq. 3   S^_c   = softmax(g^(x))_c   which category of the classification data           [P22]
  Eq. 4   S'_c   = S_fg * S_c,  S^'_c = S_fg * S^_c                                       [P24]
  Eq. 5   final  = S'_c^(2/3) * S^'_c^(1/3)   where both classifiers know the category    [P33]
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from s21k.core.structures import BACKGROUND

# Of log S'_c and log S^'_c, where both classifiers know the category; else the score is the knowing one's [P34].
FUSIONS = {"geometric": lambda log_det, log_cls, a: torch.exp(a * log_det + (1 - a) * log_cls),       # Eq. 5
           "arithmetic": lambda log_det, log_cls, a: a * log_det.exp() + (1 - a) * log_cls.exp(),
           "det_only": lambda log_det, log_cls, a: log_det.exp(),
           "cls_only": lambda log_det, log_cls, a: log_cls.exp()}


def region_nll(fg_logits: Tensor, logits: Tensor, labels: Tensor, normalizer: Tensor | float,
               category_normalizer: Tensor | float | None = None) -> Tensor:
    """Negative log of the final score of Eq. 4, summed over R regions, divided by normalizer [P25, G3].

    fg_logits (R,), logits (R, C), labels (R,) in [0, C) or BACKGROUND. A background region is
    scored 1 - S_fg (the paper is silent): {S_fg * S_c, 1 - S_fg} sums to one, so this is one
    cross-entropy over C + 1 outcomes. In log space and float32. The category term alone is divided
    by category_normalizer where one is given. R = 0 gives 0, and keeps the autograd graph.
    """
    fg_logits, logits = fg_logits.float(), logits.float()
    is_object = labels != BACKGROUND
    objects = is_object.nonzero().squeeze(1)
    # Of an object -log S_fg - log S_c, of the background -log(1 - S_fg): Eq. 4 in logarithms.
    foreground = F.binary_cross_entropy_with_logits(fg_logits, is_object.float(), reduction="sum")
    category = F.cross_entropy(logits[objects], labels[objects], reduction="sum")
    return foreground / normalizer + category / (normalizer if category_normalizer is None else category_normalizer)


def region_bce(fg_logits: Tensor, logits: Tensor, labels: Tensor, normalizer: Tensor | float) -> Tensor:
    """The other reading of P25: binary cross-entropy on each product S_fg * S_c of Eq. 4 [G3].
    Shapes as in region_nll. 1 - S' = (1 - S_fg) + S_fg (1 - S_c), each term in log space: finite near one,
    and f keeps its gradient there. The clamp only protects the gradient of the branch that `where` does not use."""
    log_fg, log_bg = F.logsigmoid(fg_logits.float())[:, None], F.logsigmoid(-fg_logits.float())[:, None]     # (R, 1)
    log_category = F.log_softmax(logits.float(), dim=1)                                              # (R, C)
    # log(1 - S_c). For the likeliest category 1 - S_c could round to 0, so the other categories are added up.
    likeliest = F.one_hot(log_category.argmax(1), log_category.shape[1]).bool()
    log_others = log_category.masked_fill(likeliest, -1e4).logsumexp(1, keepdim=True)                # (R, 1)
    log_not_category = torch.where(likeliest, log_others, torch.log(-torch.expm1(log_category.clamp(max=-1e-3))))
    log_score = log_fg + log_category                                                                # (R, C)
    log_not_score = torch.logaddexp(log_bg, log_fg + log_not_category)                               # (R, C)
    wanted = (labels[:, None] == torch.arange(log_score.shape[1], device=labels.device)).float()     # (R, C)
    return -(wanted * log_score + (1 - wanted) * log_not_score).sum() / normalizer


def image_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log of Eq. 3 over B whole-image regions [G4]: logits (B, C^), labels (B,).
    Every classification sample counts as foreground, as if S_fg = 1; f takes no part [P19, P26]. B = 0 gives 0."""
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)


def log_norm(fg_logits: Tensor, logits: Tensor, rows_at_once: int) -> Tensor:
    """(R,): what is taken from a logit to have the logarithm of a primed score, log S'_c = logit_c - log_norm.
    Eqs. 1 to 4 in logarithms: log softmax_c is logit_c - logsumexp, and log S_fg is added. fg_logits (R,); logits
    (R, C) or (R, C^), of which rows_at_once rows are read at a time."""
    return torch.cat([rows.logsumexp(1) for rows in logits.split(rows_at_once)]) - F.logsigmoid(fg_logits)


def fuse(log_det: Tensor, log_cls: Tensor, fusion: str = "geometric", exponent: float = 2 / 3) -> Tensor:
    """Eq. 5: the final score of categories that both classifiers know, from log S'_c and log S^'_c of one shape.
    Both contain S_fg, which appears as S_fg^(2/3) * S_fg^(1/3), so once in all: the same product comes out when S and
    S^ are joined first and multiplied by S_fg then. fusion: a name of FUSIONS."""
    return FUSIONS[fusion](log_det, log_cls, exponent)
