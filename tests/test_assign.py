import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

from s21k.core.structures import BACKGROUND, IGNORE, Target
from s21k.models.assign import match_iou, sample_regions, subsample


def matched(iou, low, high, rescue, rescue_above=0.0):
    """match_iou of a drawn table, whole and an object at a time: the same."""
    ways = ([iou] * (len(iou) > 0), iou.split(1) if len(iou) else [])
    whole, single = (match_iou(parts, iou.shape[1], iou.device, low, high, rescue, rescue_above) for parts in ways)
    assert torch.equal(whole, single)
    return whole


def test_match_on_three_candidates():
    iou = torch.tensor([[0.8, 0.4, 0.1], [0.2, 0.5, 0.0]])
    assert matched(iou, 0.3, 0.7, rescue=False).tolist() == [0, IGNORE, BACKGROUND]
    assert matched(iou, 0.3, 0.7, rescue=True).tolist() == [0, 1, BACKGROUND]          # object 1's best is candidate 1


def test_match_equals_torchvisions_where_every_object_is_touched():
    for seed in range(10):
        iou = torch.rand(5, 40, generator=torch.Generator().manual_seed(seed))
        for rescue in (False, True):
            theirs = Matcher(0.7, 0.3, allow_low_quality_matches=rescue)(iou)
            assert torch.equal(matched(iou, 0.3, 0.7, rescue), theirs)


def test_an_object_that_nothing_touches_rescues_nothing():
    """Where we differ from torchvision: best IoU 0 there turns every untouched candidate positive."""
    iou = torch.tensor([[0.0, 0.0, 0.9], [0.0, 0.0, 0.0]])
    assert matched(iou, 0.3, 0.7, rescue=True).tolist() == [BACKGROUND, BACKGROUND, 0]
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou)
    assert (theirs >= 0).all()


def test_the_rescue_has_a_bound_where_one_is_set():
    """G11: 0 as detectron2, 0.3 as mmdetection, whose rule is best IoU >= bound, object by object (written out
    here)."""
    iou = torch.tensor([[0.0, 0.1, 0.125], [0.3125, 0.2, 0.0], [0.25, 0.0, 0.05]])
    assert matched(iou, 0.3, 0.7, rescue=True).tolist() == [1, BACKGROUND, 0]
    assert matched(iou, 0.3, 0.7, rescue=True, rescue_above=0.3125).tolist() == [1, BACKGROUND, BACKGROUND]
    assert matched(iou, 0.3, 0.7, rescue=True, rescue_above=0.3126).tolist() == [IGNORE, BACKGROUND, BACKGROUND]
    for seed in range(20):
        iou = torch.rand(6, 30, generator=torch.Generator().manual_seed(seed)) ** 4
        ours = matched(iou, 0.3, 0.7, rescue=True, rescue_above=0.3)
        plain = matched(iou, 0.3, 0.7, rescue=False)
        rescued = {int(n) for row in iou if row.max() >= 0.3 for n in (row == row.max()).nonzero()}
        expected = rescued | set((plain >= 0).nonzero().squeeze(1).tolist())
        assert (ours >= 0).nonzero().squeeze(1).tolist() == sorted(expected)


def test_a_threshold_itself_belongs_to_the_better_side():
    """G11, G13: from the upper one on an object's, below the lower one background."""
    iou = torch.tensor([[0.75, 0.25, 0.5, 0.125]])
    assert matched(iou, 0.25, 0.75, rescue=False).tolist() == [0, IGNORE, IGNORE, BACKGROUND]
    assert matched(iou, 0.5, 0.5, rescue=False).tolist() == [0, BACKGROUND, 0, BACKGROUND]


def test_no_objects_make_everything_background():
    assert matched(torch.zeros(0, 4), 0.3, 0.7, rescue=True).tolist() == [BACKGROUND] * 4


def test_subsample_takes_as_many_as_torchvisions_sampler_and_only_eligible_ones():
    for seed in range(5):
        matches = torch.randint(-2, 3, (300,), generator=torch.Generator().manual_seed(seed))
        matches[40:] = torch.where(matches[40:] >= 0, torch.full_like(matches[40:], -1), matches[40:])
        theirs = BalancedPositiveNegativeSampler(64, 0.25)([(matches >= 0).long() + (matches == -2).long() * -1])
        ((positive, negative),) = subsample([matches], 64, 0.25, [seed])
        assert len(positive) == int(theirs[0][0].sum()) and len(negative) == int(theirs[1][0].sum())
        assert (matches[positive] >= 0).all() and (matches[negative] == BACKGROUND).all()
        assert len(set(positive.tolist() + negative.tolist())) == len(positive) + len(negative)


def test_subsample_depends_on_the_seed_alone_and_is_even():
    matches = torch.full((100,), BACKGROUND)
    counts = torch.zeros(100)
    for seed in range(400):
        (_, chosen), (_, other) = subsample([matches, matches], 10, 0.5, [seed, seed + 1])
        assert torch.equal(chosen, subsample([matches], 10, 0.5, [seed])[0][1]) and not torch.equal(chosen, other)
        counts[chosen] += 1
    assert counts.min() > 15 and counts.max() < 75                    # expected 40 each, deviation 6


def test_sampled_regions_have_the_objects_category_above_iou_half():
    """G13: ground truth joins; at most a quarter positive."""
    target = Target(torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 90.0, 90.0]]), torch.tensor([7, 3]))
    near = torch.tensor([[0.0, 0.0, 10.0, 10.0]]) + torch.arange(30)[:, None] * 0.1
    far = torch.tensor([[20.0, 20.0, 40.0, 40.0]]).repeat(60, 1)
    (regions,) = sample_regions([torch.cat([near, far])], [target], [5], count=40, fraction=0.25)
    positive = regions.labels != BACKGROUND
    assert int(positive.sum()) == 10 and len(regions.labels) == 40
    assert set(regions.labels[positive].tolist()) <= {7, 3}
    assert torch.equal(regions.gt_boxes[positive], target.boxes[regions.gt_index[positive]])
    assert torch.equal(regions.labels[positive], target.labels[regions.gt_index[positive]])


def test_half_an_object_is_an_object_and_the_truth_is_among_the_regions():
    """G13: proposals of IoU 0.45, 0.5, 0.55 with one object; then, by default, 512 regions of which a quarter holds an
    object."""
    truth = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    target = Target(truth, torch.tensor([6]))
    proposals = torch.tensor([[0.0, 0.0, 18.0, 40.0], [0.0, 0.0, 20.0, 40.0], [0.0, 0.0, 22.0, 40.0]])
    (regions,) = sample_regions([proposals], [target], [0])
    assert {(box[2], label) for box, label in zip(regions.boxes.tolist(), regions.labels.tolist())} == {
        (18, BACKGROUND), (20, 6), (22, 6), (40, 6)}
    (regions,) = sample_regions([torch.cat([truth.repeat(600, 1), truth.repeat(600, 1) + 100])], [target], [0])
    assert len(regions.labels) == 512 and int((regions.labels == 6).sum()) == 128
