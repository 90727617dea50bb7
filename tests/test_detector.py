"""The detector as a whole: who gets which gradient, what it inherits, and that processes add up to one."""
import pytest
import torch

from s21k.core.categories import CategoryMap
from s21k.core.config import EvalConfig, load_config
from s21k.core.errors import InputError
from s21k.core.randomness import set_seed
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector, restore_detector
from s21k.models.postprocess import Ranking, postprocess
from tests.toy import ROOT, SMALL, batch, run


def make(*more):
    set_seed(0, "test")
    return build_detector(load_config(["toy", *SMALL, *more]))


def gradients(model, losses):
    model.zero_grad()
    losses.backward(retain_graph=True)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_the_image_loss_reaches_neither_f_nor_g_nor_the_rpn_nor_the_boxes():
    """T2, P3, P26, P27, G5, G12; it does reach the shared encoder and g-hat."""
    model = make()
    touched = gradients(model, model(batch(2), batch(6, objects=1, seed=1))["image_category"])
    assert not [n for n in touched
                if n.startswith(("rpn.", "box_head.foreground", "box_head.det_classifier", "box_head.box_regressor"))]
    assert ("box_head.cls_classifier.weight" in touched and "encoder.fc1.weight" in touched
            and "encoder.backbone.conv1.weight" in touched)


def test_a_step_on_detection_data_leaves_g_hat_alone():
    """T3, P27, G5."""
    model = make()
    losses = model(batch(2), None)
    assert set(losses) == {"rpn_objectness", "rpn_box", "region_score", "region_box"}
    touched = gradients(model, sum(losses.values()))
    assert "box_head.cls_classifier.weight" not in touched
    for part in ("rpn.conv", "box_head.foreground", "box_head.det_classifier", "box_head.box_regressor", "encoder.fpn",
                 "encoder.fc2"):
        assert any(n.startswith(part) for n in touched), part


def test_the_detection_losses_do_not_depend_on_the_classification_images():
    """P4, G12: with a norm that does not mix images, labels-only images change nothing in the other losses."""
    model = make()
    alone = model(batch(2), None)
    for seed in (1, 2):
        joined = model(batch(2), batch(6, objects=1, seed=seed))
        for name, loss in alone.items():
            torch.testing.assert_close(joined[name], loss, rtol=1e-5, atol=1e-6)


def test_region_losses_equal_a_slow_loop_over_the_sampled_regions():
    """G3, G13: foreground, background and classification regions, each by its formula; all sums over the number
    sampled."""
    import math

    from s21k.core import boxes as B
    from s21k.models.assign import sample_regions
    model = make()
    head = model.box_head
    det = batch(2, objects=3)
    proposals = [torch.cat([t.boxes + 2, torch.rand(20, 2).repeat(1, 2) * 30 + torch.tensor([0.0, 0, 12, 12])])
                 for t in det.targets]
    regions = sample_regions(proposals, det.targets, [1, 2], 16)
    x = torch.randn(sum(len(r.labels) for r in regions), 32)
    fg, logits, deltas = (v.double() for v in head(x))
    score = box = 0.0
    row = 0
    for r in regions:
        for source, label, truth in zip(r.boxes, r.labels.tolist(), r.gt_boxes):
            s_fg, s = 1 / (1 + math.exp(-fg[row])), logits[row].softmax(0)
            if label < 0:
                score -= math.log(1 - s_fg)
            else:
                score -= math.log(s_fg * s[label])
                wanted = B.encode(source[None], truth[None], B.REGION_WEIGHTS)[0]
                box += float((deltas[row] - wanted).abs().sum())
            row += 1
    losses = head.region_losses(x, regions)
    assert losses["region_score"].item() == pytest.approx(score / row, rel=1e-4)
    assert losses["region_box"].item() == pytest.approx(box / row, rel=1e-4)
    labels = torch.tensor([0, 3, 1])
    expected = -sum(float(head.cls_classifier(x[i]).double().softmax(0)[c].log())
                    for i, c in enumerate(labels.tolist())) / 3
    assert head.image_losses(x[:3], labels)["image_category"].item() == pytest.approx(expected, rel=1e-5)


