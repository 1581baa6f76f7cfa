"""Runs an integer network in numpy: the golden model of the core, tensor by tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .layer_norm import layer_norm
from .log_softmax import log_softmax
from .matmul import int8_matmul, log2_matmul
from .network import AttentionScores, AttentionValues, Form, ImageFormat, IntegerNetwork, LayerNorm, Linear, LogSoftmax
from .requantize import apply_table, requantize, requantize_raw, requantize_residual

__all__ = ["patches", "predict", "run"]

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

    images : (B, channels, size, size) uint8. Result: by tensor name, (B, rows, groups * channels): int8 for 8-bit tensors (softmax codes as
    0..15, the network's input included), int32 for 32-bit ones. Rows that no operator writes are 0.
    """
    rows = patches(network.image, images)
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
    source = tensors[operator.input][:, operator.input_row : operator.input_row + operator.rows]
    target = tensors[operator.output][:, operator.output_row : operator.output_row + operator.rows]
    acc = int8_matmul(source, arrays[f"{name}.weight"])
    scale = arrays[f"{name}.bias"], arrays[f"{name}.multiplier"], arrays[f"{name}.shift"]
    zero_out = network.tensor(operator.output).zero_point
    if (operator.form is Form.RAW) != (target.dtype == np.int32):
        raise ValueError(f"{name} has the form {operator.form}, but its output {operator.output} is {target.dtype}; only raw gives int32")
    match operator.form:
        case Form.REQUANTIZE:
            target[...] = requantize(acc, *scale, zero_out)
        case Form.TABLE:
            target[...] = apply_table(requantize(acc, *scale, zero_out), arrays[f"{name}.table"])
        case Form.RAW:
            target[...] = requantize_raw(acc, *scale)
        case Form.RESIDUAL:
            if operator.residual:
                residual = tensors[operator.residual][:, operator.output_row : operator.output_row + operator.rows]
            else:
                residual = arrays[f"{name}.residual"]
            target[...] = requantize_residual(
                acc, *scale, zero_out, residual, operator.residual_zero, operator.residual_multiplier, arrays[f"{name}.residual_shift"]
            )


def _attention_scores(network: IntegerNetwork, operator: AttentionScores, tensors: Tensors) -> None:
    name, arrays = operator.name, network.arrays
    groups = _split(tensors[operator.input], 3 * operator.heads)
    acc = int8_matmul(groups[:, : operator.heads], groups[:, operator.heads : 2 * operator.heads])
    keys = acc.shape[-1]
    multiplier, shift = (np.repeat(arrays[f"{name}.{part}"], keys) for part in ("multiplier", "shift"))
    no_bias = np.zeros(operator.heads * keys, np.int32)
    zero_out = network.tensor(operator.output).zero_point
    tensors[operator.output][...] = requantize(_join(acc), no_bias, multiplier, shift, zero_out)


def _log_softmax(network: IntegerNetwork, operator: LogSoftmax, tensors: Tensors) -> None:
    logits = _split(tensors[operator.input], network.tensor(operator.input).groups)
    exp_table, log_table = (network.arrays[f"{operator.name}.{part}_table"] for part in ("exp", "log"))
    tensors[operator.output][...] = _join(log_softmax(logits, exp_table, log_table)).view(np.int8)


def _attention_values(network: IntegerNetwork, operator: AttentionValues, tensors: Tensors) -> None:
    name, arrays = operator.name, network.arrays
    codes = _split(tensors[operator.input], operator.heads).view(np.uint8)
    values = _split(tensors[operator.values], 3 * operator.heads)[:, 2 * operator.heads :]
    acc = _join(log2_matmul(codes, values))
    no_bias = np.zeros(acc.shape[-1], np.int32)
    zero_out = network.tensor(operator.output).zero_point
    tensors[operator.output][...] = requantize(acc, no_bias, arrays[f"{name}.multiplier"], arrays[f"{name}.shift"], zero_out)


def _layer_norm(network: IntegerNetwork, operator: LayerNorm, tensors: Tensors) -> None:
    alpha, gain, offset = (network.arrays[f"{operator.name}.{part}"] for part in ("alpha", "gain", "offset"))
    zero = network.tensor(operator.input).zero_point
    source = tensors[operator.input][:, : operator.rows]
    tensors[operator.output][:, : operator.rows] = layer_norm(source, zero, alpha, gain, offset, operator.epsilon)


def _split(tensor: NDArray, groups: int) -> NDArray:
    """(B, rows, groups * channels) to (B, groups, rows, channels)."""
    batch, rows, columns = tensor.shape
    return np.ascontiguousarray(tensor.reshape(batch, rows, groups, columns // groups).swapaxes(1, 2))


def _join(groups: NDArray) -> NDArray:
    """(B, groups, rows, channels) to (B, rows, groups * channels)."""
    batch, count, rows, channels = groups.shape
    return np.ascontiguousarray(groups.swapaxes(1, 2)).reshape(batch, rows, count * channels)
