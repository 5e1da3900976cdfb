"""The model directory: weights, composition, normaliser and provenance, readable without code.

model.safetensors    the encoder, timm's names
decoder.safetensors  everything else of the method
config.json          method, grid, normaliser, checksums
recipe.yaml data.json README.md
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config_tree import from_plain, to_plain
from ..encoders.contract import Encoder
from ..errors import UsageError, WeightsError
from ..files import replacing, write_text
from ..grid import Grid
from ..method import Method
from ..methods import MethodConfig, build
from .reading import read_tensors

FORMAT = 1
ENCODER_FILE, DECODER_FILE, CONFIG_FILE = "model.safetensors", "decoder.safetensors", "config.json"


@dataclass(frozen=True)
class LoadedModel:
    """A model directory in memory.

    Args:
        method: the composed method with its weights.
        config: configuration of the method.
        normaliser: how pixels became numbers, as the domain wrote it.
        data: what it was trained on.
        extra: further values of config.json, for example of a fine-tuned head.
        tensors: weights of `extra` parts that are not of the method, by file name.
    """

    method: Method
    config: MethodConfig
    normaliser: dict[str, Any]
    data: dict[str, Any]
    extra: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save_model(
    directory: str | Path,
    method: Method,
    config: MethodConfig,
    *,
    normaliser: Mapping[str, Any],
    recipe: str,
    data: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    parts: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write a model directory; config.json comes last and makes it valid.

    Args:
        directory: where to write; existing files are replaced one by one.
        method: trained method.
        config: its configuration.
        normaliser: plain data that the domain can rebuild its normaliser from.
        recipe: YAML text of the run.
        data: plain data about what it was trained on.
        extra: further plain data, for example class names of a fine-tuned head.
        parts: further modules, each written to `<name>.safetensors`.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    encoder, others = {}, {}
    for name, value in method.state_dict().items():
        part = encoder if name.startswith("encoder.") else others
        part[name.removeprefix("encoder.")] = value.detach().cpu().contiguous()
    files = {ENCODER_FILE: encoder, DECODER_FILE: others}
    for name, module in (parts or {}).items():
        state = module.state_dict()
        files[f"{name}.safetensors"] = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    checksums = {}
    for name, tensors in files.items():
        with replacing(directory / name) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        checksums[name] = sha256(directory / name)
    write_text(directory / "recipe.yaml", recipe)
    write_text(directory / "data.json", json.dumps(to_plain(dict(data)), indent=1) + "\n")
    content = {
        "format": FORMAT,
        "method": to_plain(config),
        "grid": to_plain(method.grid),
        "normaliser": to_plain(dict(normaliser)),
        "extra": to_plain(dict(extra or {})),
        "sha256": checksums,
    }
    write_text(directory / "README.md", card(method, config, content, dict(data)))
    write_text(directory / CONFIG_FILE, json.dumps(content, indent=1) + "\n")


def load_model(directory: str | Path, *, device: torch.device | str = "cpu") -> LoadedModel:
    """Read a model directory strictly: every parameter must be there and nothing else.

    Raises:
        WeightsError: when a file is missing, changed since it was written, or of another
            architecture.
    """
    directory = Path(directory)
    content = read_config(directory)
    try:
        config: MethodConfig = from_plain(MethodConfig, content["method"], "config.json method")
        grid: Grid = from_plain(Grid, content["grid"], "config.json grid")
    except (UsageError, KeyError) as error:
        raise WeightsError(
            directory / CONFIG_FILE, f"does not describe a method ({error})", "export it again"
        ) from error
    tensors = {name: verified(directory, name, content["sha256"]) for name in content["sha256"]}
    method = build(config, grid)
    state = {f"encoder.{name}": v for name, v in tensors.pop(ENCODER_FILE).items()}
    state |= tensors.pop(DECODER_FILE)
    check_fit(state, method.state_dict(), directory)
    method.load_state_dict(state)
    data = json.loads((directory / "data.json").read_text())
    return LoadedModel(
        method.to(device), config, content["normaliser"], data, content["extra"], tensors
    )


def load_encoder(directory: str | Path, *, device: torch.device | str = "cpu") -> Encoder:
    """Return the encoder of a model directory in evaluation mode."""
    return load_model(directory, device=device).method.encoder.eval()


def read_config(directory: str | Path) -> dict[str, Any]:
    """Return config.json of a model directory.

    Raises:
        WeightsError: when it is not there, not JSON or of another format.
    """
    path = Path(directory) / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsError(
            directory, "is not a model directory (no config.json)", "give the folder that holds it"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(path, "is not JSON", "copy the model directory again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightsError(path, f"is not of format {FORMAT}", "export the model again")
    return content


def verified(directory: Path, name: str, checksums: Mapping[str, str]) -> dict[str, Tensor]:
    """Read one weight file after comparing its checksum.

    Raises:
        WeightsError: when it is missing or not what was written.
    """
    path = directory / name
    if Path(name).name != name:
        raise WeightsError(path, "points outside of the model directory", "do not trust this model")
    if not path.is_file():
        raise WeightsError(path, "is missing", "copy the model directory again")
    if sha256(path) != checksums[name]:
        raise WeightsError(
            path, "is not the file that config.json was written for", "copy the directory again"
        )
    return read_tensors(path)


def check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: object) -> None:
    """Raise WeightsError unless names and shapes agree exactly."""
    for name in sorted(set(state) ^ set(own)):
        problem = "is not part of" if name in state else "is missing for"
        raise WeightsError(
            source, f"tensor {name!r} {problem} this architecture", "use the model's own config"
        )
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise WeightsError(
                source,
                f"tensor {name!r} is {tuple(state[name].shape)}, not {tuple(value.shape)}",
                "use the model's own config",
            )


def sha256(path: str | Path) -> str:
    """Return a file's checksum."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def card(method: Method, config: MethodConfig, content: Mapping, data: Mapping) -> str:
    """Return the model card as Markdown."""
    grid = method.grid
    encoder = method.encoder
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    lines = [
        f"# {config.name} encoder",
        "",
        f"{type(encoder).__name__}, {millions:.1f} M parameters, {encoder.embed_dim} wide, "
        f"{encoder.depth} blocks, patch {grid.patch}, pre-trained with {config.name} on "
        f"{grid.image_size} pixels of {grid.channels} channels.",
        "",
        "`model.safetensors` holds the encoder; a plain ViT has timm's parameter names. Inputs",
        "must be normalised as `config.json` says under `normaliser`.",
        "",
        "## Trained on",
        "",
        *(f"- {key}: {value}" for key, value in data.items() if not isinstance(value, dict | list)),
        "",
    ]
    return "\n".join(lines)
