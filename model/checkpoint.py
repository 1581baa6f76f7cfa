"""Float checkpoints: safetensors files with timm's parameter names, checked against a configuration."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .architectures import Config
from .float_swin import SwinConfig
from .float_vit import ViTConfig
from .network import FORMAT
from .schemes.scheme import learned_shapes

__all__ = ["check_state", "infer_config", "is_integer_network", "load_checkpoint", "save_checkpoint"]

State = dict[str, NDArray[np.float32]]
_SHOWN = 4  # names that an error message lists before it counts


def load_checkpoint(path: Path | str, config: Config | None = None, given: Mapping[str, Any] | None = None) -> tuple[Config, State]:
    """Configuration and float32 parameters of a safetensors file, learned ones (:mod:`.schemes.scheme`) included; no pickle is ever read.

    config : what the parameters must be; the number of classes is the file's. Without it, the ``given`` fields, the ``config`` JSON of the
    file's metadata and the shapes of its parameters decide, in this order, see :func:`infer_config`.
    Raises ``ValueError`` in one sentence for anything else than such a checkpoint.
    """
    tensors, metadata = _read(path)
    if metadata.get("format") == FORMAT:
        raise ValueError(f"{path} is an integer network already; a float checkpoint is wanted")
    if config is None:
        config = infer_config(tensors, _metadata_config(path, metadata) | dict(given or {}), source=str(path))
    elif (head := tensors.get("head.fc.weight" if isinstance(config, SwinConfig) else "head.weight")) is not None and head.ndim == 2:
        config = replace(config, num_classes=len(head))
    check_state(config, tensors, source=str(path))
    names = config.parameter_shapes() | learned_shapes(config)
    return config, {name: tensors[name].astype(np.float32) for name in names if name in tensors}


def is_integer_network(path: Path | str) -> bool:
    """Whether a file says that :meth:`.network.IntegerNetwork.save` wrote it; false for what cannot be read."""
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def save_checkpoint(path: Path | str, config: Config, state: Mapping[str, NDArray[np.float32]]) -> None:
    """Write a file that :func:`load_checkpoint` reads without being told the configuration."""
    check_state(config, state, source="the state")
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}
    save_file(arrays, path, {"config": json.dumps(asdict(config))})


def infer_config(state: Mapping[str, NDArray], given: Mapping[str, Any], source: str = "the state") -> Config:
    """Configuration from the ``given`` fields and, for the others, from the shapes of the parameters.

    What is in no shape must be given: a ViT's ``num_heads``, a Swin transformer's ``img_size``. An ``img_size`` from shapes supposes a
    square of patches.
    """
    swin = any(name.startswith("layers.0.blocks.") for name in state)
    family, missing = (SwinConfig, "img_size") if swin else (ViTConfig, "num_heads")
    known = {f.name for f in fields(family)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{source}: unknown configuration fields {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if missing not in given:
        remedy = f"name the architecture, put it in the metadata, or give --arch auto:{missing}=N"
        raise ValueError(f"{source} does not say its {missing}, which is in no shape; {remedy}")
    try:
        return family(**(_swin_shapes_say(state) if swin else _shapes_say(state)) | dict(given))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{source} is not a vision transformer with timm's parameter names ({type(error).__name__}: {error})") from None


def check_state(config: Config, state: Mapping[str, NDArray], source: str) -> None:
    """Raise ``ValueError`` unless ``state`` has the parameters of ``config`` and no others than learned ones, floating point and finite.

    The message names the first parameter, in timm's order, that differs, and counts what is wrong by kind.
    """
    shapes, required = config.parameter_shapes() | learned_shapes(config), config.parameter_shapes()
    wrong = {
        "missing": [name for name in required if name not in state],
        "unexpected": [name for name in state if name not in shapes],
        "wrongly shaped": [name for name in shapes if name in state and state[name].shape != shapes[name]],
        "not floating point": [name for name in state if not np.issubdtype(state[name].dtype, np.floating)],
        "not finite": [name for name in state if not np.all(np.isfinite(state[name]))],
    }
    found = {name for names in wrong.values() for name in names}
    if not found:
        return
    first = next(name for name in (*shapes, *state) if name in found)
    shown = {what: [_told(name, what, shapes, state) for name in names] for what, names in wrong.items() if names}
    problems = "; ".join(_listed(what, names) for what, names in shown.items())
    raise ValueError(f"{source} does not fit the architecture, first in {first}: {problems}")


def _told(name: str, what: str, shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, NDArray]) -> str:
    return f"{name} {state[name].shape} instead of {shapes[name]}" if what == "wrongly shaped" else name


def _listed(what: str, names: list[str]) -> str:
    """``3 missing (a, b, c)``."""
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"


def _read(path: Path | str) -> tuple[dict[str, NDArray], dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from None
    except TypeError as error:  # numpy has no bfloat16 or float8
        raise ValueError(f"{path} has a number format that numpy lacks ({error}); float32, float16 and float64 are read") from None


def _metadata_config(path: Path | str, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata.get("config", "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the config in the metadata is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: the config in the metadata is a {type(config).__name__}; a JSON object is wanted")
    return config


def _swin_shapes_say(state: Mapping[str, NDArray]) -> dict[str, Any]:
    """Every field of a configuration but the image's size, mean and standard deviation."""
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    blocks = {match.groups() for name in state if (match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name))}
    stages = range(len({stage for stage, _ in blocks}))
    tables = [state[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in stages]
    return {
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": len(state["head.fc.weight"]),
        "embed_dim": width,
        "depths": tuple(sum(stage == int(s) for s, _ in blocks) for stage in stages),
        "num_heads": tuple(table.shape[1] for table in tables),
        "window_size": (math.isqrt(len(tables[0])) + 1) // 2,
        "mlp_ratio": len(state["layers.0.blocks.0.mlp.fc1.weight"]) / width,
        "qkv_bias": "layers.0.blocks.0.attn.qkv.bias" in state,
    }


def _shapes_say(state: Mapping[str, NDArray]) -> dict[str, Any]:
    """Every field of a configuration but heads, mean and standard deviation."""
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    distilled = "dist_token" in state
    side = math.isqrt(state["pos_embed"].shape[1] - (2 if distilled else 1))
    return {
        "img_size": side * patch,
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": len(state["head.weight"]),
        "embed_dim": width,
        "depth": len({match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}),
        "mlp_ratio": len(state["blocks.0.mlp.fc1.weight"]) / width,
        "distilled": distilled,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
    }
