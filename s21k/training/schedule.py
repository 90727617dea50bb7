"""Learning rate as a function of the step; nothing to save or to restore."""
import math

WARMUP_FACTOR = 0.001                       # the first rate of a warm-up, as a share [G21]


def warmup_cosine(step: int, total: int, warmup: int, base: float, final: float = 0.0) -> float:
    """Linear from base / 1000 in warmup steps, then half a cosine down to final at step total [P50]."""
    if step < warmup:
        return base * (WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / warmup)
    share = (step - warmup) / max(total - warmup, 1)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * min(share, 1.0)))


def warmup_steps(step: int, base: float, warmup: int, milestones: list[int]) -> float:
    """Linear from base / 1000 in warmup steps; times 0.1 at each milestone, a step [G20, G21]."""
    rate = base * 0.1 ** sum(step >= milestone for milestone in milestones)
    return rate * (WARMUP_FACTOR + (1 - WARMUP_FACTOR) * step / warmup) if step < warmup else rate
