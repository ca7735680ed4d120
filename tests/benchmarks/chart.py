"""A chart of horizontal bars, written as SVG by hand."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH: Final = 860
LABELS: Final = 250
NUMBERS: Final = 80
BAR: Final = 22
GAP: Final = 8
COLOURS: Final = {"ours": "#2563eb", "other": "#94a3b8"}
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1e293b}.title{font-weight:600;font-size:15px}.group{font-weight:600}"
)


def draw(title: str, groups: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Draw groups of named bars, the longest of each group as wide as there is room; ours stand out."""
    parts = [f'<text class="title" x="16" y="28">{escape(title)}</text>']
    y = 48
    for name, bars in groups.items():
        parts.append(f'<text class="group" x="16" y="{y + 14}">{escape(name)}</text>')
        y += 26
        longest = max(value for _, value in bars) or 1
        for label, value in sorted(bars, key=lambda bar: -bar[1]):
            width = value / longest * (WIDTH - LABELS - NUMBERS - 16)
            colour = COLOURS["ours" if label.startswith("ours") else "other"]
            parts += [
                f'<text x="{LABELS - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>',
                f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
                f'<text x="{LABELS + width + 6:.1f}" y="{y + 15}">{value:,.0f}</text>',
            ]
            y += BAR + GAP
        y += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
