"""From logits to detections at 21,841 categories x 1,000 regions: time and memory, beside two peers on the same input.

    python -m tests.bench.postprocessing [--regions 1000] [--categories 21841] [--all] [--json PATH]

Inputs: peaked (about 70 thousand and 250 thousand scores above 1e-4), adversarial (about 10 million just above it, S_fg
near 1), and the first with threshold 0. Peers: torchvision's postprocess_detections, given the finished scores; and the
plain vectorised way: all scores, topk, NMS per category with offsets in float64, more candidates until 100 survive.
torchvision takes minutes for millions of candidates: by default it gets every twentieth category then, and its time is
multiplied by 20. That is a lower bound: it searches all candidates once a category. --all waits for it.
Two threads on CPU; on a CUDA device, that.
"""
import statistics
import time
from types import SimpleNamespace

import torch
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import nms

from s21k.core.structures import Detections
from s21k.models.fused_scores import FusedScores
from s21k.models.postprocess import Ranking, postprocess
from tests.bench.timing import Bench, peak_bytes, shown

MINUTES = (1, 15)
SHARE, PATIENCE = 20, 500_000               # torchvision sees every SHARE-th category where there are more candidates
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_DET = 365                                                            # as Objects365: those categories are fused


def boxes_of(regions: int, generator: torch.Generator) -> torch.Tensor:
    """Proposals as a detector makes them: many around each of 40 objects of an 800 x 1333 image."""
    centre = torch.rand(40, 2, generator=generator) * torch.tensor([1333.0, 800.0])
    side = 40 + 300 * torch.rand(40, 2, generator=generator)
    which = torch.randint(0, 40, (regions,), generator=generator)
    middle = centre[which] + torch.randn(regions, 2, generator=generator) * 0.15 * side[which]
    half = side[which] * (0.5 + 0.1 * torch.randn(regions, 2, generator=generator)).clamp(min=0.2)
    boxes = torch.cat([middle - half, middle + half], dim=1)
    return torch.stack([boxes[:, 0].clamp(0, 1333), boxes[:, 1].clamp(0, 800), boxes[:, 2].clamp(0, 1333),
                        boxes[:, 3].clamp(0, 800)], dim=1)


def make(kind: str, regions: int, categories: int) -> tuple[torch.Tensor, ...]:
    """boxes, f, g, g-hat, det_index, cls_index."""
    generator = torch.Generator().manual_seed(0)
    boxes = boxes_of(regions, generator)
    num_det = min(NUM_DET, categories)
    cls = torch.randn(regions, categories, generator=generator)
    det = torch.randn(regions, num_det, generator=generator) * 3
    if kind == "adversarial":
        # about 9,900 equals a region, each with a little over 1e-4
        fg = torch.full((regions,), 20.0)
        chosen = torch.rand(regions, categories, generator=generator) < min(1.0, 9900 / categories)
        cls = torch.where(chosen, cls * 2e-4, -30.0)
        cls[:, :num_det] = -30.0                                         # the fused ones stay out
    else:
        fg = torch.randn(regions, generator=generator) * 2 - 1
        cls *= {"peaked, 70 k": 5.65, "peaked, 250 k": 3.62}[kind]
    det_index = torch.full((categories,), -1)
    det_index[:num_det] = torch.arange(num_det)
    return tuple(t.to(DEVICE) for t in (boxes, fg, det, cls, det_index, torch.arange(categories)))


def ours(case: tuple, threshold: float) -> Detections:
    return postprocess(Ranking(FusedScores(*case)), threshold, 0.5, 100)


def vectorised(case: tuple, threshold: float) -> Detections:
    """The best that is straightforward: exact, too, but it makes and searches all scores."""
    regions = FusedScores(*case)
    scores = torch.cat([rows for _, rows in regions.parts()])
    flat, wanted = scores.flatten(), 2000
    while True:
        best, place = flat.topk(min(wanted, flat.numel()))
        place, best = place[best > threshold], best[best > threshold]
        region, category = place // scores.shape[1], place % scores.shape[1]
        moved = regions.boxes[region].double() + (category * 4000.0).double()[:, None]
        kept = nms(moved, best.double(), 0.5)[:100]
        if len(kept) == 100 or len(best) < wanted:
            return Detections(regions.boxes[region[kept]], best[kept], category[kept])
        wanted *= 8


