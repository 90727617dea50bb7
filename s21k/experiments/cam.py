"""CAM, for comparison only: class activation maps (Zhou et al., 2016) of the pooled classifier of "-reform.", which saw
no box (s21k.experiments)."""
from pathlib import Path

import torch

from s21k.core.boxes import iou
from s21k.core.categories import CategoryMap
from s21k.core.config import Config
from s21k.core.structures import Detections
from s21k.data.detection import DetectionData
from s21k.evaluation.columns import DetectionColumns
from s21k.evaluation.ground_truth import GroundTruth
from s21k.evaluation.localization import LocalizationAccuracy
from s21k.files.images import normalize, resize
from s21k.models.baselines import cam_box, cam_maps
from s21k.models.classifier import build_classifier
from s21k.training.checkpoint import read

CAM_SIZES = (64, 96, 128, 192, 256, 320)            # a map has a 32nd of the side


def cam_figures(cfg: Config, checkpoint: Path) -> dict[str, float]:
    """CAM on the pooled classifier of "-reform.", on images of one category. The size of the maps' input and the
    threshold are the best in GT-Known of the first box on 200 training images; classes are told at training's size."""
    root, where = Path(cfg.data.root), cfg.data.eval
    categories = CategoryMap.load(root / where.categories)
    classifier = build_classifier(cfg.model, cfg.data.cls.classes, 0.0).eval()
    classifier.load_state_dict(read(checkpoint)["model"])

    def boxes(image, size: int, rows: list[int],
              thresholds: list[float]) -> tuple[torch.Tensor, dict[int, list[list[float]]]]:
        """The probabilities of all classes, and for each of the rows of the classifier (and the five likeliest) a box a
        threshold, in the image's pixels."""
        _, logits = cam_maps(classifier, normalize(resize(image, (cfg.stage1.size,) * 2)[None]))
        maps, _ = cam_maps(classifier, normalize(resize(image, (size, size))[None]))
        wanted = {*rows, *logits[0].topk(min(5, logits.shape[1])).indices.tolist()} if len(thresholds) == 1 else {*rows}
        return logits[0].softmax(0), {row: [cam_box(maps[0, row], t, (image.height, image.width)) for t in thresholds]
                                      for row in wanted}

    train = DetectionData(root / cfg.data.det.annotations, root / cfg.data.det.images)
    cls_row = {det: cls for det, cls in zip(categories.det_index.tolist(), categories.cls_index.tolist()) if det >= 0}
    thresholds, best = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], (-1.0, 0, 0.0)
    for size in CAM_SIZES:
        right = torch.zeros(len(thresholds))
        for index in range(0, len(train), max(1, len(train) // 200)):
            image, target = train.read(index)
            row, own = cls_row[int(target.labels[0])], target.labels == target.labels[0]
            found = torch.tensor(boxes(image, size, [row], thresholds)[1][row])
            right += (iou(found, target.boxes[own]).max(1).values > 0.5).float()
        best = max([best, *((float(n), size, t) for n, t in zip(right, thresholds))])
    _, size, threshold = best
    gt = GroundTruth.load(root / where.annotations, categories)
    data, parts = DetectionData(root / where.annotations, root / where.images), []
    metric = LocalizationAccuracy(gt, leave_out_several=True)
    place = {row: k for k, row in enumerate(categories.cls_index.tolist())}
    for position, truth in ((p, t) for p, t in enumerate(metric.image_category.tolist()) if t >= 0):
        probabilities, found = boxes(data.read(position)[0], size, [int(categories.cls_index[truth])], [threshold])
        corners = torch.tensor([b[0] for b in found.values()])
        parts.append(DetectionColumns.of(position, Detections(corners, probabilities[list(found)],
                                                              torch.tensor([place[row] for row in found]))))
    metric.add_all(DetectionColumns.join(parts))
    return metric.compute() | {"cam_size": float(size), "cam_threshold": threshold}