def test_images_without_any_object_give_finite_losses_and_gradients():
    model = make()
    empty = batch(2, objects=0)
    losses = model(empty, None)
    sum(losses.values()).backward()
    assert (all(loss.isfinite() for loss in losses.values()) and losses["region_box"].item() == 0
            and losses["rpn_box"].item() == 0)


def test_stage_two_takes_over_the_whole_encoder_of_stage_one():
    """P5, P28, P35: strictly, and with g-hat or without it [P30, G7]."""
    cfg = load_config(["toy", *SMALL])
    classifier = build_classifier(cfg.model, 4, 0.0)
    model = make()
    before = model.box_head.cls_classifier.weight.clone()
    encoder = ["backbone", "FPN", "RoI head, first layer", "RoI head, second layer"]
    assert model.inherit(classifier.state_dict(),
                         load_image_classifier=False) == (encoder, ["f", "g", "box regression", "RPN", "g-hat"])
    for name, value in classifier.encoder.state_dict().items():
        assert torch.equal(value, model.encoder.state_dict()[name]), name
    assert torch.equal(model.box_head.cls_classifier.weight, before)
    assert model.inherit(classifier.state_dict()) [0] == [*encoder, "g-hat"]
    assert torch.equal(model.box_head.cls_classifier.weight, classifier.cls_classifier.weight)


def test_new_layers_stay_as_they_were_drawn():
    """P29: f, g, boxes, masks and the RPN; all that stage I has goes over, or has a place [P16]."""
    classifier = build_classifier(load_config(["toy", *SMALL]).model, 4, 0.0)
    assert {".".join(key.split(".")[:2]) for key in classifier.state_dict()} == {
        "encoder.backbone", "encoder.fpn", "encoder.fc1", "encoder.fc2", "cls_classifier.weight", "cls_classifier.bias"}
    model = make("model.with_masks=true")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.inherit(classifier.state_dict())
    new = [k for k, v in model.state_dict().items() if torch.equal(v, before[k]) and v.ndim > 1]
    assert {k.removeprefix("box_head.").split(".")[0]
            for k in new} == {"rpn", "foreground", "det_classifier", "box_regressor", "mask_head"}
    assert all(before[k].std() > 0 for k in new)


def test_stage_one_trains_the_norms_that_stage_two_freezes():
    """G17."""
    classifier, model = build_classifier(load_config(["r50"]).model, 4, 0.0), make("model.norm=frozen_bn")
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in classifier.modules())
    assert (not any(isinstance(m, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)) for m in model.modules())
            and "encoder.backbone.bn1.running_mean" in model.state_dict())


def test_at_test_time_g_hat_reads_the_detectors_region_features():
    """P20 to P23, P32: three linear layers on one x; a category of g-hat alone has S_fg times g-hat's softmax. One box
    for all categories [G1]."""
    head, x = make().box_head, torch.randn(5, 32)
    found = head.region_scores(x, torch.tensor([[4.0, 4.0, 40.0, 50.0]] * 5), (64, 64), torch.tensor([-1, 1, -1]),
                               torch.tensor([2, -1, 0]))
    s_fg = torch.sigmoid(x @ head.foreground.weight.T + head.foreground.bias)
    s = torch.softmax(x @ head.det_classifier.weight.T + head.det_classifier.bias, 1)
    s_hat = torch.softmax(x @ head.cls_classifier.weight.T + head.cls_classifier.bias, 1)
    torch.testing.assert_close(found.rows(0, 5), s_fg * torch.stack([s_hat[:, 2], s[:, 1], s_hat[:, 0]], 1))
    assert found.boxes.shape == (5, 4) and head.box_regressor.out_features == 4


