"""A bundle's `android/`: programs for phones as the host built and judged them, and how an app runs them.

Of a run that built none there is no such folder. Nothing in it was run on a phone.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.preprocess import Preprocess
from export.engines.sidecar import read_sidecar
from export.engines.spec import PHONE_BACKENDS
from pipeline.device.choice import FinishedRun
from pipeline.tasks.words import CLASSIFICATION

_LABELS, _SAMPLE = "labels.txt", "sample.rgb"
_AAR = "org.pytorch:executorch-android"


def write_android(
    folder: Path, run: FinishedRun, wanted: set[str], spec: Preprocess, classes: tuple[str, ...], row: int,
    image: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Write `folder` where the run has engines for phones that passed the gate in the `wanted` precisions.

    `image` (H, W, 3) is evaluation image number `row`, to check a phone with. InputError where an engine was changed since.
    """
    passed = [
        variant for variant in run.report["variants"]
        if variant["backend"] in PHONE_BACKENDS and variant["status"] == "pass" and variant["precision"] in wanted
    ]  # fmt: skip
    if not passed:
        return
    folder.mkdir()
    for variant in passed:
        built = run.artifacts["build"].folder / variant["name"]
        sidecar = read_sidecar(built)
        shutil.copyfile(built / sidecar.engine, folder / program_of(variant["name"]))
    (folder / _LABELS).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    (folder / _SAMPLE).write_bytes(np.ascontiguousarray(image).tobytes())
    (folder / "Preprocessing.kt").write_text(preprocessing_kotlin(spec), encoding="utf-8")
    if run.task.words == CLASSIFICATION:
        chosen = next((variant for variant in passed if variant["pareto"]), passed[0])
        (folder / "Classifier.kt").write_text(classifier_kotlin(program_of(chosen["name"])), encoding="utf-8")
    answers = _answers(run, passed, classes, row)
    (folder / "README.md").write_text(_readme(run, passed, spec, answers), encoding="utf-8")


def program_of(engine: str) -> str:
    """`executorch-int8.pte`."""
    return f"{engine}.pte"


def preprocessing_kotlin(spec: Preprocess) -> str:
    """The constants of what goes into the network."""
    numbers = {"MEAN": spec.mean, "STD": spec.std}
    inside = "".join(
        f"    // {name} = {', '.join(f'{value:g}' for value in values)}\n" for name, values in numbers.items()
    )
    return f"""// What goes into the network. Written by t2t-edge bundle; preprocessing {spec.sha256()[:12]}.
object Preprocessing {{
    const val HEIGHT = {spec.height}
    const val WIDTH = {spec.width}
    const val CROP = {float(spec.crop_pct)}  // of the shorter side, from the middle: what is scaled to HEIGHT and WIDTH
    const val INTERPOLATION = "{spec.interpolation}"  // to enlarge; where an image shrinks, the mean of the area
    // The network takes bytes, RGB, (1, HEIGHT, WIDTH, 3), and normalises them itself. For 0 to 1:
{inside}}}
"""


def classifier_kotlin(program: str) -> str:
    """An example of a class for an app, against ExecuTorch's AAR."""
    return f"""// An example: classify a photo with ExecuTorch's AAR ({_AAR}). It has not been compiled or run by t2t-edge.
import android.content.Context
import android.graphics.Bitmap
import android.graphics.Matrix
import java.io.File
import kotlin.math.exp
import kotlin.math.max
import kotlin.math.roundToInt
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** `{program}` and `{_LABELS}` are assets of the app. Use it from one thread at a time, and not from the main one. */
class Classifier(context: Context, program: String = "{program}", threads: Int = 4) : AutoCloseable {{
    private val module = Module.load(fileOf(context, program), Module.LOAD_MODE_MMAP, threads)
    private val labels = context.assets.open("{_LABELS}").bufferedReader().use {{ it.readLines() }}

    /** The most probable class, and its probability. */
    fun classify(photo: Bitmap): Pair<String, Float> {{
        val shape = longArrayOf(1, Preprocessing.HEIGHT.toLong(), Preprocessing.WIDTH.toLong(), 3)
        val images = Tensor.fromBlobUnsigned(bytesOf(photo), shape)
        val logits = module.forward(EValue.from(images))[0].toTensor().dataAsFloatArray
        val best = logits.indices.maxByOrNull {{ logits[it] }}!!
        val sum = logits.sumOf {{ exp((it - logits[best]).toDouble()) }}
        return labels[best] to (1 / sum).toFloat()
    }}

    override fun close() = module.destroy()

    /** Red, green and blue of the middle of the photo. Android scales bilinearly: pixels differ a little from the host's. */
    private fun bytesOf(photo: Bitmap): ByteArray {{
        val height = Preprocessing.HEIGHT
        val width = Preprocessing.WIDTH
        val scale = max(height / photo.height.toFloat(), width / photo.width.toFloat()) / Preprocessing.CROP.toFloat()
        val side = {{ pixels: Int, all: Int -> (pixels / scale).roundToInt().coerceIn(1, all) }}
        val w = side(width, photo.width)
        val h = side(height, photo.height)
        val middle = Bitmap.createBitmap(photo, (photo.width - w) / 2, (photo.height - h) / 2, w, h, Matrix(), true)
        val pixels = IntArray(width * height)
        Bitmap.createScaledBitmap(middle, width, height, true).getPixels(pixels, 0, width, 0, 0, width, height)
        return ByteArray(3 * pixels.size) {{ (pixels[it / 3] shr (16 - 8 * (it % 3))).toByte() }}
    }}

    /** ExecuTorch maps a file into memory: an asset is copied to one first. */
    private fun fileOf(context: Context, asset: String): String {{
        val file = File(context.filesDir, asset)
        context.assets.open(asset).use {{ from -> file.outputStream().use {{ from.copyTo(it) }} }}
        return file.absolutePath
    }}
}}
"""


