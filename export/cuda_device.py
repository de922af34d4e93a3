"""Which GPU CUDA sees here: what an engine's sidecar names and loading compares."""

from export.tensorrt_runner import check_gpu


def compute_capability() -> str:
    """Of the current GPU, `8.7` on a Jetson Orin. Raises Unavailable where CUDA reaches no GPU."""
    check_gpu()
    from cuda.bindings import runtime

    names = runtime.cudaDeviceAttr
    device = _value("cudaGetDevice", runtime.cudaGetDevice())
    major, minor = (
        _value("cudaDeviceGetAttribute", runtime.cudaDeviceGetAttribute(name, device))
        for name in (names.cudaDevAttrComputeCapabilityMajor, names.cudaDevAttrComputeCapabilityMinor)
    )
    return f"{major}.{minor}"


def _value(call: str, result: tuple[object, int]) -> int:
    code, value = result
    if code:  # cudaSuccess is 0
        raise RuntimeError(f"{call}: {code}")
    return value
