"""Where the results of `make bench` are kept: a file for each machine, in it a result for each network."""

import re
from pathlib import Path

from pipeline.report.values.compared import machine_name


def results_path(folder: Path, cpu: str) -> Path:
    """`results/peers-amd-epyc-2-cores-avx512-vnni.json`: named as what `report --save` writes."""
    machine = machine_name({"machine": {"cpu": cpu, "gpu": None}})
    return folder / f"peers-{re.sub(r'[^a-z0-9]+', '-', machine.lower()).strip('-')}.json"
