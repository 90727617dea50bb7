import itertools

import numpy as np
import pytest
import torch

from s21k.core.randomness import derive_seed, seeded, uniform
from s21k.data.samplers import EpochShuffle, RankSampler, repeat_factors


def take(share, steps, local):
    return list(itertools.islice(iter(share), steps * local))


def test_every_image_once_an_epoch_and_epochs_differ():
    order = EpochShuffle(10, 0, "cls")
    first, second = [order[p] for p in range(10)], [order[p] for p in range(10, 20)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert first != [EpochShuffle(10, 0, "det")[p] for p in range(10)]


def test_processes_share_a_stream_without_gap_or_repeat():
    """T8, G19, G32: the images of each step are the same for one, two and four processes."""
    order = EpochShuffle(100, 0, "det")
    alone = take(RankSampler(order, 0, 8, 0, 1), 5, 8)
    for ranks in (2, 4):
        parts = [take(RankSampler(order, 0, 8, rank, ranks), 5, 8 // ranks) for rank in range(ranks)]
        local = 8 // ranks
        joined = [part[step * local + i] for step in range(5) for part in parts for i in range(local)]
        assert joined == alone


def test_a_stream_starts_anywhere():
    order = EpochShuffle(13, 1, "cls")
    assert take(RankSampler(order, 0, 6, 0, 1), 9, 6)[24:] == take(RankSampler(order, 4, 6, 0, 1), 5, 6)


def test_uniform_is_even_repeatable_and_different_for_each_seed():
    cpu = torch.device("cpu")
    x, y = uniform([7, 8], 100_000, cpu)
    assert torch.equal(x, uniform([7], 100_000, cpu)[0]) and torch.equal(x[:50], uniform([7], 50, cpu)[0])
    histogram = torch.histc(x, 20, 0, 1)
    assert x.min() >= 0 and x.max() < 1 and (histogram - 5000).abs().max() < 5 * 5000**0.5
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack([x[1:], x[:-1]]))[0, 1]) < 0.02


def test_seeds_differ_in_every_part_and_seeded_leaves_no_trace():
    assert len({derive_seed(a, b, c) for a in range(5) for b in ("x", "y") for c in range(5)}) == 50
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeded(3):
        assert torch.equal(first, torch.rand(3))


def test_every_process_has_three_labelled_images_for_each_with_boxes_in_every_step(tmp_path):
    """T8, P57: b and 3b a step, also when a step is done in parts; both kinds on one canvas [P17]."""
    from s21k.core.config import load_config
    from s21k.core.distributed import World
    from s21k.data.loaders import open_classification, open_detection, stage2_batches
    from tests.toy import words, write_toy
    cfg = load_config(words(write_toy(tmp_path), "stage2.det_batch=4", "stage2.accumulate=2"))
    det_data, cls_data = open_detection(cfg), open_classification(cfg, "train")
    micro = cfg.stage2.det_batch // cfg.stage2.accumulate
    for rank in range(2):
        world = World(rank, 2, torch.device("cpu"))
        det = stage2_batches(cfg, det_data, "det", world, micro, 0)
        cls = stage2_batches(cfg, cls_data, "cls", world, cfg.stage2.cls_per_det * micro, 0)
        for _ in range(4):
            boxes, labels = next(det), next(cls)
            assert (len(labels) == 3 * len(boxes) == 3
                    and labels.images.shape[1:] == boxes.images.shape[1:] == (3, 64, 64))
            assert all(len(target.labels) == 1 for target in labels.targets)


# --- repeat-factor sampling [G23, P90] ---

def boxes_of(rng, images=60, categories=5):
    """Category of each box, image after image, and where images begin; category 4 is rare, category 5 shows nowhere."""
    rows = [sorted(rng.choice(categories, rng.integers(0, 4), p=[0.5, 0.3, 0.15, 0.04, 0.01]).tolist())
            for _ in range(images)]
    return rows, np.array([c for row in rows for c in row], dtype=np.int32), np.cumsum([0, *map(len, rows)])


def test_repeat_factors_equal_a_slow_loop():
    """P90, G23; Gupta et al. (2019): r_c = max(1, sqrt(t / f_c)) with f_c over images; an image takes the largest of
    its categories'."""
    rng = np.random.default_rng(0)
    for threshold in (0.001, 0.1, 0.5, 1.0):
        rows, flat, offsets = boxes_of(rng)
        share = {c: sum(c in row for row in rows) / len(rows) for row in rows for c in row}
        slow = [max([1.0, *((threshold / share[c]) ** 0.5 for c in row)]) for row in rows]
        assert repeat_factors(flat, offsets, threshold).tolist() == pytest.approx(slow, abs=1e-12)
        assert threshold < 0.1 or max(slow) > 1


def test_an_image_comes_as_often_as_its_factor_says_on_average_and_never_less():
    """G23: fractions are drawn anew each epoch (rounding up would turn 1.1 into 2)."""
    factors = np.array([1.0, 1.1, 1.5, 2.0, 3.7])
    order = EpochShuffle(5, 0, "det", factors)
    counts = np.array([np.bincount(order.epoch(e), minlength=5) for e in range(4000)])
    assert np.abs(counts.mean(axis=0) - factors).max() < 0.03
    assert (counts >= np.floor(factors)).all() and (counts <= np.ceil(factors)).all()
    assert (not np.array_equal(order.epoch(0), order.epoch(1))
            and np.array_equal(order.epoch(7), EpochShuffle(5, 0, "det", factors).epoch(7)))


def test_a_stream_with_factors_starts_anywhere_and_is_shared_without_gap():
    factors = np.array([1.0, 1.4, 2.6, 1.2, 1.0, 3.3])
    whole = [EpochShuffle(6, 3, "det", factors)[p] for p in range(200)]
    assert whole == [i for e in range(30) for i in EpochShuffle(6, 3, "det", factors).epoch(e).tolist()][:200]
    assert [EpochShuffle(6, 3, "det", factors)[p] for p in (150, 3, 77)] == [whole[p] for p in (150, 3, 77)]
    later = take(RankSampler(EpochShuffle(6, 3, "det", factors), 10, 4, 1, 2), 20, 2)
    assert [index for _, index in later] == [whole[step * 4 + 2 + i] for step in range(10, 30) for i in range(2)]
