"""The page's templates: Jinja2, which escapes every value. Only what a template itself says is HTML."""

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.console.figures import MISSING, counted, megabytes, number, one_line, percent, quantity, signed

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, and what stands below it."""

    title: str
    body: Markup


def section(title: str, template: str, **values: Any) -> Section:
    """The section `title` with the body that `template` (`latency.html`) makes of `values`."""
    return Section(title, render(template, **values))


def render(template: str, **values: Any) -> Markup:
    """HTML of a template. jinja2.UndefinedError where it names a value that is not there."""
    return render_in(_TEMPLATES, template, **values)


def render_in(folder: Path, template: str, **values: Any) -> Markup:
    """HTML of a template in another room's `folder`, which may import the templates that are here."""
    return Markup(_environment(folder).get_template(template).render(**values))


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["MISSING"] = MISSING
    environment.filters |= {
        "number": number, "signed": signed, "quantity": quantity, "megabytes": megabytes, "percent": percent,
        "one_line": one_line, "thousands": lambda count: f"{count:,}", "exact": repr, "png": _png,
        "probability": _probability, "share": _share, "counted": counted,
    }  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return environment


def _probability(probability: float) -> str:
    """0.934 as `93 %`, which no line breaks apart."""
    return f"{100 * probability:.0f}\u00a0%"


def _share(share: float) -> str:
    """93.4 as `93.4 %`, and what rounds to nothing with more digits; no line breaks them apart."""
    return f"{number(share, 1 if share >= 0.05 else 2)}\u00a0%"


def _png(picture: bytes) -> str:
    """A PNG as the address of an `<img>`: the page loads nothing."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
