"""Small line plots as SVG, with no package for it."""
import math
from pathlib import Path
from xml.sax.saxutils import escape

COLORS = ("#1f6fb2", "#c8511b", "#2e8b57", "#7a4ba0", "#555555")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 520, 320, 60, 45, 30, 130


def round_up(value: float) -> float:
    """The next number, at least value > 0, of 1, 2, 4, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value * (1 - 1e-9))


def line_plot(path: Path, title: str, x_name: str, y_name: str, x: list[float],
              series: dict[str, list[float | None]]) -> None:
    """One line a series over common x (ascending); None: no point there. Both axes from 0 to a round number."""
    x_most = round_up(max(x))
    y_most = round_up(max([v for values in series.values() for v in values if v is not None] + [1e-9]))

    def place(a: float, b: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - RIGHT) * a / x_most, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * b / y_most

    right, bottom, top = WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
             f'font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>',
             f'<path d="M{LEFT} {top}V{bottom}H{right}" fill="none" stroke="black"/>',
             f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>',
             f'<text transform="translate(14 {(top + bottom) / 2}) rotate(-90)" '
             f'text-anchor="middle">{escape(y_name)}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        (px, _), (_, py) = place(share * x_most, 0), place(0, share * y_most)
        parts += [f'<path d="M{px:.1f} {bottom}v4M{LEFT} {py:.1f}h-4" stroke="black"/>',
                  f'<text x="{px:.1f}" y="{bottom + 16}" text-anchor="middle">{share * x_most:.3g}</text>',
                  f'<text x="{LEFT - 7}" y="{py + 4:.1f}" text-anchor="end">{share * y_most:.2g}</text>']
    for number, (name, values) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        points = [place(a, b) for a, b in zip(x, values) if b is not None]
        parts += [f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" fill="none" stroke="{color}" '
                  f'stroke-width="2"/>',
                  *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{color}"/>' for a, b in points),
                  f'<path d="M{right + 8} {top + 8 + 18 * number}h16" stroke="{color}" stroke-width="3"/>',
                  f'<text x="{right + 28}" y="{top + 12 + 18 * number}">{escape(name)}</text>']
    path.write_text("\n".join([*parts, "</svg>"]))
