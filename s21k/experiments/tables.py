"""What has been run, as lines of Markdown: tables of rows, and every claim beside the worlds."""
import statistics

import torch

from s21k.core.config import load_config
from s21k.experiments.noise import difference
from s21k.experiments.running import draws_of, figures_of, read_results
from s21k.experiments.worlds import CLAIMS, GROUPED, MEANING, TITLES, WORLDS, SmallWorld
from s21k.models.roi_pool import level_shares


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds, in per cent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(name: str, groups: tuple[str, ...], keys: tuple[str, ...]) -> list[str]:
    """The rows of a results file: mean and standard deviation over the seeds, in per cent; figures that are known by
    group, of each of the groups ("": all)."""
    columns = [(key, TITLES[key]) for key in keys if key not in GROUPED]
    columns += [(f"{key}_{group}" if group else key, f"{TITLES[key]}, {group or 'all'}")
                for key in keys if key in GROUPED for group in groups]
    out = ["| row | seeds | " + " | ".join(title for _, title in columns) + " |", "|" + "---|" * (len(columns) + 2)]
    for row in dict.fromkeys(line["row"] for line in read_results(name)):
        figures = list(figures_of(name, row).values())
        shown = [spread([f[key] for f in figures]) if all(key in f for f in figures) else "" for key, _ in columns]
        out.append(f"| {row}{': ' + MEANING[row] if row in MEANING else ''} | {len(figures)} | " + " | ".join(shown)
                   + " |")
    return out


def verdicts() -> list[str]:
    """Every claim beside the worlds: differences in points, mean and standard deviation over the seeds, in brackets
    the interval that holds 95 % of the draws of images; "not asked": the world has no such rows."""
    out = ["| claim | compared | " + " | ".join(WORLDS) + " |", "|---|---|" + "---|" * len(WORLDS)]
    for claim in CLAIMS:
        cells = []
        for name in WORLDS:
            both = [(figures_of(name, row), draws_of(name, row)) for row in (claim.row, claim.other)]
            found = {key: difference(both[0][0], both[1][0], key, both[0][1], both[1][1])
                     for key in getattr(claim, name)}
            cells.append("; ".join(f"{name_of(key)} {seen}: {seen.verdict}" for key, seen in found.items() if seen))
        if any(cells):
            out.append(f"| {claim.text} | {claim.row} - {claim.other} | "
                       f"{' | '.join(cell or 'not asked' for cell in cells)} |")
    return out


def name_of(key: str) -> str:
    """gt_known_novel -> GT-Known novel."""
    known = next(k for k in sorted(TITLES, key=len, reverse=True) if key.startswith(k))
    return (TITLES[known] + key.removeprefix(known)).replace("_", " ")


def gaps(world: SmallWorld) -> list[str]:
    """Delta(novel, all) as in Table 2 of AP50 and GT-Known; and GT-Known of the boxes that need no training: novel
    images may be easier by themselves."""
    out = []
    for key in ("AP50", "gt_known"):
        for row in dict.fromkeys(line["row"] for line in read_results(world.name)):
            values = [f[f"{key}_novel"] - f[key] for f in figures_of(world.name, row).values() if f"{key}_novel" in f]
            out += [f"{TITLES[key]}, novel - all: {row:<20} {spread(values)}"] if values else []
    figures = next(iter(figures_of(world.name, "full").values()))
    for box in ("whole_image", "centred_box"):
        shown = [100 * figures[f"gt_known_{box}{group}"] for group in ("", "_base", "_novel")]
        out.append(f"GT-Known of the {box.replace('_', ' ')}, without training: all {shown[0]:.1f}, base "
                   f"{shown[1]:.1f}, novel {shown[2]:.1f}, novel - all {shown[2] - shown[0]:+.1f}")
    return out


def levels(world: SmallWorld) -> list[str]:
    """Where FPN's rule puts the whole image in this world: not at the paper's P4 and P5 [G15]."""
    cfg = load_config(world.base)
    jitter = cfg.stage2.size * torch.linspace(*cfg.stage2.scale, 1000).clamp(max=1.0)
    return [f"level of the whole image, stage I: {level_shares(torch.tensor([float(cfg.stage1.size)]))}; stage II: "
            f"{level_shares(jitter)}; in the paper: {level_shares(torch.tensor([224.0]))}; "
            f"{level_shares(1024 * torch.linspace(0.1, 2, 1000).clamp(max=1))} (square images)"]


def all_tables() -> list[str]:
    """Of every world that has been run, and the verdicts."""
    out, groups = [], ("", "base", "novel")
    for world in WORLDS.values():
        if read_results(world.name):
            out += [f"\n{world.name}"]
            for keys in world.tables:
                out += ["", *table(world.name, groups, keys)]
        if figures_of(world.name, "full"):
            out += ["", *gaps(world), *levels(world)]
    return [*out, "", *table("choices", groups[1:], ("top1", "gt_known", "AP50")), "", *verdicts()]
