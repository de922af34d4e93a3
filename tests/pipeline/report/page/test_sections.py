"""The page's sections that no browser is needed for: what they say is what the stages wrote, and names are never markup."""

import io
import re
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image
from reports import MODE, detailed

from calib.preprocess import Preprocess
from pipeline.report.page.calibration import calibration_section
from pipeline.report.page.engines import layer_counts
from pipeline.report.page.gpu import gpu_section
from pipeline.report.page.latency import latency_section
from pipeline.report.page.layers import layers_section
from pipeline.report.page.page import html_page
from pipeline.report.page.render import Section, render
from pipeline.report.page.sensitivity import sensitivity_section
from pipeline.report.thumbnails import shrink, thumbnails

EVIL = "<b>x"


def html_of(section: Section | None) -> str:
    """A section's HTML, which there is."""
    assert section is not None
    return f"<h2>{escape(section.title)}</h2>{section.body}"


def test_latency_strips_place_percentiles_on_one_logarithmic_scale() -> None:
    variants = detailed()["variants"]
    html = html_of(latency_section(variants))
    batch_one, batch_eight = html.split("<h3>")[1:]
    assert batch_one.count('class="half"') == 4 and batch_eight.count('class="half"') == 4
    strip = re.search(r'aria-label="openvino-int8: median ([\d.]+), 90 % ([\d.]+), 99 % ([\d.]+) ms"', batch_one)
    assert strip is not None
    (row,) = [v for v in variants if v["name"] == "openvino-int8"]
    assert [f"{row['latency_ms'][p]:.2f}" for p in ("p50", "p90", "p99")] == list(strip.groups())
    places = [float(text) for text in re.findall(r'tick p50" style="left:([\d.]+)%', batch_one)]
    speeds = [v["latency_ms"]["p50"] for v in variants if v["latency_ms"]]
    steps = np.diff(places) / np.diff(np.log(speeds))
    assert steps == pytest.approx(steps[0], rel=0.01), "equal ratios are equally far apart"
    assert latency_section([variants[-1]]) is None, "nothing was timed"


def test_without_percentiles_the_three_ticks_are_left() -> None:
    variants = [{k: v for k, v in row.items() if k != "percentiles_ms"} for row in detailed()["variants"]]
    html = html_of(latency_section(variants))
    assert "<h3>Batch 8" not in html and 'class="half"' not in html and html.count("tick p99") == 4


def test_what_the_gpus_clock_said() -> None:
    variants = detailed()["variants"]
    html = html_of(gpu_section(variants))
    (row,) = re.findall(r"<tr><th scope=row>(.*?)</tr>", html)
    assert re.sub(r"<[^>]+>", " ", row).split() == [
        "tensorrt-int8", "0.50", "0.52", "0.61", "0.03", "0.44", "0.02", "batch", "1", "blocking", "3.25", "6.50", "918",
    ]  # fmt: skip
    assert "tensorrt-int8, batch 8: no CUDA graph, because the runtime allocates in it." in html
    assert "Energy: INA3221 rails." in html
    assert gpu_section([v for v in variants if v["name"] != "tensorrt-int8"]) is None, "no engine ran on a GPU"


def test_layers_of_engines_and_reasons_of_graphs() -> None:
    decision = {
        "node": "n1", "module": f"blocks.0.{EVIL}", "operator": "MatMul", "role": "", "quantized": True,
        "reason": "weight layer", "activations": [{"scale": 0.0362, "saturated": 0.001}],
    }  # fmt: skip
    rows = [decision, decision | {"quantized": False, "reason": "residual sum", "activations": []}]
    html = html_of(layers_section(detailed()["variants"], {"int8": rows}))
    assert "The int8 graph: 1 of 2 products and sums" in html and "0.0362" in html and "residual sum" in html
    assert "openvino-int8: 24 INT8, 0 FP16, 12 FP32, of 36 layers" in html
    assert EVIL not in html and layers_section([], {}) is None


@pytest.mark.parametrize(("kind", "title", "shown"), [("bf16", "BF16", "22/10/14"), ("fp8", "FP8", "32/0/14")])
def test_kinds_that_few_engines_have_are_shown_where_one_has_them(kind: str, title: str, shown: str) -> None:
    layers = {"int8": 22, "fp16": 0, "fp32": 14, kind: 10}
    variants = [{"name": "openvino-fp32", "layers": {"int8": 0, "fp16": 0, "fp32": 46}}]
    assert title not in html_of(layers_section(variants, {}))
    html = html_of(layers_section([*variants, {"name": "an-engine", "layers": layers}], {}))
    assert f"an-engine: 22 INT8, 10 {title}, 0 FP16, 14 FP32, of 46 layers" in html
    assert "openvino-fp32: 0 INT8, 0 FP16, 46 FP32, of 46 layers" in html
    assert f'<i class="box {kind}"' in html and f'<i class="{kind}" style="flex-grow:10">' in html
    assert layer_counts(layers) == shown


