"""The frame of a report's page: one self-contained HTML file with its style and script inside; nothing is loaded."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

_ASSETS = Path(__file__).parent / "assets"
_TITLE = re.compile(r"<h2>(.*?)</h2>\s*", re.DOTALL)


def page(title: str, header: str, sections: Sequence[str], data: dict[str, Any] | None) -> str:
    """The whole page. `title` is text; `header` and `sections` are HTML, each section opening with its `<h2>`.

    `data` is what the script draws (see `chart_data`). Empty sections are left out. Scripts of any other content than
    ours are refused by the page's own content security policy, and so is every network request.
    """
    style, script = (_ASSETS / "report.css").read_text("utf-8"), (_ASSETS / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = [_section(number, text) for number, text in enumerate(filter(None, sections), start=1)]
    links = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name, _ in parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#section-1">Skip to the results</a>
<main>
{header}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{"".join(html for _, _, html in parts)}</main>
<script type="application/json" id="report-data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _section(number: int, text: str) -> tuple[str, str, str]:
    """(anchor, heading as HTML, the section's HTML)."""
    found = _TITLE.match(text)
    assert found, "a section opens with its <h2>"
    anchor = f"section-{number}"
    body = f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{found[1]}</h2>\n'
    return anchor, found[1], f"{body}{text[found.end() :]}</section>\n"


def _json(data: dict[str, Any] | None) -> str:
    """JSON that cannot end its script element, whatever its texts hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def image(picture: bytes, text: str, kind: str = "") -> str:
    """An `<img>` with the PNG inside; `text` is what it shows, for those who do not see it."""
    data = base64.b64encode(picture).decode("ascii")
    name = f' class="{kind}"' if kind else ""
    return f'<img{name} alt="{escape(text)}" src="data:image/png;base64,{data}">'


def table_head(names: Sequence[str], text: Sequence[str] = ()) -> str:
    """A table's `<thead>`; columns of words, `text`, are set left, the others right."""
    cells = "".join(f"<th scope=col{' class=text' if name in text else ''}>{escape(name)}</th>" for name in names)
    return f"<thead><tr>{cells}</tr></thead>"
