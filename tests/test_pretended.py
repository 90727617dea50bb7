"""The whole of training and inference on a pretended CUDA device: nothing mixes devices, little waits, and the numbers
are the CPU's."""
import math

import pytest
import torch
import torch.nn.functional as F

from s21k.core import boxes as B
from s21k.core.categories import CategoryMap
from s21k.core.config import EvalConfig, load_config
from s21k.core.distributed import World
from s21k.core.randomness import set_seed
from s21k.core.transfer import to_device
from s21k.data.mixup import Mixup
from s21k.evaluation.average_precision import AveragePrecision
from s21k.evaluation.in21k import In21kReport
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.evaluation.lvis import LvisAveragePrecision
from s21k.files.images import normalize
from s21k.models.assign import match
from s21k.models.classifier import build_classifier
from s21k.models.detector import build_detector
from s21k.models.region_encoder import drop_path_noise
from s21k.models.roi_align import separable_roi_align
from s21k.training.log import Log
from s21k.training.optim import build_optimizer, parameter_groups
from s21k.training.step_monitor import StepMonitor
from tests.bench.timing import peak_bytes
from tests.pretended import OnDevice, Pretended
from tests.test_localization import truth
from tests.toy import SMALL, batch
from train_stage1 import top1_accuracy

CASES = ["seed=0", "model.with_masks=true", "model.norm=frozen_bn", "model.norm=sync_bn stage2.init=scratch",
         "model.backbone=swin_t stage2.drop_path=0.3",
         "model.image_roi_level=p5", "model.image_roi_level=all_mean", "model.image_roi_level=random",
         "model.image_roi=canvas",
         "stage2.loss_reading=bce_product", "stage2.loss_norm=fg", "stage2.baseline=max_size",
         "stage2.baseline=max_score",
         "stage2.baseline=image", "stage2.baseline=softmax", "model.head=softmax data.cls=null"]


