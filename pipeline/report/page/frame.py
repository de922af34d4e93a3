"""The frame of a page: one self-contained HTML file with its style and script inside; nothing is loaded."""

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.report.page.render import Section, render
from pipeline.report.values.format import headed
from pipeline.report.values.task_texts import TEXTS
from pipeline.tasks.words import CLASSIFICATION, Words

_ASSETS = Path(__file__).parent / "assets"


def page(
    title: str, header: Markup, sections: Iterable[Section | None], data: dict[str, Any] | None, words: Words,
    assets: Path | None = None,
) -> str:  # fmt: skip
    """The whole page; sections that are None, which have nothing to say, are left out.

    `data` is what the script draws (see `chart_data`), in the words of a task. `assets` is a folder of another room with style
    (*.css) and script (*.js) beside a report's; its script runs first. The page's own content security policy refuses every
    network request and every script but ours.
    """
    style, script = _style(words) + _all(assets, "*.css"), _all(assets, "*.js") + _script(words)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return render(
        "frame.html", title=title, header=header, sections=[part for part in sections if part is not None], data=data,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=Markup(style), script=Markup(script),
    )  # fmt: skip


def _all(folder: Path | None, pattern: str) -> str:
    """The texts of a folder's files, in order of their names; "" without a folder."""
    return "".join(file.read_text("utf-8") for file in sorted(folder.glob(pattern))) if folder else ""


def _style(words: Words) -> str:
    """report.css, and what the task has beside it."""
    files = [_ASSETS / "report.css", *_ASSETS.glob(f"{words.task}.css")]
    return "".join(file.read_text("utf-8") for file in files)


def _script(words: Words) -> str:
    """report.js, which is written in the words of classification, in those of `words`."""
    text = (_ASSETS / "report.js").read_text("utf-8")
    for written, said in zip(_in_script(CLASSIFICATION), _in_script(words), strict=True):
        assert written in text, f"report.js does not say {written!r}"
        text = text.replace(written, said)
    return text


def _in_script(words: Words) -> tuple[str, ...]:
    """How columns begin of which more is better, the key of the score, and its names."""
    begins = dict.fromkeys(re.split(r"\W", headed(name))[0] for name in (words.score_name, words.second_name))
    return f"/^({'|'.join(begins)}|Agreement|", words.score, TEXTS[words.task].score_in_full, words.score_name