def test_without_reformulation_the_backbone_alone_is_taken():
    """P67, G24."""
    cfg = load_config(["toy", *SMALL, "no_reform"])
    classifier = build_classifier(cfg.model, 4, 0.0)
    model = make()
    fpn = {k: v.clone() for k, v in model.encoder.fpn.state_dict().items()}
    assert model.inherit(classifier.state_dict())[0] == ["backbone"]
    assert all(torch.equal(v, model.encoder.fpn.state_dict()[k]) for k, v in fpn.items())
    assert torch.equal(model.encoder.backbone.conv1.weight, classifier.backbone.conv1.weight)
    images = torch.randn(2, 3, 64, 64)                                       # average pooling and a linear layer
    torch.testing.assert_close(classifier(images),
                               classifier.cls_classifier(classifier.backbone(images)[-1].mean((2, 3))))


def test_a_checkpoint_that_does_not_fit_is_refused():
    model = make()
    state = build_classifier(load_config(["toy", *SMALL]).model, 4, 0.0).state_dict()
    state.pop("encoder.fc1.bias")
    with pytest.raises(InputError, match="encoder.fc1.*does not fit"):
        model.inherit(state)
    with pytest.raises(InputError, match="holds no part of this detector"):
        model.inherit({"something.weight": torch.zeros(1)})


def test_stage_one_and_stage_two_give_the_same_feature_of_a_whole_image():
    """P2, P13, P14, P16, P18: one object, two stages."""
    cfg = load_config(["toy", *SMALL])
    classifier = build_classifier(cfg.model, 4, 0.0).eval()
    model = make().eval()
    model.inherit(classifier.state_dict())
    images = torch.randn(2, 3, 64, 64)
    x = model.encoder.images(model.encoder.features(images), [(64, 64)] * 2)
    torch.testing.assert_close(model.box_head.classify(x), classifier(images))


def test_padding_is_not_part_of_the_entire_image():
    """G16: the RoI ends where the image ends; model.image_roi=canvas takes the padding along."""
    for roi, same in (("valid", False), ("canvas", True)):
        encoder = make(f"model.image_roi={roi}").eval().encoder
        features = encoder.features(torch.randn(1, 3, 64, 64))
        a, b = encoder.images(features, [(64, 64)]), encoder.images(features, [(40, 30)])
        assert torch.equal(a, b) == same