@pytest.fixture(autouse=True)
def as_training_on_cuda_is_by_default():
    """Whatever a command that ran before in this process has set."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


def build(words, make):
    set_seed(0, "weights")
    return make(load_config(["toy", *SMALL, *words.split()]))


def on_host(value):
    return value.on_host if isinstance(value, OnDevice) else value


def step_of(words, device, amp=None, labelled=6):
    """Losses of a stage-II step of 2 images with boxes and 6 with labels."""
    cfg = load_config(["toy", *SMALL, *words.split()])
    model = device.move(build(words, build_detector))
    det, cls = (b.to(device.device) for b in (batch(2, objects=3), batch(labelled, objects=1, seed=1)))
    device.waits.clear()
    with torch.autocast("cuda", amp or torch.bfloat16, enabled=amp is not None):
        losses = model(det, cls if cfg.data.cls else None)
    return model, losses


@pytest.mark.parametrize("words", CASES)
def test_a_stage_two_step_has_the_losses_and_gradients_of_the_cpu(words):
    model = build(words, build_detector)
    expected = model(batch(2, objects=3), None if model.box_head.cls_classifier is None
                     else batch(6, objects=1, seed=1))
    sum(expected.values()).backward()
    with Pretended("meta") as device:
        other, losses = step_of(words, device)
        sum(losses.values()).backward()
    for name, loss in expected.items():
        torch.testing.assert_close(on_host(losses[name]).detach(), loss.detach(), msg=name)
    for (name, one), two in zip(model.named_parameters(), other.parameters()):
        assert (one.grad is None) == (two.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(on_host(two.grad), one.grad, msg=name)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("words", ["model.with_masks=true", "model.backbone=swin_t stage2.drop_path=0.3"])
def test_cudas_autocast_rules_change_the_losses_by_rounding_only(words, amp):
    expected = build(words, build_detector)(batch(2, objects=3), batch(6, objects=1, seed=1))
    with Pretended() as device:
        _, losses = step_of(words, device, amp)
        found = {name: float(loss) for name, loss in losses.items()}
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    for name, loss in expected.items():
        assert found[name] == pytest.approx(float(loss.detach()), rel=0.05), name


@pytest.mark.parametrize("words, most", [("seed=0", 10), ("model.with_masks=true", 13),
                                         ("model.backbone=swin_t stage2.drop_path=0.3", 10)])
def test_a_stage_two_step_waits_for_the_device_a_few_times_and_not_for_each_labelled_image(words, most):
    waits = []
    for labelled in (6, 24):
        with Pretended() as device:
            step_of(words, device, torch.bfloat16, labelled)
            waits.append(device.total())
    assert waits[0] == waits[1] <= most, device.waits


@pytest.mark.parametrize("backbone", ["resnet18", "swin_t"])
@pytest.mark.parametrize("reformulated", [True, False])
def test_a_stage_one_step_waits_once_at_any_batch_size(tmp_path, backbone, reformulated):
    """The whole step of train_stage1.py: mixup, forward, backward, the exchange of monitor, clipping, optimizer."""
    words = f"model.backbone={backbone} model.reformulated={str(reformulated).lower()}"
    waits = []
    for size in (4, 12):
        with Pretended("meta") as device:
            world = World(0, 1, device.device)
            model = device.move(build(words, lambda cfg: build_classifier(cfg.model, 4, 0.2))).train()
            optimizer = build_optimizer(parameter_groups(model, 0.05), "sgd", 0.1)
            images = batch(size, objects=1).to(device.device)
            monitor = StepMonitor(world, Log(tmp_path / "log.jsonl", 0, 10, 100, world, "stage1"), 0.01)
            device.waits.clear()
            mixed, soft = Mixup(4, 0.8, 1.0, 0.1)(normalize(images.images), images.image_labels())
            loss = F.cross_entropy(model(mixed, images.seeds).float(), soft)
            loss.backward()
            monitor.check({"loss": loss}, [images], 0)
            monitor.gradient(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf),
                             torch.amp.GradScaler("cpu", enabled=False))
            optimizer.step()
            waits.append(device.total())
    assert waits[0] == waits[1] <= 4, device.waits


def test_the_noise_of_drop_path_is_a_few_operations_for_a_whole_batch():
    backbone = build("model.backbone=swin_t", lambda cfg: build_classifier(cfg.model, 4, 0.2)).backbone.train()
    expected = drop_path_noise(backbone, torch.zeros(64, 3, 8, 8), list(range(64)))
    with Pretended() as device:
        images = torch.zeros(64, 3, 8, 8, device=device.device)
        device.operations = 0
        noise = drop_path_noise(backbone, images, list(range(64)))
        assert device.operations <= 40 and device.total() == 0
    assert torch.equal(noise.on_host, expected)


def test_accuracy_prediction_and_every_metric_run_on_the_device(tmp_path):
    gt = truth(tmp_path, [[[5.0, 5.0, 40.0, 40.0]], [[10.0, 10.0, 30.0, 30.0]]], [0, 1])
    gt.frequencies, gt.negative, gt.not_exhaustive = ["f"] * len(
        gt.category_ids), *[torch.zeros(0, 2, dtype=torch.int64).numpy()] * 2
    categories = CategoryMap(list("abcd"), [None] * 4, ["all"] * 4, torch.tensor([0, 1, -1, -1]), torch.arange(4))
    test = EvalConfig(max_detections=10)
    cpu = build("model.with_masks=true", build_detector).eval()
    with torch.no_grad(), Pretended() as device:
        model = device.move(build("model.with_masks=true", build_detector)).eval()
        metrics = [LocalizationAccuracy(gt), AveragePrecision(gt), In21kReport(gt), LvisAveragePrecision(gt)]
        there = list(model.predict(batch(2).to(device.device), categories.to(device.device), test))
        for image, prediction in enumerate(there):
            original = prediction.in_image((1.0, 1.0), (64, 64))
            for metric in metrics:
                metric.update(image, original)
        assert all(metric.compute() for metric in metrics)
        classifier = device.move(build("seed=0", lambda cfg: build_classifier(cfg.model, 4, 0.0)))
        accuracy = top1_accuracy(classifier, [batch(8, objects=1)], World(0, 1, device.device), "bf16")
    assert 0 <= accuracy <= 1
    for mine, theirs in zip(there, cpu.predict(batch(2), categories, test)):
        assert torch.equal(on_host(mine.detections.labels), theirs.detections.labels)
        torch.testing.assert_close(on_host(mine.detections.boxes), theirs.detections.boxes)


def test_what_cuda_would_refuse_is_refused(monkeypatch):
    """So that the tests above can fail: mixed devices, numpy, and a product that leaves one tensor on the CPU."""
    from s21k.models import region_encoder
    with Pretended() as device:
        there = torch.ones(3, device=device.device)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="cannot pin"):
            there.pin_memory()
        assert to_device(there, device.device) is there
        before = device.total()
        assert there.sum().item() == 3 and there[there > 0].shape == (3,) and device.total() == before + 2
        monkeypatch.setattr(region_encoder, "to_device", lambda values, device: values)
        with pytest.raises(RuntimeError, match="same device"):
            step_of("seed=0", device)


def test_deterministic_runs_pool_regions_by_matrix_products_on_cuda_alone(monkeypatch):
    from s21k.models import roi_pool
    used = []
    for name in ("roi_align", "separable_roi_align"):
        function = getattr(roi_pool, name)
        monkeypatch.setattr(roi_pool, name, lambda *args, name=name, function=function,
                            **kwargs: used.append(name) or function(*args, **kwargs))
    build("seed=0", build_detector)(batch(2), None)
    assert set(used) == {"roi_align"}
    used.clear()
    torch.use_deterministic_algorithms(True)
    try:
        with Pretended() as device:
            _, losses = step_of("seed=0", device)
    finally:
        torch.use_deterministic_algorithms(False)
    assert set(used) == {"separable_roi_align"} and all(on_host(loss).isfinite() for loss in losses.values())


def test_separable_roi_align_is_torchvisions_forward_and_backward():
    """G14: random boxes, some outside of the map, some empty, on maps of any size; in float64, where rounding does not
    matter."""
    from torchvision.ops import roi_align
    g = torch.Generator().manual_seed(0)
    for _ in range(60):
        h, w, n = (int(torch.randint(low, high, (), generator=g)) for low, high in ((3, 40), (3, 40), (0, 50)))
        corner, sides = (torch.rand(2, n, 2, generator=g, dtype=torch.float64) * torch.tensor([w, h]) * 5).unbind(0)
        image = torch.randint(0, 2, (n, 1), generator=g).sort(dim=0).values.double()
        rois = torch.cat([image, corner - 12, corner - 12 + sides * (torch.rand(n, 1, generator=g) > 0.1)], dim=1)
        one = torch.randn(2, 4, h, w, generator=g, dtype=torch.float64, requires_grad=True)
        two = one.detach().clone().requires_grad_()
        expected, found = roi_align(one, rois, 7, 0.25, sampling_ratio=0,
                                    aligned=True), separable_roi_align(two, rois, 7, 0.25)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        weights = torch.randn(expected.shape, generator=g, dtype=torch.float64)
        (expected * weights).sum().backward()
        (found * weights).sum().backward()
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-9, atol=1e-9)
    with torch.autocast("cpu", torch.bfloat16):                          # weights are not rounded to eight bits
        half = one.detach().bfloat16()
        expected, found = roi_align(half, rois.float(), 7, 0.25, sampling_ratio=0,
                                    aligned=True), separable_roi_align(half, rois.float(), 7, 0.25)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_matching_a_thousand_objects_with_all_anchors_stays_below_a_gigabyte():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(261_888, 2, generator=g) * 1000
    anchors = torch.cat([corner, corner + 32], dim=1)
    assert peak_bytes(lambda: match(anchors[:1000], anchors, 0.3, 0.7, rescue=True)) < 1e9
    assert peak_bytes(lambda: B.iou(anchors[:400], anchors[:20_000])) <= 28 * 400 * 20_000
