"""Configurations that are read from the shapes of published tensors, by inverted names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import tiny
from torch import Tensor

from mimkit.core.checkpoints.published import import_published
from mimkit.core.decoders.feature_pyramid import PyramidConfig
from mimkit.core.errors import WeightsError
from mimkit.core.grid import Grid
from mimkit.core.method import Method
from mimkit.core.methods import DMJDConfig, ITPNClipConfig, ITPNConfig, build, spec


def published(method: Method) -> dict[str, Tensor]:
    """Return a method's tensors by the names of the release, where it has one."""
    pairs = sorted(spec(method.name).names.items(), key=lambda pair: -len(pair[1]))
    out = {}
    for ours, value in method.state_dict().items():
        for theirs, start in pairs:
            if ours == start or ours.startswith(f"{start}."):
                out[theirs + ours.removeprefix(start)] = value
                break
    return out


@pytest.mark.parametrize("name", ["dmjd", "itpn", "itpn-clip"])
def test_a_file_tells_its_configuration_and_its_grid(name: str) -> None:
    config = tiny(name)
    if isinstance(config, ITPNClipConfig):
        config = replace(config, teacher=None, teacher_dim=12)
    if isinstance(config, ITPNConfig):
        config = replace(config, pyramid=PyramidConfig(dim=12, depth=2, levels=2))
    torch.manual_seed(0)
    method = build(config, Grid.for_image((32, 32), config.encoder.patch_size, 5))
    found = import_published(published(method), name, num_heads=2, decoder_heads=2)
    assert found.method.grid == method.grid
    loaded = found.method.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in method.state_dict().items())
    assert found.config.encoder == config.encoder
    if isinstance(config, DMJDConfig | ITPNConfig):
        assert isinstance(found.config, DMJDConfig | ITPNConfig)
        assert found.config.decoder == config.decoder
    if isinstance(config, ITPNClipConfig | ITPNConfig):
        assert isinstance(found.config, ITPNClipConfig | ITPNConfig)
        assert found.config.pyramid == config.pyramid


@pytest.mark.parametrize("name", ["dmjd", "itpn", "itpn-clip"])
def test_a_file_of_something_else_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="give one of"):
        import_published({"mask_token": torch.ones(1, 1, 4)}, name)
