"""The frame of a page: one self-contained HTML file with its style and script inside; nothing is loaded."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.report.page.render import Section, render

_ASSETS = Path(__file__).parent / "assets"


def page(title: str, header: Markup, sections: Iterable[Section | None], data: dict[str, Any] | None) -> str:
    """The whole page; sections that are None, which have nothing to say, are left out.

    `data` is what the script draws (see `chart_data`). The page's own content security policy refuses every network
    request and every script but ours.
    """
    style, script = (_ASSETS / "report.css").read_text("utf-8"), (_ASSETS / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return render(
        "frame.html", title=title, header=header, sections=[part for part in sections if part is not None], data=data,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=Markup(style), script=Markup(script),
    )  # fmt: skip
