"""A chart of horizontal bars, formatted as SVG without a library."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH: Final = 860
LABEL_WIDTH: Final = 250
NUMBER_WIDTH: Final = 80
BAR_HEIGHT: Final = 22
BAR_GAP: Final = 8
COLOURS: Final = {"ours": "#2563eb", "other": "#94a3b8"}
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1e293b}.title{font-weight:600;font-size:15px}.group{font-weight:600}"
)


def draw(title: str, groups: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Return groups of named bars as SVG; the longest bar of a group has the full width, and ours are highlighted."""
    parts = [f'<text class="title" x="16" y="28">{escape(title)}</text>']
    y = 48
    for name, bars in groups.items():
        parts.append(f'<text class="group" x="16" y="{y + 14}">{escape(name)}</text>')
        y += 26
        longest = max(value for _, value in bars) or 1
        for label, value in sorted(bars, key=lambda bar: -bar[1]):
            width = value / longest * (WIDTH - LABEL_WIDTH - NUMBER_WIDTH - 16)
            colour = COLOURS["ours" if label.startswith("ours") else "other"]
            parts += [
                f'<text x="{LABEL_WIDTH - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>',
                f'<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="3" fill="{colour}"/>',
                f'<text x="{LABEL_WIDTH + width + 6:.1f}" y="{y + 15}">{value:,.0f}</text>',
            ]
            y += BAR_HEIGHT + BAR_GAP
        y += 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
