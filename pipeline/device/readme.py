"""README.md of a bundle: what it is and its commands, for somebody who has only the bundle."""

from pipeline.device.contents import Recipe
from pipeline.predict.output import OUTPUTS
from pipeline.report.values.format import headed
from pipeline.tasks.words import WORDS

PHONES = "`android/` has programs for phones and an example of an app: its README says how they are tried.\n\n"


def readme(recipe: Recipe, phones: bool) -> str:
    """The text for one bundle; `phones` where it holds programs for them."""
    words, predicts = WORDS[recipe.task], OUTPUTS[recipe.task]
    about = f"{predicts.ABOUT}\n\n" if predicts.ABOUT else ""
    name = headed(words.score_name)
    engines = "\n".join(
        f"| {name} | {', '.join(dict.fromkeys(precision for plan in plans for precision in plan.precisions))} |"
        for name, plans in recipe.engines.items()
    )
    graphs = "\n".join(
        f"| {name} | {found[words.score]:.2f} | {found[words.delta]:+.2f} | {found['agreement']:.2f} |"
        for name, found in recipe.host.items()
    )
    left_out = "\n".join(f"- {name}: {' '.join(reason.split())}" for name, reason in recipe.left_out.items())
    gate = f"{100 * recipe.gate_share:g} %"
    triton = (
        "There is no `triton/` here: all graphs are FP8, and ONNX Runtime has no FP8 kernels for a CPU."
        if recipe.triton_precision is None
        else f"`triton/` is a model repository with the {recipe.triton_precision} graph for the server's ONNX Runtime backend."
    )
    count = f"{recipe.eval_images:,} of {recipe.host_eval_images:,}"
    return f"""# {recipe.model} on {recipe.dataset} (run {recipe.run})

Copy this folder to the device. It needs Python 3.10 or later, numpy, OpenCV, and TensorRT with cuda-bindings or else ONNX
Runtime. It installs nothing and changes nothing outside this folder.

```
./t2t doctor           # what is here, what is missing and how to fix it
./t2t run              # build → evaluate → benchmark → report; exit status 3 where no engine passes the gate
./t2t predict IMAGE    # {predicts.SAYS}, with the engine that the report recommends
./t2t check            # compare every file with the manifest
```

`run` is `build`, `evaluate`, `benchmark` and `report` in turn; `./t2t COMMAND --help` has their options. Results go to
`device/` (or `--work DIR`): the report is `device/report/report.md` and `report.json`. After an interruption, `build`
keeps the engines that are finished.

{about}\
| Backend | Engines |
| --- | --- |
{engines}

TensorRT engines are built where TensorRT is installed, otherwise ONNX Runtime's; `--backend` chooses another. The accuracy
gate: {words.score_name} must be at least {gate} of {recipe.reference}'s, on {count} evaluation images, which the host \
preprocessed. What the
host measured on these images with ONNX Runtime:

| Graph | {name} % | Δ {words.score_name} pp | Agreement with {recipe.reference} % |
| --- | ---: | ---: | ---: |
{graphs}

{f"Left out:{chr(10)}{chr(10)}{left_out}{chr(10)}{chr(10)}" if left_out else ""}\
{triton}
`report` also writes `device/triton/` with the engine that it recommends, if the server can run it.

{PHONES if phones else ""}\
Files: `graphs/` (ONNX), `evaluation/` (images and FP32 {words.kept}), `samples/` (a few image files), `labels.txt`,
`preprocess.json`, `recipe.json`, `lib/` (the code), `manifest.json` (sha256 of each file).
"""
