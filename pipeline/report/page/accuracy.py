"""The report's section on what each engine changes: the test, the classes, the confusions, and the images themselves."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.console.figures import MISSING, number, percent, signed
from pipeline.measure.significance import ALPHA
from pipeline.report.page.frame import image, table_head
from pipeline.report.values.format import class_count, drop

_CLASS_HEADS = ("Class", "Images", "Top‑1 before", "after", "Δ pp", "p")


def accuracy_section(report: dict[str, Any], thumbnails: Mapping[str, bytes]) -> str:
    """HTML of the section; "" where no variant was compared. `thumbnails` are PNGs by the names that the flips have."""
    compared = [variant for variant in report["variants"] if "comparison" in variant]
    if not compared:
        return ""
    reference = report["reference"]["name"]
    changed = [v for v in compared if v["comparison"]["gained"] or v["comparison"]["lost"]]
    same = [v["name"] for v in compared if v not in changed]
    rows = "".join(_row(variant) for variant in changed)
    heads = (
        "Engine",
        "Gained",
        "Lost",
        "Δ top-1 pp [95 %]",
        "McNemar p",
        "More than chance?",
        "Smallest drop seen, pp",
    )
    table = (
        f'<div class="scroll"><table class="plain">{table_head(heads, heads[5:6])}<tbody>{rows}</tbody></table></div>'
    )
    alike = f"<p>Right and wrong on exactly the same images as {escape(reference)}: {escape(', '.join(same))}.</p>"
    return f"""<h2>What the engines change</h2>
{_enough(report)}
{table if changed else ""}
{alike if same else ""}
<p class="note">Gained: images only the engine gets right; lost: images only {escape(reference)} does. p: exact McNemar test \
on these, two-sided; below {ALPHA:g} the change is more than chance, for one engine looked at alone. Δ and its interval: paired \
bootstrap, 10,000 resamples. Smallest drop seen: the true drop that this many images show with 80 % chance, given how many \
images this engine changes.</p>
{"".join(_details(variant, report, thumbnails) for variant in changed)}
"""


def _enough(report: dict[str, Any]) -> str:
    """Whether there were enough images, in words."""
    found = report["enough_images"]
    allowed, smallest = found["gate_drop_pp"], found["smallest_drop_pp"]
    sees = "No drop could be shown" if smallest is None else f"A true drop of {number(smallest)} points is found"
    gate = f"the gate of {percent(report['gate']['min_relative_top1'])} allows {number(allowed)} points"
    if found["enough"]:
        text = f"<b>Enough images.</b> {sees} with 80 % chance on these {found['images']:,}; {gate}."
    else:
        needed = "" if found["images_needed"] is None else f" About {found['images_needed']:,} would be."
        text = (
            f"<b>Not enough images</b> to be sure of the gate. {sees} with 80 % chance on these {found['images']:,}, but "
            f"{gate}.{needed}"
        )
    return f'<p class="callout {"good" if found["enough"] else "warn"}" id="enough-images">{text}</p>'


def _row(variant: dict[str, Any]) -> str:
    found = variant["comparison"]
    smallest = found["smallest_drop_pp"]
    cells = [
        _value(found["gained"], str(found["gained"])), _value(found["lost"], str(found["lost"])),
        f"<td>{escape(drop(variant))}</td>", _value(found["mcnemar_p"], p_text(found["mcnemar_p"])),
        f"<td class=text>{_verdict(found['gained'], found['lost'], found['mcnemar_p'])}</td>",
        f"<td>{MISSING}</td>" if smallest is None else _value(smallest, number(smallest)),
    ]  # fmt: skip
    return f"<tr><th scope=row>{escape(variant['name'])}</th>{''.join(cells)}</tr>"


def _value(value: float, text: str) -> str:
    return f'<td data-value="{value!r}">{escape(text)}</td>'


def p_text(p: float) -> str:
    """A p-value: three decimals, or the power of ten it is below."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001" if p >= 1e-6 else "< 10⁻⁶"


def _verdict(gained: int, lost: int, p: float) -> str:
    if p > ALPHA:
        return "no"
    return "yes, worse" if lost > gained else "yes, better"


