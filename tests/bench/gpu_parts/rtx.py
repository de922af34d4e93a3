"""Whether TensorRT-RTX runs on this GPU: a product of two matrices, built, loaded and computed, or the reason why not."""

from typing import Any

import torch
from bench.gpu_parts.failures import in_words

SIDE = 64
CLOSE = 1e-2  # of the largest value, in FP16


def try_tensorrt_rtx(device: torch.device) -> dict[str, Any]:
    """`loads` yes or no, with the version and the reason."""
    trt, reason = _import()
    if trt is None:
        return {"loads": False, "version": None, "reason": reason}
    version = str(getattr(trt, "__version__", "unknown"))
    if device.type != "cuda":
        return {"loads": False, "version": version, "reason": "this machine has no GPU that PyTorch sees"}
    try:
        reason = _compute(trt, device)
    except Exception as error:  # the answer to the question
        reason = in_words(error)
    return {"loads": not reason, "version": version, "reason": reason}


def _import() -> tuple[Any, str]:
    """NVIDIA's own package, or the bindings that the project's backend loads."""
    reasons = []
    try:
        import tensorrt_rtx

        return tensorrt_rtx, ""
    except (ImportError, OSError) as error:
        reasons.append(in_words(error))
    try:
        from export.engines.tensorrt import rtx_backend

        if rtx_backend.version() is not None:
            import tensorrt_rtx_bindings

            return tensorrt_rtx_bindings, ""
        reasons.append(f"the backend tensorrt_rtx is not installed: {rtx_backend.INSTALL}")
    except (ImportError, OSError) as error:
        reasons.append(in_words(error))
    return None, "; ".join(reasons)


def _compute(trt: Any, device: torch.device) -> str:
    """Empty where the product is right."""
    torch.manual_seed(0)
    x, w = (torch.randn(SIDE, SIDE, device=device, dtype=torch.float16) for _ in range(2))
    logger = trt.Logger(trt.Logger.ERROR)
    plan = build_product(trt, logger, w.cpu().numpy(), torch.cuda.get_device_capability(device))
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return "its runtime does not load the engine that it built for this GPU"
    context = engine.create_execution_context()
    if context is None:
        return "its runtime makes no execution context"
    y = torch.zeros_like(x)
    context.set_tensor_address("x", x.data_ptr())
    context.set_tensor_address("y", y.data_ptr())
    torch.cuda.synchronize(device)
    if not context.execute_async_v3(torch.cuda.current_stream(device).cuda_stream):
        return "it does not run the engine"
    torch.cuda.synchronize(device)
    wanted = x.float() @ w.float()
    error = float((y.float() - wanted).abs().max() / wanted.abs().max())
    return "" if error < CLOSE else f"a product of two matrices is off by {error:.1e} of the largest value"


def build_product(trt: Any, logger: Any, weight: Any, capability: tuple[int, int]) -> Any:
    """A plan that computes x · `weight`, both FP16. RuntimeError where the builder gives none."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float16, weight.shape)
    constant = network.add_constant(weight.shape, trt.Weights(weight)).get_output(0)
    plain = trt.MatrixOperation.NONE
    y = network.add_matrix_multiply(x, plain, constant, plain).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    targets = trt.ComputeCapability.__members__
    target = "SM{}{}".format(*capability)
    config.set_compute_capability(targets.get(target, trt.ComputeCapability.CURRENT), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        known = ", ".join(name for name in targets if name.startswith("SM"))
        raise RuntimeError(f"it builds no engine for {target}; its targets are {known}")
    return plan