def test_image_roi_level_options_choose_the_level():
    """G15; 7 x 7 cells [G14] into two layers [G8]."""
    features_in = [torch.ones(2, 16, 64 // 2**k, 64 // 2**k) for k in range(2, 6)]
    boxes = [torch.tensor([[0.0, 0, 64, 64]])] * 2
    features = {}
    for option in ("fpn_rule", "p5", "all_mean"):
        encoder = make(f"model.image_roi_level={option}").encoder
        encoder.fpn.level = lambda features, level: features[level - 2] * level
        features[option] = encoder.images(features_in, [(64, 64)] * 2)
        expected = {"fpn_rule": 2.0, "p5": 5.0, "all_mean": 3.5}[option]
        level = torch.full((2, 16 * 49), expected)
        torch.testing.assert_close(features[option], torch.relu(encoder.fc2(torch.relu(encoder.fc1(level)))))
    encoder = make("model.image_roi_level=random").encoder.train()
    drawn = {int(v) for v in encoder._image_levels(torch.cat([boxes[0]] * 64), list(range(64)))}
    assert drawn == {2, 3, 4, 5}


SIDES = [600, 90, 300, 600, 150]                             # P5, P2, P4, P5, P3 by FPN's rule


@pytest.mark.parametrize("sides", [SIDES, SIDES[:1] * 5])
def test_the_one_level_of_each_image_is_that_of_the_whole_pyramid(sides):
    """G15: values and gradients; and where all images are pooled from P5, no finer level is computed."""
    encoder = make().encoder
    features = [torch.randn(5, c, 640 // stride, 640 // stride, requires_grad=True)
                for c, stride in zip(encoder.backbone.channels, (4, 8, 16, 32))]
    grads = []
    for way in range(2):
        encoder.zero_grad()
        x = (encoder.images(features, [(side, side) for side in sides]) if way else
             encoder.regions(encoder.fpn(features), [torch.tensor([[0.0, 0, side, side]]) for side in sides]))
        grads.append([x, *torch.autograd.grad(x.square().sum(), [*features, *encoder.fc1.parameters()],
                                              allow_unused=True, retain_graph=True)])
        x.sum().backward()
    for one, two in zip(*grads):
        torch.testing.assert_close(torch.zeros_like(one) if two is None else two, one, rtol=1e-4, atol=1e-5)
    computed = [conv.weight.grad is not None for conv in (*encoder.fpn.lateral, *encoder.fpn.output)]
    assert computed == ([True] * 8 if len(set(sides)) > 1 else ([False] * 3 + [True]) * 2)


def test_prediction_is_one_image_at_a_time_and_inside_the_picture():
    model = make().eval()
    categories = CategoryMap(list("abcd"), [None] * 4, ["all"] * 4, torch.tensor([0, 1, -1, -1]), torch.arange(4))
    test = EvalConfig(max_detections=10)
    both = list(model.predict(batch(2), categories, test))
    assert len(both) == 2
    for prediction in both:
        assert prediction.regions.shape == (len(prediction.regions.boxes), 4)
        assert len(prediction.detections.scores) <= 10 and (prediction.detections.scores.diff() <= 0).all()
        alone = postprocess(Ranking(prediction.regions), -1.0, test.nms, 5)              # also where found holds five
        assert torch.equal(prediction.five_best.boxes, alone.boxes)
        assert torch.equal(prediction.five_best.scores, alone.scores)
        assert prediction.regions.boxes.min() >= 0 and prediction.regions.boxes.max() <= 64
    for prediction in model.predict(batch(2), categories, EvalConfig(threshold=1.0)):
        # Top-5 has no threshold [P83, G27]
        assert len(prediction.detections.scores) == 0 and len(prediction.five_best.scores) == 5


def test_a_checkpoint_of_other_categories_is_refused():
    cfg = load_config(["toy", *SMALL])
    model = make()
    categories = CategoryMap(list("abcd"), [None] * 4, ["all"] * 4, torch.tensor([0, 1, -1, -1]), torch.arange(4))
    content = {"model": model.state_dict(), "config": {}, "categories": {"det": ["a", "b"], "cls": list("abcd")}}
    restore_detector(cfg, content, categories)
    content["categories"]["cls"] = list("abdc")
    with pytest.raises(InputError, match="category c.*row 2.*'d'"):
        restore_detector(cfg, content, categories)


@pytest.fixture(scope="module")
def gradients_by_processes(tmp_path_factory):
    """{1, 2}: {kind of model: {parameter: gradient}}."""
    folder = tmp_path_factory.mktemp("gradients")
    for processes in (1, 2):
        done = run(str(ROOT / "tests" / "ddp_step.py"), str(folder / f"{processes}.pt"), *KINDS, processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
    return {n: torch.load(folder / f"{n}.pt", weights_only=True) for n in (1, 2)}


KINDS = ["resnet18,gn", "resnet18,frozen_bn", "swin_t,gn"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_gradients_of_one(gradients_by_processes, kind):
    """Counts are summed over ranks, all chance belongs to the image; also with drop path."""
    one, two = (gradients_by_processes[n][kind] for n in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        if one[name] is None:
            assert two[name] is None or two[name].abs().sum() == 0, name
        else:
            # 1e-5 of the parameter's gradient, or of the largest gradient where this one cancels to rounding error.
            floor = 5e-7 * max(g.norm() for g in one.values() if g is not None)
            assert (one[name] - two[name]).norm() <= 1e-5 * one[name].norm() + floor, name
