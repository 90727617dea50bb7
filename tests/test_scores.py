"""Equations 1 to 5 against worked examples and slow loops."""
import math

import pytest
import torch
import torch.nn.functional as F

from s21k.core.structures import BACKGROUND
from s21k.models.fused_scores import FusedScores
from s21k.models.scores import image_nll, region_bce, region_nll


def fuse(fg_logits, *arguments, **others):
    """All final scores (R, K) at once."""
    return FusedScores(torch.zeros(len(fg_logits), 4), fg_logits, *arguments, **others).rows(0, len(fg_logits))



def random_case(r=12, c=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, c, (r,), generator=g)
    return torch.randn(r, generator=g), torch.randn(r, c, generator=g), labels


def slow_nll(fg, logits, labels, normalizer):
    """Eqs. 1, 2, 4 region by region with plain exponentials, in double precision."""
    total = 0.0
    for i in range(len(fg)):
        s_fg = 1 / (1 + math.exp(-float(fg[i])))                              # Eq. 1
        powers = [math.exp(float(v)) for v in logits[i]]
        s = [p / sum(powers) for p in powers]                                 # Eq. 2
        outcome = 1 - s_fg if labels[i] == BACKGROUND else s_fg * s[int(labels[i])]      # Eq. 4
        total += -math.log(outcome)
    return total / normalizer


def test_the_final_score_and_the_background_sum_to_one():
    """T1, P24, P25: {S_fg * S_c, 1 - S_fg} is a distribution over C + 1 outcomes, and the loss is its cross-entropy."""
    fg, logits, labels = random_case()
    product = torch.sigmoid(fg)[:, None] * logits.softmax(1)
    everything = torch.cat([product, 1 - torch.sigmoid(fg)[:, None]], dim=1)
    torch.testing.assert_close(everything.sum(1), torch.ones(len(fg)))
    outcome = torch.where(labels == BACKGROUND, torch.full_like(labels, logits.shape[1]), labels)
    expected = F.nll_loss(everything.log(), outcome)
    torch.testing.assert_close(region_nll(fg, logits, labels, len(labels)), expected)


def test_region_nll_equals_a_slow_loop():
    """P20, P21, P25, G3."""
    for seed in range(5):
        fg, logits, labels = random_case(seed=seed)
        assert float(region_nll(fg, logits, labels, 7.0)) == pytest.approx(slow_nll(fg, logits, labels, 7.0), rel=1e-5)


def test_the_category_term_alone_follows_its_own_normalizer():
    """G3: loss_norm fg divides the category term, and only it, by the number of foreground regions."""
    fg, logits, labels = random_case()
    objects = labels >= 0
    expected = (F.binary_cross_entropy_with_logits(fg, objects.float(), reduction="sum") / 12
                + F.cross_entropy(logits[objects], labels[objects], reduction="sum") / int(objects.sum()))
    torch.testing.assert_close(region_nll(fg, logits, labels, 12, int(objects.sum())), expected)


def test_region_bce_equals_binary_cross_entropy_on_the_products():
    """G3, the literal other reading of P25."""
    fg, logits, labels = random_case()
    score = torch.sigmoid(fg.double())[:, None] * logits.double().softmax(1)
    wanted = torch.zeros_like(score)
    for i, label in enumerate(labels.tolist()):
        if label != BACKGROUND:
            wanted[i, label] = 1
    expected = F.binary_cross_entropy(score, wanted, reduction="sum") / 3
    torch.testing.assert_close(region_bce(fg, logits, labels, 3).double(), expected, rtol=1e-5, atol=1e-6)


def test_losses_stay_finite_at_extreme_logits():
    fg, logits = torch.tensor([80.0, -80.0]), torch.tensor([[90.0, -90.0], [-90.0, 90.0]])
    for labels in ([0, -1], [1, 0], [-1, -1]):
        labels = torch.tensor(labels)
        assert region_nll(fg, logits, labels, 2).isfinite()
        assert region_bce(fg, logits, labels, 2).isfinite()


def test_a_confident_wrong_background_still_pulls_f_down_in_region_bce():
    fg = torch.tensor([15.0], requires_grad=True)
    region_bce(fg, torch.tensor([[30.0, -30.0]]), torch.tensor([-1]), 1).backward()
    assert fg.grad.item() > 0.9


def test_no_regions_give_zero_tied_to_the_graph():
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = (region_nll(logits.sum(1), logits, torch.zeros(0, dtype=torch.int64), 1)
            + image_nll(logits, torch.zeros(0, dtype=torch.int64)))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None


def test_image_nll_is_the_mean_negative_log_of_eq_3():
    """P19, P22, G4."""
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    expected = -(math.log(math.exp(2) / (math.e + math.exp(2) + math.exp(.5))) + math.log(1 / (2 + math.exp(3)))) / 2
    assert image_nll(logits, torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_fuse_on_three_categories_one_known_to_both_one_to_each():
    """Eqs. 4 and 5, P33, P34, G9: worked by hand. g knows categories 0 and 1, g-hat 0 and 2."""
    det, cls = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.3, 0.7]]).log()
    scores = fuse(torch.tensor([0.0]), det, cls, torch.tensor([0, 1, -1]), torch.tensor([0, -1, 1]))
    torch.testing.assert_close(scores, 0.5 * torch.tensor([[0.9 ** (2 / 3) * 0.3 ** (1 / 3), 0.1, 0.7]]))


def test_the_exponent_one_is_g_alone_and_zero_is_g_hat_alone():
    """T5, P24, P33; S_fg enters once."""
    fg, det, _ = random_case(c=4)
    _, cls, _ = random_case(c=4, seed=1)
    index = torch.arange(4)
    s_fg = torch.sigmoid(fg)[:, None]
    torch.testing.assert_close(fuse(fg, det, cls, index, index, exponent=1.0), s_fg * det.softmax(1))
    torch.testing.assert_close(fuse(fg, det, cls, index, index, exponent=0.0), s_fg * cls.softmax(1))
    torch.testing.assert_close(fuse(fg, det, cls, index, index, "det_only"), s_fg * det.softmax(1))
    torch.testing.assert_close(fuse(fg, det, cls, index, index, "cls_only"), s_fg * cls.softmax(1))
    # Eq. 5 read with the primed scores
    primed = (s_fg * det.softmax(1)) ** (2 / 3) * (s_fg * cls.softmax(1)) ** (1 / 3)
    torch.testing.assert_close(fuse(fg, det, cls, index, index), primed)


def test_the_softmax_is_over_all_rows_of_a_classifier_not_over_the_evaluated_ones():
    fg, logits, _ = random_case(c=6)
    part = fuse(fg, logits[:, :0], logits, torch.tensor([-1, -1]), torch.tensor([5, 2]))
    torch.testing.assert_close(part, torch.sigmoid(fg)[:, None] * logits.softmax(1)[:, [5, 2]])
