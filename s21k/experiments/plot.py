"""Line plots as SVG, with no package for it: the training curves of runs, and one plot of several series.

    python -m s21k.experiments.plot runs/r18-toy                     the run's curves.svg, as the train scripts leave it
    python -m s21k.experiments.plot runs/a runs/b [--out FILE.svg]   several runs in the same panels (./curves.svg)

Curves come from log.jsonl: a panel for each number in it, stage I and stage II apart. Colours follow the
reader's theme (light, dark).
"""
import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from s21k.core.distributed import World
from s21k.core.errors import InputError, note, run_command

LIGHT = ("#1f6fb2", "#c8511b", "#2e8b57", "#7a4ba0", "#555555")                  # of the series, in turn
DARK = ("#6cb6ff", "#f0883e", "#57ab5a", "#b083f0", "#adbac7")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 520, 320, 60, 45, 30, 130              # of line_plot
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT, MARGIN, HEADING = 3, 310, 210, 12, 34        # of the curves
PANEL_LEFT, PANEL_TOP, PANEL_RIGHT, PANEL_BOTTOM = 54, 42, 14, 28                # around the axes of a panel
MOST_POINTS, MOST_DOTS = 300, 40                                                 # of a curve

# What the keys of log.jsonl mean. Those that are not here are plotted too, under their own name.
MEANING = {"loss": "ĝ on entire images, Eq. 3", "rpn_objectness": "RPN: object or not", "rpn_box": "RPN: boxes",
           "region_score": "f and g on regions, Eq. 4", "region_box": "boxes of regions", "mask": "masks of regions",
           "image_category": "ĝ on entire images, Eq. 3, before λ", "val_top1": "top-1 accuracy on validation images",
           "lr": "learning rate", "seconds_per_step": "seconds a step takes",
           "data_seconds": "of these, waiting for images", "skipped_steps": "left out by fp16's scaler"}
LATE = ("val_top1", "lr", "seconds_per_step", "data_seconds", "skipped_steps")   # panels after those of the losses
NOT_PLOTTED = ("step", "of", "epoch")
STAGES = {"stage1": "Stage I", "stage2": "Stage II"}

Curves = dict[str, dict[str, dict[int, float]]]      # stage -> key -> step -> number, steps ascending
Point = tuple[float, float]


def style() -> str:
    """The stylesheet: class t is text, m less important text, a axes, g grid lines, s0, s1, .. the series."""
    def rules(ink: str, less: str, paper: str, grid: str, series: tuple[str, ...]) -> str:
        lines = [f".paper{{fill:{paper}}} .t{{fill:{ink}}} .m{{fill:{less}}}",
                 f".a{{stroke:{ink};fill:none}} .g{{stroke:{grid};fill:none}}"]
        lines += [f".s{n}{{stroke:{color};fill:none}} circle.s{n}{{fill:{color}}}" for n, color in enumerate(series)]
        return "\n".join(lines)

    light = rules("#1f2328", "#59636e", "#ffffff", "#e4e8ec", LIGHT)
    dark = rules("#e6edf3", "#9198a1", "#0d1117", "#2a313c", DARK)
    return f"<style>\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n</style>"


def words(text: str, x: float, y: float, anchor: str = "start", kind: str = "t", font: str = "") -> str:
    """A text element; characters that XML does not know are replaced. font: an attribute, as font-size="16"."""
    shown = escape("".join(c if c.isprintable() else "\ufffd" for c in text))
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}"{font and " " + font}>{shown}</text>'


def drawing(width: int, height: int, parts: list[str]) -> str:
    """The whole SVG file, on its own background."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    paper = f'<rect class="paper" width="{width}" height="{height}"/>'
    return "\n".join([head + ' font-family="sans-serif" font-size="12">', style(), paper, *parts, "</svg>\n"])


def line(points: list[Point], number: int, dots: bool) -> list[str]:
    """Series `number` through points in pixels; one that is not finite leaves a gap, one between two gaps is a dot."""
    color, pieces, parts = number % len(LIGHT), [[]], []
    for point in points:
        if math.isfinite(point[1]):
            pieces[-1].append(point)
        else:
            pieces.append([])
    for piece in pieces:
        if len(piece) > 1:
            corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in piece)
            parts.append(f'<polyline class="s{color}" points="{corners}" stroke-width="2" stroke-linejoin="round"/>')
        if dots or len(piece) == 1:
            parts += [f'<circle class="s{color}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in piece]
    return parts


def legend(name: str, number: int, x: float, y: float) -> list[str]:
    """A short piece of the series' line, and its name."""
    return [f'<path class="s{number % len(LIGHT)}" d="M{x:g} {y - 4:g}h16" stroke-width="3"/>', words(name, x + 20, y)]


