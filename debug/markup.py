"""One self-contained HTML page: figures as inline SVG images with text alternatives, tables, frames as JPEG.

The page's own content policy forbids every request, so nothing can be fetched when it is opened.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with every common kind of colour blindness, and by lightness in grey print.
BLUE, ORANGE, SKY, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#6b6b6b"
CLASS_COLOURS = {"generated": VERMILION, "real": BLUE, "pristine": BLUE}
CLASS_HATCHES = {"generated": "///", "real": "", "pristine": ""}

_settings = Lock()  # Matplotlib's are those of the whole process

_STYLE = Path(__file__).with_name("page.css")


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure(drawing: Figure, alternative: str, caption: str) -> str:
    """A Matplotlib figure as an SVG image. alternative: what it shows, in words, for those who do not see it."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # text stays text: small files, sharp print; fixed ids and no date: equal figures give equal pages
    with _settings, rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    source = data_uri(buffer.getvalue(), "image/svg+xml")
    return (
        f'<figure><img src="{source}" alt="{escape(alternative)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def frame_image(pixels: np.ndarray, alternative: str, *, width: int = 304, quality: int = 80, border: str = "") -> str:
    """A frame, uint8 RGB (H, W, 3), shrunk to at most `width`, as JPEG."""
    image = Image.fromarray(pixels)
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    style = f' style="border-color: {border}"' if border else ""
    return f'<img src="{data_uri(buffer.getvalue(), "image/jpeg")}" alt="{escape(alternative)}"{style}>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", numeric: Sequence[int] = ()
) -> str:
    """numeric: columns that are set flush right."""
    kinds = [' class="n"' if column in numeric else "" for column in range(len(header))]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in rows
    )
    # above the scrolling part, where it wraps on a narrow screen
    title = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    name = f' aria-label="{escape(caption)}"' if caption else ""
    whole = f"<table{name}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'{title}<div class="scroll" tabindex="0">{whole}</div>'


def tile(name: str, value: str, more: str = "") -> str:
    return f'<div class="tile">{escape(name)}<b>{escape(value)}</b><small>{escape(more)}</small></div>'


def box(kind: str, title: str, text: str) -> str:
    """kind: `warning` or `note`."""
    return f'<div class="{kind}" role="note"><b>{escape(title)}</b>{escape(text)}</div>'


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figures(parts: Iterable[str]) -> str:
    """Drawings beside each other, as many as there is room for."""
    return f'<div class="figures">{"".join(parts)}</div>'


def side_by_side(left: str, right: str) -> str:
    """Two parts beside each other on a wide screen, below each other on a narrow one."""
    return f'<div class="columns"><div>{left}</div><div>{right}</div></div>'


def definitions(terms: Mapping[str, str]) -> str:
    listed = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in terms.items())
    return f'<dl class="terms">{listed}</dl>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


@dataclass
class Page:
    """Sections in order; `render` gives the whole document."""

    title: str
    lead: str = ""
    footer: str = ""
    _sections: list[tuple[str, str]] = field(default_factory=list)

    def add(self, title: str, *parts: str) -> None:
        self._sections.append((title, "\n".join(part for part in parts if part)))

    def render(self) -> str:
        links = "".join(f'<li><a href="#s{k}">{escape(title)}</a></li>' for k, (title, _) in enumerate(self._sections))
        navigation = f'<nav aria-label="Sections"><ul>{links}</ul></nav>' if len(self._sections) > 1 else ""
        body = "\n".join(
            f'<section id="s{k}"><h2>{escape(title)}</h2>\n{content}\n</section>'
            for k, (title, content) in enumerate(self._sections)
        )
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(self.title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header><h1>{escape(self.title)}</h1>
<p>{escape(self.lead)}</p>
{navigation}</header>
<main>
{body}
</main>
<footer>{escape(self.footer)}</footer>
</body>
</html>
"""
