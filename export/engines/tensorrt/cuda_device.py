"""Which GPU CUDA sees here: what an engine's sidecar names and loading compares."""

from export.engines.tensorrt.cuda_calls import Cuda, check_gpu


def compute_capability() -> str:
    """Of the first GPU, `8.7` on a Jetson Orin. Raises Unavailable where CUDA reaches no GPU."""
    check_gpu()
    major, minor = Cuda().compute_capability()
    return f"{major}.{minor}"
