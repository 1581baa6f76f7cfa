"""Runs an integer network in numpy: the golden model of the core, tensor by tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .check import check_network
from .layer_norm import layer_norm, layer_norm_by_group
from .log_softmax import MASKED, coded_softmax, log_softmax
from .matmul import LOG2_WEIGHTS, SQRT2_WEIGHTS, int8_matmul, log2_matmul
from .network import (
    AttentionScores,
    AttentionValues,
    AveragePool,
    Codes,
    Form,
    ImageFormat,
    IntegerNetwork,
    LayerNorm,
    Linear,
    LogSoftmax,
    Operator,
)
from .requantize import apply_table, narrow, requantize, requantize_raw, requantize_residual

__all__ = ["patches", "predict", "run", "run_from"]

Tensors = dict[str, NDArray]


def patches(image_format: ImageFormat, images: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Cut images into the rows of the patch embedding.

    images : (B, channels, size, size) uint8. Result (B, patches, channels * patch**2) int8, columns in the order (channel, y, x) of a
    convolution's weight, byte = pixel - 128. Pixels that fill no whole patch are left out.
    """
    size, patch, channels = image_format.size, image_format.patch, image_format.channels
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (channels, size, size):
        given = f"{images.dtype} of shape {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"images are {given}; this network takes uint8 of shape (B, {channels}, {size}, {size})")
    side = size // patch
    whole = images[..., : side * patch, : side * patch]
    cells = whole.reshape(-1, channels, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5)
    return (cells ^ np.uint8(128)).view(np.int8).reshape(-1, side * side, channels * patch**2)


def run(network: IntegerNetwork, images: NDArray[np.uint8]) -> Tensors:
    """Every activation of ``network``.

    images : (B, channels, size, size) uint8. Result: by tensor name, (B, rows, groups * channels): int8 for tensors of 8 bits and less
    (softmax codes as 0..15, the network's input included), int32 for 32-bit ones. Rows that no operator writes are 0.
    Raises ``ValueError`` for wrong images, and for what :func:`.check.check_network` finds.
    """
    return run_from(network, patches(network.image, images))


def run_from(network: IntegerNetwork, rows: NDArray[np.int8]) -> Tensors:
    """As :func:`run`, from the values of the network's input: (B, rows, groups * channels) int8."""
    check_network(network)
    tensors = {t.name: np.zeros((rows.shape[0], *t.shape), np.int32 if t.bits == 32 else np.int8) for t in network.tensors}
    tensors[network.input][...] = rows
    for constant in network.constants:
        value = network.arrays[f"{constant.name}.value"]
        tensors[constant.output][:, : value.shape[0]] = value
    for operator in network.operators:
        match operator:
            case Linear():
                _linear(network, operator, tensors)
            case AttentionScores():
                _attention_scores(network, operator, tensors)
            case LogSoftmax():
                _log_softmax(network, operator, tensors)
            case AttentionValues():
                _attention_values(network, operator, tensors)
            case LayerNorm():
                _layer_norm(network, operator, tensors)
            case AveragePool():
                _average_pool(network, operator, tensors)
    return tensors