def torchvisions(case: tuple, threshold: float, scores: torch.Tensor) -> Detections:
    """RoIHeads.postprocess_detections; its softmax gets the logarithms of the scores, with the rest as background."""
    boxes = case[0]
    logits = torch.cat([(1 - scores.sum(1, keepdim=True)).clamp(min=1e-9), scores.clamp(min=1e-30)], dim=1).log_()
    heads = SimpleNamespace(box_coder=SimpleNamespace(decode=lambda deltas,
                                                      proposals: boxes[:, None].expand(-1, logits.shape[1], 4)),
                            score_thresh=threshold, nms_thresh=0.5, detections_per_img=100)
    found = RoIHeads.postprocess_detections(heads, logits, torch.zeros(len(boxes), 4), [boxes], [(800, 1333)])
    return Detections(found[0][0], found[1][0], found[2][0] - 1)


def timed(run, repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def peak(run) -> float:
    """MB beyond what is there."""
    if DEVICE.type == "cpu":
        return peak_bytes(run) / 1e6
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def beside_torchvision(bench: Bench, case: tuple, threshold: float, above: int, mine: float) -> None:
    share = SHARE if above > PATIENCE and not bench.options.all else 1
    scores = torch.cat([rows for _, rows in FusedScores(*case).parts()])[:, ::share].contiguous()
    seconds = share * timed(lambda: torchvisions(case, threshold, scores), 1)[0]
    how = f" at least ({share} times that of every {share}th category)" if share > 1 else ""
    bench.line(f"  torchvision  {shown([seconds])}{how}: {seconds / mine:.0f} x ours", seconds=seconds, share=share)


def main() -> None:
    bench = Bench(__doc__, MINUTES)
    bench.parser.add_argument("--regions", type=int, default=1000)
    bench.parser.add_argument("--categories", type=int, default=21841)
    a = bench.begin()
    if DEVICE.type == "cpu":
        torch.set_num_threads(2)
    x, weight = torch.randn(a.regions, 1024, device=DEVICE), torch.randn(a.categories, 1024, device=DEVICE)
    x @ weight.T
    product = timed(lambda: x @ weight.T, 5)
    bench.line(f"{a.regions} regions x {a.categories} categories, {DEVICE}; the product (R, 1024) x (1024, K): "
               f"{shown(product)}", seconds=product)
    for kind, threshold in (("peaked, 70 k", 1e-4), ("peaked, 250 k", 1e-4), ("adversarial", 1e-4),
                            ("peaked, 70 k", 0.0)):
        case = make(kind, a.regions, a.categories)
        above = sum(int((rows > threshold).sum()) for _, rows in FusedScores(*case).parts())
        bench.line(f"{kind}, threshold {threshold:g}: {above} candidates")
        results = []
        memory = peak(lambda: results.append(ours(case, threshold)))     # of the first call: nothing is kept ready
        seconds = timed(lambda: ours(case, threshold), 7)
        mine = statistics.median(seconds)
        bench.line(f"  ours         {shown(seconds)}, {memory:.0f} MB", seconds=seconds, megabytes=memory)
        found, other = results[0], vectorised(case, threshold)
        plain = timed(lambda: vectorised(case, threshold), 3)
        bench.line(f"  vectorised   {shown(plain)}, {peak(lambda: vectorised(case, threshold)):.0f} MB: "
                   f"{statistics.median(plain) / mine:.1f} x ours", seconds=plain)
        # Equals may stand in another order there.
        assert torch.equal(found.scores, other.scores), "the vectorised way found others"
        beside_torchvision(bench, case, threshold, above, mine)


if __name__ == "__main__":
    main()
