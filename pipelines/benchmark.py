"""`mimkit benchmark`: speed and memory as ratios that one run measures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module, metadata
from typing import get_args

import torch

from ..core.errors import UserError
from ..core.files import write_text
from .benchmarks.config import BenchmarkConfig, Part, check_benchmark
from .benchmarks.table import Table, markdown
from .efficiency import resolve_device
from .machine.hardware import free_memory, usable_processor
from .progress import say

__all__ = ["BenchmarkConfig", "run"]

FORMAT = 1


def run(config: BenchmarkConfig) -> int:
    """Measure the parts one after the other; one that cannot be measured does not stop the others.

    Returns:
        0, also when a goal is not met: the table says so.

    Raises:
        UsageError: for a number that cannot be used, or a package that a part needs.
        UserError: when a part could not be measured.
    """
    check_benchmark(config)
    device = resolve_device(config.device)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    host = machine(device)
    say("\n".join(f"{name}: {value}" for name, value in host.items()))
    tables: dict[str, Table] = {}
    problems: list[UserError] = []
    for part in config.parts or get_args(Part):
        try:
            tables[part] = measure(part, config, device)
        except UserError as error:
            say(f"not measured: {error}")
            problems.append(error)
            continue
        say(f"\n{markdown(tables[part])}")
        if config.out is not None:
            write(config, host, tables)
    if problems:
        raise problems[0]
    return 0


def measure(part: Part, config: BenchmarkConfig, device: torch.device) -> Table:
    """Measure one part; its module is imported when it is wanted."""
    module = import_module(f".benchmarks.{part.replace('-', '_')}", __package__)
    return module.measure(config, device)


def machine(device: torch.device) -> dict[str, str]:
    """Return what numbers depend on: processor, threads, memory, versions."""
    cpu = usable_processor()
    python = f"Python {platform.python_version()}"
    names = ("mimkit", "torch", "timm", "lightly", "zarr")
    found = {
        "processor": f"{cpu.name}, {cpu.num_usable} cores",
        "threads": f"{torch.get_num_threads()}, {torch.backends.cpu.get_cpu_capability()}",
        "free memory": f"{free_memory() / 1e9:.0f} GB",
        "versions": ", ".join(filter(None, [python, *map(_version, names)])),
    }
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    return found


def _version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return ""


def write(config: BenchmarkConfig, host: Mapping[str, str], tables: Mapping[str, Table]) -> None:
    """Write what is known so far as JSON and as a page."""
    assert config.out is not None
    plain = {
        "format": FORMAT,
        "command": command(config),
        "machine": dict(host),
        "parts": {name: table.plain() for name, table in tables.items()},
    }
    write_text(config.out / "benchmark.json", json.dumps(plain, indent=1) + "\n")
    write_text(config.out / "benchmark.md", page(config, host, tables))


def page(config: BenchmarkConfig, host: Mapping[str, str], tables: Mapping[str, Table]) -> str:
    """Return all parts as one page."""
    lines = [
        "# Speed and memory",
        "",
        "Measured in one run, the sides of a comparison in turns, by",
        "",
        f"```\n{command(config)}\n```",
        "",
        *(f"- {name}: {value}" for name, value in host.items()),
        "",
    ]
    return "\n".join(lines) + "\n" + "\n".join(map(markdown, tables.values()))


def command(config: BenchmarkConfig) -> str:
    """Return the command line of a configuration, without the folder that it writes to."""
    words = ["mimkit", "benchmark", *config.parts]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in ("parts", "out") and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return " ".join(words)
