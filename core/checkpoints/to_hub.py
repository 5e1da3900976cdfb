"""A model directory as a hub lays it out: weights, configuration, card, recipe and data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..config_tree import from_plain
from ..errors import UsageError
from ..files import replacing, write_text
from ..grid import Grid
from ..methods import MethodConfig, build
from .exporters import timm_arguments, timm_folder
from .model_dir import CONFIG_FILE, read_config, verified


def export_hub(directory: str | Path, out: str | Path) -> Path:
    """Copy a model directory after checking every file, with what a hub wants to know.

    The folder is still a model of ours, bit for bit in its weights. The card gets the lines in
    front that hubs read, and config.json the entries with which
    `timm.create_model("local-dir:FOLDER", pretrained=True)` opens the encoder where timm has it.

    Raises:
        WeightsError: when the model directory cannot be read, or a file was changed.
    """
    directory, out = Path(directory), Path(out)
    content = read_config(directory)
    for name in content["sha256"]:
        verified(directory, name, content["sha256"])
    for name in (*content["sha256"], "recipe.yaml", "data.json"):
        with replacing(out / name) as temporary:
            shutil.copyfile(directory / name, temporary)
    opens_in_timm = timm_entries(content)
    card = (directory / "README.md").read_text(encoding="utf-8")
    front = hub_card(str(content["method"]["name"]), card, opens_in_timm=bool(opens_in_timm))
    write_text(out / "README.md", front)
    # The configuration comes last: a folder without it is not taken for a model.
    write_text(out / CONFIG_FILE, json.dumps(opens_in_timm | content, indent=1) + "\n")
    return out


def timm_entries(content: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json that timm reads; none when it has no such encoder."""
    config: MethodConfig = from_plain(MethodConfig, content["method"], "config.json method")
    with torch.device("meta"):
        encoder = build(config, from_plain(Grid, content["grid"], "config.json grid")).encoder
    try:
        return timm_folder(timm_arguments(encoder), encoder.grid)
    except UsageError:
        return {}


def hub_card(method: str, card: str, *, opens_in_timm: bool) -> str:
    """Return a model card with the lines in front that hubs read, and how to load it.

    Args:
        method: name of the method.
        card: the card of the model directory, with such lines or without.
        opens_in_timm: whether timm has the encoder.
    """
    if card.startswith("---\n"):
        return card
    tags = ["mimkit", "masked-image-modeling", method]
    library = ["library_name: mimkit", "pipeline_tag: image-feature-extraction"]
    lines = ["---", *library, "tags:", *(f"- {tag}" for tag in tags), "---", "", card.rstrip(), ""]
    lines += [
        "## Load",
        "",
        "```python",
        "from mimkit.core.checkpoints.model_dir import load_encoder",
    ]
    lines += ["", 'encoder = load_encoder("FOLDER")', "```"]
    if opens_in_timm:
        lines += ["", 'or `timm.create_model("local-dir:FOLDER", pretrained=True)`.']
    return "\n".join(lines) + "\n"
