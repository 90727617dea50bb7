"""Plain twin: plain_parts and plain_scores in s21k/models/plain.py; read it first.

Region scores: Equations 1 to 5 of the paper (Sec. 3.2).

R  regions             C   categories of the detection data
K  evaluated categories    C^  categories of the classification data

  Eq. 1   S_fg   = sigmoid(f(x))      is there an object                                  P20
  Eq. 2   S_c    = softmax(g(x))_c    which category of the detection data                P21
  Eq. 3   S^_c   = softmax(g^(x))_c   which category of the classification data           P22
  Eq. 4   S'_c   = S_fg * S_c,  S^'_c = S_fg * S^_c                                       P24
  Eq. 5   S'_c   = S_c^(2/3) * S^_c^(1/3)   where both classifiers know the category      P33
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from s21k.core.structures import BACKGROUND, RegionScores

# For categories that both classifiers know, of the logarithms of S'_c and S^'_c; every other category has the score of
# the one that knows it (P34).
FUSIONS = {"geometric": lambda log_det, log_cls, a: torch.exp(a * log_det + (1 - a) * log_cls),       # Eq. 5
           "arithmetic": lambda log_det, log_cls, a: a * log_det.exp() + (1 - a) * log_cls.exp(),
           "det_only": lambda log_det, log_cls, a: log_det.exp(),
           "cls_only": lambda log_det, log_cls, a: log_cls.exp()}


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
    objects = is_object.nonzero().squeeze(1)
    # Of an object -log S_fg - log S_c, of the background -log(1 - S_fg): Eq. 4 in logarithms.
    foreground = F.binary_cross_entropy_with_logits(fg_logits, is_object.float(), reduction="sum")
    category = F.cross_entropy(logits[objects], labels[objects], reduction="sum")
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
    wanted = labels[:, None] == torch.arange(log_score.shape[1], device=labels.device)               # (R, C)
    wanted = wanted.float()
    return -(wanted * log_score + (1 - wanted) * log_rest).sum() / normalizer


def image_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log of Eq. 3 over B whole-image regions (G4): logits (B, C^), labels (B,).

    Every classification sample counts as foreground, as if S_fg = 1; f takes no part (P19, P26). B = 0 gives 0.
    """
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)


def _columns(index: Tensor, size: int) -> Tensor | slice:
    """An index as a slice where it names all of `size` columns in order: a view then, not a copy."""
    everything = torch.arange(size, device=index.device)
    return slice(None) if len(index) == size and bool((index == everything).all()) else index


class FusedScores(RegionScores):
    """The final scores (R, K) of Eqs. 4 and 5, made where they are asked for: at 21,841 categories hardly any are.

    fg_logits (R,), det_logits (R, C), cls_logits (R, C^); det_index and cls_index (K,) are rows of
    g and g-hat, -1 where that classifier does not know the category (P33, P34). float32.

    Eq. 5 joins the two primed scores of Eq. 4: S_fg appears as S_fg^(2/3) * S_fg^(1/3), once in all. The
    same product comes out when S and S^ are joined first and multiplied by S_fg then.
    """

    def __init__(self, boxes: Tensor, fg_logits: Tensor, det_logits: Tensor, cls_logits: Tensor, det_index: Tensor, cls_index: Tensor,
                 fusion: str = "geometric", exponent: float = 2 / 3) -> None:
        self.boxes, self.shape = boxes, (len(fg_logits), len(det_index))
        self.det_logits, self.cls_logits = det_logits.float(), cls_logits.float()
        self.det_index, self.cls_index = det_index, cls_index
        # log S'_c = logit_c - (logsumexp of all logits - log S_fg): Eqs. 1 to 4 in logarithms; the bracket is (R,).
        log_fg = F.logsigmoid(fg_logits.float())
        self.det_norm, self.cls_norm = (torch.cat([rows.logsumexp(1) for rows in logits.split(self.rows_at_once(logits.shape[1]))]) - log_fg
                                        for logits in (self.det_logits, self.cls_logits))
        self.fusion, self.exponent = FUSIONS[fusion], exponent
        has_det, has_cls = det_index >= 0, cls_index >= 0
        self.both = has_det & has_cls
        # What fills which columns; a later line overwrites an earlier one, so that g-hat's is one run of columns.
        self.plan = [(self._fill(columns, det, cls), det, cls)
                     for columns, det, cls in ((has_cls & bool((~self.both).any()), False, True), (has_det & ~has_cls, True, False), (self.both, True, True))
                     if columns.any()]

    def _fill(self, chosen: Tensor, det: bool, cls: bool) -> tuple[Tensor | slice, ...]:
        columns = chosen.nonzero().squeeze(1)
        return (_columns(columns, self.shape[1]), _columns(self.det_index[columns], self.det_logits.shape[1]) if det else None,
                _columns(self.cls_index[columns], self.cls_logits.shape[1]) if cls else None)

    def rows(self, first: int, end: int) -> Tensor:
        part, scores = slice(first, end), None
        for (columns, det_rows, cls_rows), det, cls in self.plan:
            log_det = self.det_logits[part, det_rows] - self.det_norm[part, None] if det else None
            log_cls = self.cls_logits[part, cls_rows] - self.cls_norm[part, None] if cls else None
            found = self.fusion(log_det, log_cls, self.exponent) if det and cls else (log_det if det else log_cls).exp_()
            if isinstance(columns, slice):                                                           # all of them
                scores = found
                continue
            scores = self.det_norm.new_zeros(len(found), self.shape[1]) if scores is None else scores
            scores[:, columns] = found
        return self.det_norm.new_zeros(len(self.det_norm[part]), self.shape[1]) if scores is None else scores

    def at(self, region: Tensor, category: Tensor) -> Tensor:
        def log_score(logits: Tensor, norm: Tensor, index: Tensor) -> Tensor:
            if logits.shape[1] == 0:                                                                 # there is no such classifier
                return torch.zeros(len(region), device=norm.device)
            return logits[region, index[category].clamp(min=0)] - norm[region]

        log_det = log_score(self.det_logits, self.det_norm, self.det_index)
        log_cls = log_score(self.cls_logits, self.cls_norm, self.cls_index)
        single = torch.where(self.det_index[category] >= 0, log_det, log_cls).exp()
        score = torch.where(self.both[category], self.fusion(log_det, log_cls, self.exponent), single)
        known = (self.det_index[category] >= 0) | (self.cls_index[category] >= 0)
        return torch.where(known, score, 0.0)


def fuse(fg_logits: Tensor, det_logits: Tensor, cls_logits: Tensor, det_index: Tensor, cls_index: Tensor,
         fusion: str = "geometric", exponent: float = 2 / 3) -> Tensor:
    """All final scores (R, K) at once: arguments as of FusedScores."""
    boxes = fg_logits.new_zeros(len(fg_logits), 4)
    return FusedScores(boxes, fg_logits, det_logits, cls_logits, det_index, cls_index, fusion, exponent).rows(0, len(fg_logits))