def predict(network: IntegerNetwork, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Class of each image: the greatest logit of row 0, (B,) int64; the first of equals.

    The logits of several outputs are added as integers, so they must share one scale.
    """
    tensors = run(network, images)
    logits = sum(tensors[name][:, 0].astype(np.int64) for name in network.outputs)
    return np.argmax(logits, axis=-1)


def _linear(network: IntegerNetwork, operator: Linear, tensors: Tensors) -> None:
    name, arrays = operator.name, network.arrays
    target = tensors[operator.output]
    weight = arrays[f"{name}.weight"]
    if (zeros := arrays.get(f"{name}.weight_zero")) is not None:
        weight = weight - zeros[:, None]
    acc = int8_matmul(tensors[operator.input][:, operator.input_row : operator.input_row + operator.rows], weight)
    scale = arrays[f"{name}.bias"], arrays[f"{name}.multiplier"], arrays[f"{name}.shift"]
    zero_out = network.tensor(operator.output).zero_point
    rows = _output_rows(network, operator)
    match operator.form:
        case Form.REQUANTIZE:
            result = requantize(acc, *scale, zero_out)
        case Form.TABLE:
            result = apply_table(requantize(acc, *scale, zero_out), arrays[f"{name}.table"])
        case Form.RAW:
            result = requantize_raw(acc, *scale)
        case Form.RESIDUAL:
            read = rows if operator.residual_mapped or not operator.mapped else slice(operator.rows)
            residual = tensors[operator.residual][:, read] if operator.residual else arrays[f"{name}.residual"]
            result = requantize_residual(
                acc, *scale, zero_out, residual, operator.residual_zero, operator.residual_multiplier, arrays[f"{name}.residual_shift"]
            )
    result = _narrowed(network, operator, result)
    if (groups := arrays.get(f"{name}.output_groups")) is not None:
        target.reshape(*target.shape[:2], -1, result.shape[-1])[:, rows, groups] = result
    else:
        target[:, rows] = result


def _output_rows(network: IntegerNetwork, operator: Linear | LayerNorm) -> slice | NDArray[np.uint16]:
    """Rows of the output that a layer writes, in the order of its input's."""
    if operator.mapped:
        return network.arrays[f"{operator.name}.output_rows"]
    first = operator.output_row if isinstance(operator, Linear) else 0
    return slice(first, first + operator.rows)


def _attention_scores(network: IntegerNetwork, operator: AttentionScores, tensors: Tensors) -> None:
    name, arrays = operator.name, network.arrays
    groups = _split(tensors[operator.input], operator.windows, network.tensor(operator.input).groups)
    queries, keys = groups[:, :, : operator.heads], groups[:, :, operator.heads : 2 * operator.heads]
    acc = _join(int8_matmul(_less(queries, operator.query_zero), _less(keys, operator.key_zero)))
    columns = acc.shape[-1]
    multiplier, shift = (np.repeat(arrays[f"{name}.{part}"], columns // operator.heads) for part in ("multiplier", "shift"))
    scale = np.zeros(columns, np.int32), multiplier, shift
    zero_out = network.tensor(operator.output).zero_point
    if not operator.bias:
        tensors[operator.output][...] = _narrowed(network, operator, requantize(acc, *scale, zero_out))
        return
    bias = arrays[f"{name}.bias"][arrays[f"{name}.window_type"]]  # (windows, heads, T, T)
    rows = np.ascontiguousarray(bias.swapaxes(1, 2)).reshape(-1, columns)
    residual_shift = np.repeat(arrays[f"{name}.residual_shift"], columns // operator.heads)
    logits = requantize_residual(acc, *scale, zero_out, rows, operator.residual_zero, operator.residual_multiplier, residual_shift)
    if operator.masked:
        logits = np.where(rows == MASKED, MASKED, np.maximum(logits, MASKED + 1))
    tensors[operator.output][...] = _narrowed(network, operator, logits)


def _log_softmax(network: IntegerNetwork, operator: LogSoftmax, tensors: Tensors) -> None:
    logits = _split(tensors[operator.input], 1, network.tensor(operator.input).groups)
    name, arrays = operator.name, network.arrays
    tables = arrays[f"{name}.exp_table"], arrays[f"{name}.log_table"]
    if operator.coded:
        codes = coded_softmax(logits, *tables, arrays[f"{name}.code_table"], masked=operator.masked, relative=operator.relative)
    else:
        codes = log_softmax(logits, *tables, masked=operator.masked).view(np.int8)
    tensors[operator.output][...] = _join(codes)


def _attention_values(network: IntegerNetwork, operator: AttentionValues, tensors: Tensors) -> None:
    name, arrays = operator.name, network.arrays
    codes = _split(tensors[operator.input], operator.windows, operator.heads)
    values = _split(tensors[operator.values], operator.windows, network.tensor(operator.values).groups)[:, :, -operator.heads :]
    if operator.codes is Codes.LINEAR:
        source = network.tensor(operator.input)
        zero = source.zero_point if source.bits > 1 else 0
        transposed = np.ascontiguousarray(_less(values, operator.value_zero).swapaxes(-1, -2))
        acc, bias = _join(int8_matmul(_less(codes, zero), transposed)), arrays[f"{name}.bias"]
    else:
        weights = SQRT2_WEIGHTS if operator.codes is Codes.SQRT2 else LOG2_WEIGHTS
        acc = _join(log2_matmul(codes.view(np.uint8), values, weights))
        bias = np.zeros(acc.shape[-1], np.int32)
    zero_out = network.tensor(operator.output).zero_point
    result = requantize(acc, bias, arrays[f"{name}.multiplier"], arrays[f"{name}.shift"], zero_out)
    tensors[operator.output][...] = _narrowed(network, operator, result)


def _layer_norm(network: IntegerNetwork, operator: LayerNorm, tensors: Tensors) -> None:
    alpha, gain, offset = (network.arrays[f"{operator.name}.{part}"] for part in ("alpha", "gain", "offset"))
    zero = network.tensor(operator.input).zero_point
    source = tensors[operator.input][:, : operator.rows]
    if operator.by_group:
        groups = network.tensor(operator.output).groups
        result = layer_norm_by_group(source[..., : len(alpha)], zero, alpha, gain, offset, operator.epsilon, groups)
    else:
        result = layer_norm(source, zero, alpha, gain, offset, operator.epsilon)
    tensors[operator.output][:, _output_rows(network, operator)] = _narrowed(network, operator, result)


def _average_pool(network: IntegerNetwork, operator: AveragePool, tensors: Tensors) -> None:
    total = tensors[operator.input].sum(axis=1, dtype=np.int32)
    arrays, columns = network.arrays, total.shape[-1]
    bias, multiplier, shift = (np.repeat(arrays[f"{operator.name}.{part}"], columns) for part in ("bias", "multiplier", "shift"))
    result = requantize(total, bias, multiplier, shift, network.tensor(operator.output).zero_point)
    tensors[operator.output][:, 0] = _narrowed(network, operator, result)


def _narrowed(network: IntegerNetwork, operator: Operator, result: NDArray) -> NDArray:
    """The result in the bits of the output tensor."""
    tensor = network.tensor(operator.output)
    return result if tensor.bits >= 8 else narrow(result, tensor.bits, unit=tensor.unit)


def _less(values: NDArray[np.int8], zero: int) -> NDArray[np.int8]:
    """``values - zero`` of at most 4 bits and a zero point of 5; of 8 bits there is none."""
    return values - np.int8(zero)


def _split(tensor: NDArray, windows: int, groups: int) -> NDArray:
    """(B, windows * T, groups * channels) to (B, windows, groups, T, channels)."""
    batch, rows, columns = tensor.shape
    return np.ascontiguousarray(tensor.reshape(batch, windows, rows // windows, groups, columns // groups).swapaxes(2, 3))


def _join(groups: NDArray) -> NDArray:
    """(B, windows, groups, T, channels) to (B, windows * T, groups * channels)."""
    batch, windows, count, rows, channels = groups.shape
    return np.ascontiguousarray(groups.swapaxes(2, 3)).reshape(batch, windows * rows, count * channels)
