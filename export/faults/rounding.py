"""Whether a tensor of an engine differs from the reference's by more than rounding.

The measure is the signal-to-noise ratio in dB: the reference's power over that of the difference. An engine that computes its
graph rounds some activations to the step beside the reference's, and its error grows with the graph's depth, as that of the
quantization itself does. So its error is held against that one: the same graph's in floating point.
"""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]

# Two engines that round alike but not the same differ by at most the quantization's own error, 3 dB more where they are
# independent; weights of 7 bits (OpenVINO on a CPU without INT8 instructions) cost 3 dB again. 12 dB is four times the error.
MARGIN_DB = 12.0
HIGHEST_DB = 40.0  # before the first Q/DQ there is no such error: FP32 has over 100 dB there, FP16 about 60
LOWEST_DB = 1.0  # where quantization leaves hardly anything: zeros have 0 dB, other numbers of that size -3


def snr_db(values: Values, reference: Values) -> float:
    """Of `values` against `reference`, of one shape; inf where they are equal, -inf where not finite where that is finite.

    Infinities and NaN of the reference must be the same in `values`, and are left out.
    """
    if values.shape != reference.shape:
        raise ValueError(f"got {values.shape} and {reference.shape}: they are not of one tensor")
    known = np.isfinite(reference)
    ours, theirs = values[known].astype(np.float64), reference[known].astype(np.float64)
    if not np.isfinite(ours).all() or not np.array_equal(values[~known], reference[~known], equal_nan=True):
        return -np.inf
    noise, signal = np.square(ours - theirs).sum(), np.square(theirs).sum()
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal > 0 else -np.inf


def allowed_db(reference: Values, in_float: Values) -> float:
    """What an engine must reach: `reference` is the quantized graph's tensor, `in_float` the same without Q/DQ."""
    return float(np.clip(snr_db(in_float, reference) - MARGIN_DB, LOWEST_DB, HIGHEST_DB))
