"""Boxes, arrows and small images of a figure as SVG, for light and dark themes."""
import re
from xml.sax.saxutils import escape

LINE = 16                                                            # pixels from one line of text to the next
# Boxes are inherited (from stage I) or new, losses are dashed. {0} background, {1} ink, {2} less important, {3} frames,
# then fill and stroke of the three, and {10} RoIs.
THEME = """.paper {{fill:{0}}} text {{fill:{1}}} .less {{fill:{2}}} .strong {{font-weight:bold}}
.panel {{fill:none;stroke:{3}}} .arrow {{fill:none;stroke:{1};stroke-width:1.3}} .tip {{fill:{1}}}
.inherited {{fill:{4};stroke:{5}}} .around {{fill:none;stroke:{5}}}
.inherit {{fill:none;stroke:{5};stroke-width:4}} .big {{fill:{5}}}
.new {{fill:{6};stroke:{7}}} .loss {{fill:{8};stroke:{9};stroke-dasharray:5 3}}
.image {{fill:{3};stroke:{2}}} .thing {{fill:{2}}} .roi {{fill:none;stroke:{10};stroke-width:2.5}}"""
LIGHT = ("#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#ddf4ff", "#0969da", "#dafbe1", "#1a7f37", "#fff1ef", "#cf222e",
         "#8250df")
DARK = ("#0d1117", "#f0f6fc", "#9198a1", "#3d444d", "#10294d", "#4493f8", "#0f3119", "#3fb950", "#2d1416", "#f85149",
        "#b083f0")


def rich(text: str) -> str:
    """SVG of a text with `code`, _{subscripts} and ^{superscripts}."""
    text = re.sub("`([^`]+)`", r'<tspan font-family="monospace">\1</tspan>', escape(text))
    for sign, shift in (("_", 3), (r"\^", -5)):
        back = rf'<tspan dy="{-shift}">&#8203;</tspan>'                          # a space without width carries it back
        text = re.sub(sign + r"\{([^}]+)\}", rf'<tspan dy="{shift}" font-size="9">\1</tspan>{back}', text)
    return text


class Sheet:
    """The elements of a figure, in order; kind is a class of THEME."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def drawing(self, width: int, height: int) -> str:
        """The whole SVG file, on its own background."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        style = f"{THEME.format(*LIGHT)}\n@media (prefers-color-scheme: dark) {{\n{THEME.format(*DARK)}\n}}"
        paper = f'<rect class="paper" width="{width}" height="{height}"/>'
        return "\n".join([head, f"<style>\n{style}\n</style>", paper, *self.parts, "</svg>\n"])

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "", size: int = 12) -> None:
        where = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"'
        self.parts.append(f'<text {where} class="{kind}">{rich(text)}</text>')

    def box(self, x: float, y: float, w: float, h: float, kind: str, *lines: str) -> None:
        """A box with its lines of text in the middle."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" class="{kind}"/>')
        for number, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 4 + LINE * (number - (len(lines) - 1) / 2), line, "middle")

    def arrow(self, *corners: tuple[float, float], kind: str = "arrow") -> None:
        """A line through the corners; its last piece, level or upright, ends in a tip."""
        (a, b), (x, y) = corners[-2:]
        size, tip = (10, "big") if kind == "inherit" else (6, "tip")
        dx, dy = size * ((x > a) - (x < a)), size * ((y > b) - (y < b))
        path = "L".join(f"{a:g} {b:g}" for a, b in [*corners[:-1], (x - dx, y - dy)])
        wings = f"{x - dx - dy / 2:g} {y - dy + dx / 2:g}L{x:g} {y:g}L{x - dx + dy / 2:g} {y - dy - dx / 2:g}"
        self.parts.append(f'<path d="M{path}" class="{kind}"/><path d="M{wings}Z" class="{tip}"/>')

    def image(self, x: float, y: float, *rois: tuple[int, int, int, int]) -> None:
        """An image of two things, with RoIs (x, y, w, h)."""
        frames = [f'<rect x="{x + a}" y="{y + b}" width="{w}" height="{h}" class="roi"/>' for a, b, w, h in rois]
        self.parts += [f'<rect x="{x}" y="{y}" width="84" height="56" class="image"/>',
                       f'<circle cx="{x + 24}" cy="{y + 24}" r="11" class="thing"/>',
                       f'<path d="M{x + 44} {y + 46}l14 -26l14 26z" class="thing"/>', *frames]

    def down(self, x: float, *ends: float) -> None:
        """Arrows at x, from each first to each second y."""
        for top, bottom in zip(ends[::2], ends[1::2], strict=True):
            self.arrow((x, top), (x, bottom))
