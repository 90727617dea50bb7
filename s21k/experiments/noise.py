"""Is a difference of two rows more than chance? Two kinds of chance: the seed of a run, and the images it is scored on.

Seeds: Student's t of the differences, seed by seed. Images: the paired bootstrap, of which every row keeps its figures
on the same draws of images (evaluation/bootstrap.py).
"""
import math
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np

from s21k.core.categories import CategoryMap
from s21k.core.config import Config
from s21k.evaluation.bootstrap import ResampledPrecision, draw_weights, localization_draws, recall_draws
from s21k.evaluation.detections_file import locate, read_detections
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.evaluation.parts import IMAGE_ROWS
from s21k.evaluation.proposals import ProposalRecall

# Two-sided 5 % points of Student's t for 1 to 4 degrees of freedom.
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
Draws = dict[str, np.ndarray]           # figure -> its value (D,) on each draw of images


class Difference(NamedTuple):
    """Of two rows: mean and standard deviation over the seeds (NaN of one); interval: around the mean, as wide as 95 %
    of the draws of images, None where a row has no draws; verdict: "holds", "reversed", "not seen" or "one seed"."""
    mean: float
    deviation: float
    interval: tuple[float, float] | None
    verdict: str

    def __str__(self) -> str:
        images = "" if self.interval is None else " [{:+.1f}, {:+.1f}]".format(*(100 * v for v in self.interval))
        seeds = "" if math.isnan(self.deviation) else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:+.1f}{seeds}{images}"


def difference(row: dict[int, dict[str, float]], other: dict[int, dict[str, float]], key: str,
               row_draws: dict[int, Draws], other_draws: dict[int, Draws]) -> Difference | None:
    """row - other in one figure, over the seeds that both have (seed -> figures); None: they share none.

    It is seen where its mean over the seeds is further from zero than Student's t allows by chance in one of twenty
    cases (with three seeds: 2.48 standard deviations), and zero lies outside the interval of the draws, if there are
    draws of every seed: then the claim holds, or it is reversed.
    """
    seeds = [seed for seed in sorted(row.keys() & other.keys()) if key in row[seed] and key in other[seed]]
    if not seeds:
        return None
    differences = [row[seed][key] - other[seed][key] for seed in seeds]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences) if len(seeds) > 1 else math.nan
    clear = len(seeds) > 1 and abs(mean) > STUDENT[min(len(seeds), 5)] * deviation / math.sqrt(len(seeds))
    interval = None
    if all(key in draws.get(seed, {}) for seed in seeds for draws in (row_draws, other_draws)):
        drawn = np.mean([row_draws[seed][key] - other_draws[seed][key] for seed in seeds], axis=0)
        # AP of images that are drawn twice is a little higher: the draws tell the spread, not the mean
        low, high = np.quantile(drawn - drawn.mean(), [0.025, 0.975])
        interval = mean + float(low), mean + float(high)
        clear &= not interval[0] <= 0 <= interval[1]
    verdict = ("holds" if mean > 0 else "reversed") if clear else "not seen" if len(seeds) > 1 else "one seed"
    return Difference(mean, deviation, interval, verdict)


def image_draws(cfg: Config, folder: Path) -> Draws:
    """The figures of an evaluation on each draw of its images, from the files in its folder."""
    where = cfg.data.eval
    root = Path(cfg.data.root)
    gt = GroundTruth.load(root / where.annotations, CategoryMap.load(root / where.categories))
    weights = draw_weights(len(gt.image_ids))
    precision = ResampledPrecision(gt)
    precision.add_all(locate(read_detections(folder / "detections.npz"), gt))
    precision.compute()
    figures = precision.draws(weights)
    with np.load(folder / IMAGE_ROWS, allow_pickle=False) as file:
        rows = dict(file)
    at = np.searchsorted(gt.image_ids, rows.pop("image_id"))
    for name, noted in rows.items():
        # an image that could not be read has no row: nothing is right on it
        every = np.zeros((len(gt.image_ids), *noted.shape[1:]), dtype=noted.dtype)
        every[at] = noted
        if name == "proposal_recall":
            figures |= recall_draws(ProposalRecall(gt), every, weights)
        elif name.startswith("localization"):
            figures |= localization_draws(LocalizationAccuracy(gt, leave_out_several=True), every, weights)
    return figures


def save_draws(path: Path, draws: Draws) -> None:
    """In half precision: a figure to 0.05 %."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{key: values.astype(np.float16) for key, values in draws.items()})


def read_draws(path: Path) -> Draws:
    """Nothing where there is no such file."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {key: values.astype(np.float64) for key, values in file.items()}
