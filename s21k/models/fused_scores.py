"""Plain twin: plain_parts and plain_scores in s21k/models/plain.py; read it first.

All final scores of an image's regions, made where they are asked for: at 21,841 categories hardly any are. The
equations are those of s21k/models/scores.py.

R regions    C and C^ categories of the detection and the classification data    K evaluated categories
"""
from typing import NamedTuple

import torch
from torch import Tensor

from s21k.core.structures import RegionScores
from s21k.models.scores import fuse, log_norm


class Columns(NamedTuple):
    """A set of evaluated categories, and their rows of g and g-hat; None: that classifier is not asked for them."""
    categories: Tensor | slice
    det: Tensor | slice | None
    cls: Tensor | slice | None


def _view(index: Tensor) -> Tensor | slice:
    """An index (n,), n > 0, as a slice where its columns follow one another: a view then, not a copy."""
    first = int(index[0])
    in_order = torch.equal(index, torch.arange(first, first + len(index), device=index.device))
    return slice(first, first + len(index)) if in_order else index


def _take(rows: Tensor, columns: Tensor | slice) -> Tensor:
    """rows[:, columns], which for an index takes four times as long as index_select."""
    return rows[:, columns] if isinstance(columns, slice) else rows.index_select(1, columns)


class FusedScores(RegionScores):
    """The final scores (R, K) of Eqs. 4 and 5, in float32.

    fg_logits (R,), det_logits (R, C), cls_logits (R, C^); det_index and cls_index (K,) are rows of g and g-hat, -1
    where that classifier does not know the category [P33, P34]: such a category has the score of the other one, and
    one that neither knows has 0.
    """

    def __init__(self, boxes: Tensor, fg_logits: Tensor, det_logits: Tensor, cls_logits: Tensor, det_index: Tensor,
                 cls_index: Tensor, fusion: str = "geometric", exponent: float = 2 / 3) -> None:
        self.boxes, self.shape = boxes, (len(fg_logits), len(det_index))
        self.det_logits, self.cls_logits = det_logits.float(), cls_logits.float()
        self.det_index, self.cls_index = det_index, cls_index
        self.det_norm, self.cls_norm = (log_norm(fg_logits.float(), logits, self.rows_at_once(logits.shape[1]))
                                        for logits in (self.det_logits, self.cls_logits))
        self.fusion, self.exponent = fusion, exponent
        has_det, has_cls = det_index >= 0, cls_index >= 0
        self.both = has_det & has_cls
        # All columns that g-hat knows are filled first, with its score: at 21,841 categories they are a slice, which
        # costs less than an index. Those that g knows, too, are overwritten by the fused score afterwards.
        filled_first = has_cls if (has_cls & ~has_det).any() else torch.zeros_like(has_cls)
        sets = [self._columns(filled_first, det=False), self._columns(has_det & ~has_cls, cls=False),
                self._columns(self.both)]
        self.sets = [columns for columns in sets if columns is not None]

    def _columns(self, chosen: Tensor, det: bool = True, cls: bool = True) -> Columns | None:
        """The categories of a mask (K,); None where it chooses none."""
        categories = chosen.nonzero().squeeze(1)
        if len(categories) == 0:
            return None
        return Columns(_view(categories), _view(self.det_index[categories]) if det else None,
                       _view(self.cls_index[categories]) if cls else None)

    def rows(self, first: int, end: int) -> Tensor:
        part = slice(first, end)
        scores = None
        for categories, det, cls in self.sets:
            log_det = None if det is None else _take(self.det_logits[part], det) - self.det_norm[part, None]
            log_cls = None if cls is None else _take(self.cls_logits[part], cls) - self.cls_norm[part, None]
            found = (log_cls.exp_() if log_det is None else log_det.exp_() if log_cls is None
                     else fuse(log_det, log_cls, self.fusion, self.exponent))
            if found.shape[1] == self.shape[1]:                          # all categories, which are in order
                scores = found
                continue
            if scores is None:
                scores = found.new_zeros(len(found), self.shape[1])
            scores[:, categories] = found
        return self.det_norm.new_zeros(len(self.det_norm[part]), self.shape[1]) if scores is None else scores

    def at(self, region: Tensor, category: Tensor) -> Tensor:
        log_det = self._log_scores(self.det_logits, self.det_norm, self.det_index, region, category)
        log_cls = self._log_scores(self.cls_logits, self.cls_norm, self.cls_index, region, category)
        has_det, has_cls = self.det_index[category] >= 0, self.cls_index[category] >= 0
        single = torch.where(has_det, log_det, log_cls).exp()
        score = torch.where(has_det & has_cls, fuse(log_det, log_cls, self.fusion, self.exponent), single)
        return torch.where(has_det | has_cls, score, 0.0)

    @staticmethod
    def _log_scores(logits: Tensor, norm: Tensor, index: Tensor, region: Tensor, category: Tensor) -> Tensor:
        """(n,) of one classifier; without meaning where it does not know the category."""
        if logits.shape[1] == 0:                                         # there is no such classifier
            return torch.zeros(len(region), device=norm.device)
        return logits[region, index[category].clamp(min=0)] - norm[region]