def round_up(value: float) -> float:
    """The next number, at least value > 0, of 1, 2, 4, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value * (1 - 1e-9))


def line_plot(path: Path, title: str, x_name: str, y_name: str, x: list[float],
              series: dict[str, list[float | None]]) -> None:
    """One line a series over common x (ascending); None: no point there. Both axes from 0 to a round number."""
    x_most = round_up(max(x))
    y_most = round_up(max([v for values in series.values() for v in values if v is not None] + [1e-9]))
    right, bottom, top = WIDTH - RIGHT, HEIGHT - BOTTOM, TOP

    def place(a: float, b: float) -> Point:
        return LEFT + (right - LEFT) * a / x_most, bottom - (bottom - top) * b / y_most

    parts = [words(title, LEFT, 18, font='font-size="13"'), f'<path class="a" d="M{LEFT} {top}V{bottom}H{right}"/>',
             words(x_name, (LEFT + right) / 2, HEIGHT - 8, "middle"),
             f'<g transform="translate(14 {(top + bottom) / 2}) rotate(-90)">', words(y_name, 0, 0, "middle"), "</g>"]
    for share in (0, 0.25, 0.5, 0.75, 1):
        px, py = place(share * x_most, share * y_most)
        parts += [f'<path class="a" d="M{px:.1f} {bottom}v4M{LEFT} {py:.1f}h-4"/>',
                  words(f"{share * x_most:.3g}", px, bottom + 16, "middle"),
                  words(f"{share * y_most:.2g}", LEFT - 7, py + 4, "end")]
    for number, (name, values) in enumerate(series.items()):
        parts += line([place(a, b) for a, b in zip(x, values, strict=True) if b is not None], number, dots=True)
        parts += legend(name, number, right + 8, top + 12 + 18 * number)
    path.write_text(drawing(WIDTH, HEIGHT, parts), encoding="utf-8")


def read_log(folder: Path) -> Curves:
    """The numbers of folder/log.jsonl. A continued run repeats steps: the last line of a step wins.

    Lines that are no JSON object with a step are left out, as the torn last line of a run that was killed is.
    InputError: no such file.
    """
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise InputError(f"{folder / 'log.jsonl'}: {error.strerror}, expected the folder of a run") from None
    curves: Curves = {}
    for text in lines:
        entry = parse(text)
        step, stage = as_number(entry.get("step")), str(entry.get("stage", ""))
        if step is None or not math.isfinite(step):
            continue
        for key, value in entry.items():
            if (number := as_number(value)) is not None:
                curves.setdefault(stage, {}).setdefault(key, {})[int(step)] = number
    return {stage: {key: dict(sorted(curve.items())) for key, curve in keys.items()} for stage, keys in curves.items()}


def parse(text: str) -> dict[str, Any]:
    """A line of log.jsonl; {} where it is torn. A continued run's first line may follow a torn one without a break."""
    for part in (text, text[max(text.rfind("{"), 0):]):
        try:
            entry = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return entry if isinstance(entry, dict) else {}
    return {}


