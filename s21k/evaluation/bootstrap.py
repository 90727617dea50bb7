"""What chance the choice of the evaluation images leaves in a figure: the bootstrap (Efron, 1979).

A draw takes as many images as there are, with repetition: image i counts weights[d, i] times. All that is compared is
scored on the same draws, so that differences of two rows are paired: images that are hard for both move both.

D draws    I images    K categories    N detections
"""
import numpy as np

from s21k.evaluation.average_precision import RECALLS, AveragePrecision, mean
from s21k.evaluation.localization import KEYS, LocalizationAccuracy
from s21k.evaluation.proposals import ProposalRecall


def draw_weights(images: int, draws: int = 200, seed: int = 0) -> np.ndarray:
    """(D, I): how often each image is in each draw. The same numbers give the same draws."""
    chance = np.random.default_rng(seed).integers(0, images, (draws, images))
    return np.stack([np.bincount(row, minlength=images) for row in chance])


def weighted_mean(values: np.ndarray, weights: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """values (I,), weights (D, I), counted (I,) bool -> (D,); -1 where no image counts."""
    weights = weights * counted
    total = weights.sum(axis=1)
    return np.where(total > 0, weights @ values / np.maximum(total, 1), -1.0)


def localization_draws(metric: LocalizationAccuracy, hits: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The metric's figures (D,) on each draw, from the rows (I, len(KEYS)) that it noted."""
    category = metric.image_category
    figures = {}
    for name in ["", *metric.group_names]:
        counted = (category >= 0) & (metric.gt.groups[name][category] if name else True)
        for column, key in enumerate(KEYS):
            figures[f"{key}_{name}" if name else key] = weighted_mean(hits[:, column], weights, counted)
    return figures


def recall_draws(metric: ProposalRecall, counts: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The same of the proposals' recall: counts (I, 1 + groups)."""
    boxes = [np.bincount(metric.gt.image[of], minlength=weights.shape[1]) for of in metric.members]      # (I,) each
    found, total = weights @ counts, weights @ np.stack(boxes, axis=1)                                # (D, 1 + groups)
    return dict(zip(metric.names, np.where(total > 0, found / np.maximum(total, 1), -1.0).T))


class ResampledPrecision(AveragePrecision):
    """AP50 on every draw. A detection is right or wrong whatever other images are drawn; only the ranking changes."""

    def draws(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """After compute: AP50 and AP50_<group> (D,): means over the categories that have a box in the draw."""
        boxes = self.gt.image[~self.crowd], self.gt.category[~self.crowd]
        matched = self._match(self.crowd)[0]                                           # at the first threshold, 0.5
        hit = np.flatnonzero(matched >= 0)
        ranked, on_crowd = self.near[self.paired[hit]], self.crowd[matched[hit]]
        right, counts = np.zeros(len(self.source), dtype=bool), np.ones(len(self.source), dtype=bool)
        right[ranked[~on_crowd]], counts[ranked[on_crowd]] = True, False
        image = self.found.image[self.source]
        ap = np.full((len(self.gt.category_ids), len(weights)), -1.0)
        for k in range(len(ap)):
            mine = np.flatnonzero((self.category == k) & counts)
            ap[k] = average_precision(weights[:, image[mine]], right[mine],
                                      weights[:, boxes[0][boxes[1] == k]].sum(axis=1))
        groups = {"AP50": np.ones(len(ap), dtype=bool)} | {f"AP50_{name}": of for name, of in self.gt.groups.items()}
        return {name: np.array([mean(of_draw[of]) for of_draw in ap.T]) for name, of in groups.items()}


def average_precision(weights: np.ndarray, right: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """AP (D,) of one category: weights (D, N) and right (N,) of its detections, best first; boxes (D,), how many there
    are. -1 where there is none [E21].

    A detection that counts twice is one that stands twice in the ranking: precision at the second place is no lower
    than at the first, so the envelope is that of the whole ranking [E22, E23].
    """
    ranked = np.cumsum(weights, axis=1)[:, right]                                      # (D, hits)
    found = np.cumsum(weights[:, right], axis=1)
    envelope = np.maximum.accumulate((found / np.maximum(ranked, 1))[:, ::-1], axis=1)[:, ::-1]
    result = np.full(len(weights), -1.0)
    for d in np.flatnonzero(boxes > 0):
        at = np.searchsorted(found[d] / boxes[d], RECALLS, side="left")
        result[d] = np.where(at < found.shape[1], np.append(envelope[d], 0.0)[at], 0.0).mean()
    return result