def _answers(run: FinishedRun, passed: list[dict[str, Any]], classes: tuple[str, ...], row: int) -> str:
    """What each program said of the sample here, as rows of a table."""
    if run.task.words != CLASSIFICATION:
        return ""
    with np.load(run.artifacts["evaluate"].path(f"{run.task.words.kept}.npz"), allow_pickle=False) as stored:
        logits = {variant["name"]: stored[variant["name"]][row] for variant in passed}
    rows = "\n".join(
        f"| {name} | {int(of.argmax())} ({classes[int(of.argmax())]}) | {of.max():.4f} |" for name, of in logits.items()
    )
    return f"What the host made of it:\n\n| program | largest logit | its value |\n|---|---|---:|\n{rows}\n"


def _readme(run: FinishedRun, passed: list[dict[str, Any]], spec: Preprocess, answers: str) -> str:
    words = run.task.words
    engines = "\n".join(
        f"| {program_of(row['name'])} | {row[words.score]:.2f} | {row[words.delta]:+.2f} | {row['size_bytes'] / 1e6:.1f} |"
        for row in passed
    )
    version = run.report["machine"]["versions"].get("executorch", "")
    program = program_of(passed[-1]["name"])
    return f"""# {run.report["model"]} for Android

**Nothing here was run on a phone.** The programs were built and judged on the host, on its CPU, by ExecuTorch {version} with
XNNPACK; the Kotlin was not compiled. What was measured there:

| program | {words.score_name} % | Δ pp | MB |
|---|---:|---:|---:|
{engines}

In: bytes (1, {spec.height}, {spec.width}, 3), RGB, normalised inside; one image at a time. Out: floats. `{_LABELS}` has
the classes, a line each, `Preprocessing.kt` how a photo becomes the input.

## In an app

`implementation("{_AAR}:{version}")` in `build.gradle.kts`: the version that made the programs, or a later one.
It has XNNPACK and the portable kernels. Programs and `{_LABELS}` go into `src/main/assets`. `Classifier.kt`, there if the network
classifies images, is an example of the rest.

## Try it with adb

`executor_runner` is ExecuTorch's own command, cross-compiled from its sources of the same version with the NDK
(`-DCMAKE_TOOLCHAIN_FILE=$ANDROID_NDK/build/cmake/android.toolchain.cmake -DANDROID_ABI=arm64-v8a -DEXECUTORCH_BUILD_XNNPACK=ON
-DEXECUTORCH_BUILD_EXECUTOR_RUNNER=ON`, with the optimized and quantized kernels).

```
adb push executor_runner {program} {_SAMPLE} /data/local/tmp/
adb shell "cd /data/local/tmp && ./executor_runner --model_path {program} --inputs {_SAMPLE} --output_file out \\
    --num_executions 100 --cpu_threads 4"      # it prints how long the executions took
adb pull /data/local/tmp/out-0.bin             # the logits, 32-bit floats
```

`{_SAMPLE}` is an evaluation image as the network takes it, {spec.height * spec.width * 3} bytes. {answers}
A phone's kernels round otherwise, so INT8's logits differ a little. Let the phone cool between measurements, and note the number
of threads.
"""