def as_number(value: Any) -> float | None:
    """None: no number. Not finite, or too large to be drawn: NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e30 else math.nan


def ticks(values: Iterable[float], least: float = 0.0) -> list[float]:
    """Round numbers, at least `least` apart, that enclose 0 and the finite values."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    if high - low < 1e-30:
        high = low + 1
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = max(least, next(n * power for n in (1, 2, 5, 10) if n * power >= (high - low) / 4 * (1 - 1e-9)))
    return [n * step for n in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def thinned(curve: dict[int, float]) -> list[Point]:
    """At most MOST_POINTS points: means of as many neighbours as it takes."""
    points, size = list(curve.items()), max(1, -(-len(curve) // MOST_POINTS))
    groups = [points[n:n + size] for n in range(0, len(points), size)]
    return [(sum(a for a, _ in group) / len(group), sum(b for _, b in group) / len(group)) for group in groups]


def panel(x: int, y: int, key: str, runs: list[dict[int, float]], steps: list[float]) -> list[str]:
    """The curves of one key, at (x, y); runs: of each run its curve, {} for none. steps: the marks of the x axis."""
    shown = [thinned(curve) for curve in runs]
    marks = ticks(value for points in shown for _, value in points)
    left, right = x + PANEL_LEFT, x + PANEL_WIDTH - PANEL_RIGHT
    top, bottom = y + PANEL_TOP, y + PANEL_HEIGHT - PANEL_BOTTOM

    def place(step: float, value: float) -> Point:
        return (left + (right - left) * (step - steps[0]) / (steps[-1] - steps[0]),
                bottom - (bottom - top) * (value - marks[0]) / (marks[-1] - marks[0]))

    parts = ["<g>", words(key, left, y + 16, font='font-weight="bold"')]
    if key in MEANING:
        parts.append(words(MEANING[key], left, y + 32, kind="m"))
    if len(runs) == 1:
        parts.append(words(f"last {list(runs[0].values())[-1]:.4g}", right, y + 16, "end", "m"))
    for mark in marks:
        at = place(steps[0], mark)[1]
        parts += [f'<path class="g" d="M{left} {at:.1f}H{right}"/>', words(f"{mark:.6g}", left - 6, at + 4, "end")]
    for step in steps:
        at = place(step, marks[0])[0]
        parts += [f'<path class="a" d="M{at:.1f} {bottom}v4"/>', words(f"{step:g}", at, bottom + 16, "middle")]
    parts.append(f'<path class="a" d="M{left} {top}V{bottom}H{right}"/>')
    for number, points in enumerate(shown):
        parts += line([place(*point) for point in points], number, dots=len(points) <= MOST_DOTS)
    return [*parts, "</g>"]


def draw_stage(y: int, stage: str, runs: list[dict[str, dict[int, float]]]) -> tuple[list[str], int]:
    """A heading at y and below it the panels of one stage; and the y of what follows. runs: of each run its curves."""
    found = list(dict.fromkeys(key for curves in runs for key in curves if key not in NOT_PLOTTED))
    keys = [key for key in found if key not in LATE] + [key for key in LATE if key in found]
    if not keys:
        return [], y
    steps = [step for curves in runs for key in keys for step in curves.get(key, {})]
    total = max([max(steps), *(value for curves in runs for value in curves.get("of", {}).values())])
    title = f"{STAGES.get(stage, stage)}: {max(steps)} of {total:.0f} steps"
    parts = [words(title, MARGIN + PANEL_LEFT, y + 22, font='font-size="16"')]
    for place, key in enumerate(keys):
        row, column = divmod(place, COLUMNS)
        corner = MARGIN + column * PANEL_WIDTH, y + HEADING + row * PANEL_HEIGHT
        parts += panel(*corner, key, [curves.get(key, {}) for curves in runs], ticks(steps, least=1))
    return parts, y + HEADING + math.ceil(len(keys) / COLUMNS) * PANEL_HEIGHT + MARGIN


def draw_curves(runs: dict[str, Curves]) -> str:
    """SVG of the runs' curves, by name: small panels, three in a row, stage by stage."""
    parts, y = [], MARGIN
    if len(runs) > 1:
        for number, name in enumerate(runs):
            parts += legend(name, number, MARGIN + PANEL_LEFT, y + 14)
            y += 18
    begin = y
    for stage in sorted({stage for curves in runs.values() for stage in curves}):
        drawn, y = draw_stage(y, stage, [curves.get(stage, {}) for curves in runs.values()])
        parts += drawn
    if y == begin:
        parts.append(words("log.jsonl holds no numbers yet", MARGIN + PANEL_LEFT, y + 22))
        y += HEADING
    return drawing(COLUMNS * PANEL_WIDTH + 2 * MARGIN, y + MARGIN, parts)


def plot_curves(folder: Path, world: World) -> None:
    """Rank 0 writes curves.svg beside folder's log.jsonl, once there is one. Whatever goes wrong is one line."""
    if world.rank != 0 or not (folder / "log.jsonl").exists():
        return
    try:
        (folder / "curves.svg").write_text(draw_curves({folder.name: read_log(folder)}), encoding="utf-8")
    except Exception as error:                          # no run ends for its image
        note(f"{folder / 'curves.svg'} is not written ({error})")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m s21k.experiments.plot")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    short = [folder.resolve().name for folder in a.folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in a.folders]
    out = a.out or (a.folders[0] / "curves.svg" if len(a.folders) == 1 else Path("curves.svg"))
    runs = {name: read_log(folder) for name, folder in zip(names, a.folders, strict=True)}
    out.write_text(draw_curves(runs), encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    run_command(main, __doc__)