def test_sensitivity_shows_the_most_sensitive_first() -> None:
    groups = [
        {
            "group": f"g{i}{EVIL}",
            "nodes": ["n"] * i,
            "kl": 1e-4 * i,
            "snr_db": None if i == 3 else 30.0,
            "agreement": 99.0,
        }
        for i in range(1, 21)
    ]
    html = html_of(sensitivity_section({"images": 64, "groups": groups}))
    order = re.findall(r"<th scope=row>g(\d+)", html)
    assert order == [str(i) for i in range(20, 4, -1)] and "4 more groups" in html
    assert EVIL not in html and sensitivity_section(None) is None == sensitivity_section({"images": 1, "groups": []})


def audit(**changes: Any) -> dict[str, Any]:
    order = {"verdict": "rgb", "text": "as trained", "figures": {}}
    return {
        "images": 64, "fingerprint": "ab" * 32, "duplicates": {"count": 2, "examples": []}, "grey_share": 0.25,
        "per_class": {f"cat{EVIL}": 30, "dog": 34}, "mean": [0.1] * 3, "std": [0.2] * 3, "spec_mean": [0.3] * 3,
        "spec_std": [0.4] * 3, "colour_order": {"statistics": order, "network": None}, "warnings": [],
        "evaluation": {"same": 0, "near": 3, "pixels_compared": 1234},
    } | changes  # fmt: skip


def test_the_calibration_audit_in_words() -> None:
    html = html_of(calibration_section(audit()))
    for text in (
        "Accepted",
        "none the same, 3 nearly, of 1,234",
        "25 %",
        "rgb: as trained",
        "0.100, 0.100, 0.100",
        ">34<",
    ):
        assert text in html, text
    assert EVIL not in html
    warned = html_of(calibration_section(audit(warnings=[f"too dark {EVIL}"], per_class=None)))
    assert "too dark &lt;b&gt;x" in warned and "Accepted" not in warned and "no labels" in warned
    many = html_of(calibration_section(audit(per_class={f"c{i}": 10 + i for i in range(41)})))
    assert "41 classes: 10 images of c0 to 50 of c40" in many


def test_names_in_a_report_are_never_markup() -> None:
    """Every text of a report that a person or another program chose."""
    report = detailed()
    for key in ("run", "model"):
        report[key] += EVIL
    report["dataset"]["name"] += EVIL
    report["reference"]["name"] += EVIL
    for variant in report["variants"]:
        for key in ("name", "backend", "reason", "artifact"):
            variant[key] = (variant[key] or "") + EVIL
        found = variant.get("comparison", {})
        for row in (*found.get("per_class", ()), *found.get("flips", ()), *found.get("confusion_moved", ())):
            for key in {"label", "predicted", "image"} & set(row):
                row[key] += EVIL
    report["recommended"] = None
    pictures = {flip["image"]: b"png" for v in report["variants"] for flip in v.get("comparison", {}).get("flips", ())}
    html = html_page(report, report["reference"], MODE | {"note": EVIL}, b"png", (), pictures, EVIL)
    assert EVIL not in html.replace('"report-data">', "").split("<script type", 1)[0]
    assert html.count("&lt;b&gt;x") > 30 and "\\u003cb\\u003ex" in html, "in the page, and in what its script reads"


def test_a_template_names_no_value_that_is_not_there() -> None:
    with pytest.raises(UndefinedError, match="sentences"):
        render("how.html", recipe="")


def test_thumbnails_are_small_pngs_of_what_the_network_sees(tmp_path: Path) -> None:
    spec = Preprocess(224, 224, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    image = np.zeros((224, 224, 3), dtype=np.uint8)
    image[:, :112] = (0, 0, 255)  # OpenCV's red
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (data,) = thumbnails([tmp_path / "a.png"], spec)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert pixels.shape == (74, 74, 3), "224 by 3, the smallest factor to 96"
    assert tuple(pixels[30, 5]) == (255, 0, 0) and tuple(pixels[30, 70]) == (0, 0, 0)


def test_shrink_is_the_mean_of_squares() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert shrink(image, 6).shape == (4, 6, 3)
    assert shrink(image, 3)[0, 0].tolist() == [10, 12, 12], (
        "of pixels 0, 3, 18 and 21: 10.5, 11.5, 12.5, halves to even"
    )