def _details(variant: dict[str, Any], report: dict[str, Any], thumbnails: Mapping[str, bytes]) -> str:
    found = variant["comparison"]
    classes = f"{found['classes_changed']} of {class_count(report)} classes changed"
    return f"""<details class="card changes"><summary>{escape(variant["name"])}: {classes}, \
{found["lost"]} images lost, {found["gained"]} gained</summary>
{_flips(found["flips"], variant["name"], report["reference"]["name"], thumbnails, found["lost"])}
<div class="columns">
{_classes(found)}
{_confusions(found["confusion_moved"], report["reference"]["name"])}
</div>
</details>
"""


def _classes(found: dict[str, Any]) -> str:
    """Every class that changed, with a bar to the left or right of no change."""
    widest = max(abs(row["top1"] - row["reference_top1"]) for row in found["per_class"]) or 1.0
    rows = "".join(_class_row(row, widest) for row in found["per_class"])
    left = found["classes_changed"] - len(found["per_class"])
    more = f"<p class=note>{left} more classes changed less.</p>" if left else ""
    return f"""<div><h3>Classes</h3>
<table class="plain">{table_head(_CLASS_HEADS)}<tbody>{rows}</tbody></table>
<p class="note">p: McNemar's, made larger for how many classes changed (Holm).</p>{more}</div>"""


def _class_row(row: dict[str, Any], widest: float) -> str:
    delta = row["top1"] - row["reference_top1"]
    kind = "up" if delta > 0 else "down"
    bar = f'<i class="delta {kind}" style="--size:{abs(delta) / widest:.3f}" aria-hidden="true"></i>'
    return (
        f"<tr><th scope=row>{escape(row['label'])}</th><td>{row['images']:,}</td><td>{number(row['reference_top1'])}</td>"
        f"<td>{number(row['top1'])}</td><td class=bar>{signed(delta)}{bar}</td><td>{p_text(row['p'])}</td></tr>"
    )


def _confusions(moved: Sequence[dict[str, Any]], reference: str) -> str:
    rows = "".join(
        f"<tr><td class=text>{escape(row['label'])}</td><td class=text>{escape(row['predicted'])}</td>"
        f"<td>{row['reference']}</td><td>{row['engine']}</td><td>{signed(row['engine'] - row['reference'], 0)}</td></tr>"
        for row in moved
    )
    if not rows:
        return "<div><h3>Confusions</h3><p>None moved.</p></div>"
    heads = ("Is", "Taken for", reference, "Engine", "Change")
    return f"""<div><h3>Confusions that moved</h3>
<table class="plain">{table_head(heads, heads[:2])}<tbody>{rows}</tbody></table></div>"""


def _flips(
    flips: Sequence[dict[str, Any]], engine: str, reference: str, thumbnails: Mapping[str, bytes], lost: int
) -> str:
    """Cards of the images that lost most; only those with a picture."""
    cards = "".join(
        _flip(flip, engine, reference, thumbnails[flip["image"]]) for flip in flips if flip["image"] in thumbnails
    )
    if not cards:
        return ""
    heading = f"The worst of the {lost} images lost" if lost > len(flips) else "The images lost"
    return f'<h3>{heading}</h3><div class="flips">{cards}</div>'


def _flip(flip: dict[str, Any], engine: str, reference: str, picture: bytes) -> str:
    sure = "" if flip["probability"] is None else f" {percent_text(flip['probability'])}"
    text = f"{flip['image']}: {flip['label']}, which {engine} takes for {flip['predicted']}"
    return f"""<figure>{image(picture, text, "pixels")}<figcaption>
<span class="right">✓ {escape(reference)}: <b>{escape(flip["label"])}</b> {percent_text(flip["reference_probability"])}</span>
<span class="wrong">✗ {escape(engine)}: <b>{escape(flip["predicted"])}</b>{sure}</span>
<small>{escape(flip["image"])}</small></figcaption></figure>"""


def percent_text(probability: float) -> str:
    """0.934 as `93 %`, which no line breaks apart."""
    return f"{100 * probability:.0f}\u00a0%"
