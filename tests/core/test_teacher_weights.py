"""Frozen teachers from files: towers of CLIP by all their names, plain ViTs, model directories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from tiny_methods import ENCODER, tiny
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimkit.core.checkpoints.model_dir import save_model
from mimkit.core.checkpoints.teacher_weights import load_teacher, read_teacher, with_teacher
from mimkit.core.encoders.clip_vit import ClipViT, ClipViTConfig
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.frozen import FrozenTeacher
from mimkit.core.grid import Grid
from mimkit.core.method import Method
from mimkit.core.methods import EncoderConfig, ITPNClipConfig, build

SIZE, PATCH, DIM, OUT = 32, 8, 128, 24


class QuickGELU(nn.Module):
    """What OpenAI's towers have between the layers of an MLP."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(1.702 x)."""
        return x * torch.sigmoid(1.702 * x)


def timm_tower() -> VisionTransformer:
    """Return timm's CLIP tower at random weights, norms and positions included."""
    torch.manual_seed(0)
    tower = VisionTransformer(
        *(SIZE, PATCH, 3, OUT, "", DIM, 2, 2),
        pre_norm=True,
        norm_layer=nn.LayerNorm,
        act_layer=QuickGELU,
    )
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.2)
    nn.init.zeros_(dict(tower.named_parameters())["head.bias"])
    return tower.eval()


def openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a tower's tensors as OpenAI's files name and shape them."""
    out = {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    for name, value in state.items():
        key = name.replace("blocks.", "transformer.resblocks.").replace(
            "attn.qkv.", "attn.in_proj_"
        )
        key = key.replace("attn.proj", "attn.out_proj").replace("norm_pre", "ln_pre")
        key = key.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        key = key.replace("norm1", "ln_1").replace("norm2", "ln_2")
        key = key.replace("patch_embed.proj", "conv1")
        key = f"ln_post.{key[5:]}" if key.startswith("norm.") else key
        key, value = {
            "cls_token": ("class_embedding", value.flatten()),
            "pos_embed": ("positional_embedding", value[0] if value.ndim == 3 else value),
            "head.weight": ("proj", value.mT.contiguous() if value.ndim > 1 else value),
        }.get(key, (key, value))
        if not key.startswith("head."):
            out[f"visual.{key}"] = value
    return out


def transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a tower's tensors as the library transformers names and shapes them."""
    out = {}
    for name, value in state.items():
        key = name.replace("blocks.", "encoder.layers.").replace("attn.proj", "self_attn.out_proj")
        key = key.replace("norm_pre", "pre_layrnorm")
        key = key.replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
        key = key.replace("patch_embed.proj", "embeddings.patch_embedding")
        key = f"post_layernorm.{key[5:]}" if key.startswith("norm.") else key
        if ".attn.qkv." in key:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                own = key.replace("attn.qkv", f"self_attn.{part}_proj")
                out[f"vision_model.{own}"] = third.contiguous()
        elif key == "cls_token":
            out["vision_model.embeddings.class_embedding"] = value.flatten()
        elif key == "pos_embed":
            out["vision_model.embeddings.position_embedding.weight"] = value[0]
        elif key == "head.weight":
            out["visual_projection.weight"] = value
        elif key != "head.bias":
            out[f"vision_model.{key}"] = value
    return out


def method_of(path: Path, size: int = SIZE, **options) -> Method:
    """Return the tiny method with the teacher of a file."""
    config = replace(tiny("itpn-clip"), **options)
    config = with_teacher(config, path)
    method = build(config, Grid.for_image((size, size), config.encoder.patch_size, 3))
    load_teacher(method, path)
    return method


def written(path: Path, state: dict[str, Tensor]) -> Path:
    """Write tensors and return the path."""
    if path.suffix == ".pt":
        torch.save({"state_dict": state}, path)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


@pytest.mark.parametrize("names", ["timm", "openai", "transformers"])
def test_a_clip_tower_says_what_timms_says(tmp_path: Path, names: str) -> None:
    tower = timm_tower()
    state = {k: v.detach() for k, v in tower.state_dict().items()}
    state = {"timm": dict, "openai": openai_names, "transformers": transformers_names}[names](state)
    path = written(tmp_path / ("x.pt" if names == "openai" else "x.safetensors"), state)
    # Student patches of 4 pixels on 16: as many tokens as the teacher has at 32.
    method = method_of(path, size=16)
    teacher = method.teacher
    assert isinstance(teacher, FrozenTeacher)
    assert isinstance(teacher.encoder, ClipViT)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = tower.head(tower.forward_features(images))[:, 1:]
    torch.testing.assert_close(teacher.tokens(images), expected, rtol=1e-4, atol=1e-4)


def test_a_table_of_another_grid_is_interpolated(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", dict(timm_tower().state_dict()))
    teacher = method_of(path, size=24).teacher
    assert isinstance(teacher, FrozenTeacher)
    assert teacher.encoder.grid.shape == (6, 6)
    assert teacher.tokens(torch.randn(1, 3, 24, 24)).shape == (1, 36, OUT)


def test_a_plain_vit_by_timms_names_and_the_kind_of_gelu_that_no_file_tells(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = VisionTransformer(*(SIZE, PATCH, 3, 5, "token", 48, 2, 3)).eval()
    path = written(tmp_path / "x.safetensors", dict(plain.state_dict()))
    teacher = method_of(path, 16, teacher=EncoderConfig(embed_dim=48, num_heads=3)).teacher
    assert isinstance(teacher, FrozenTeacher)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = plain.forward_features(images)[:, 1:]
    torch.testing.assert_close(teacher.tokens(images), expected, rtol=1e-4, atol=1e-4)
    tower = written(tmp_path / "y.safetensors", dict(timm_tower().state_dict()))
    known = ClipViTConfig(embed_dim=DIM, num_heads=4, quick_gelu=False)
    found = read_teacher(tower, known).config
    assert found == replace(known, depth=2, patch_size=PATCH, out_dim=OUT)


def test_a_model_directory_is_a_teacher(tmp_path: Path) -> None:
    config = tiny("mae")
    other = build(config, Grid.for_image((16, 16), 4, 3))
    save_model(tmp_path / "mae", other, config, normaliser={}, recipe="", data={})
    method = method_of(tmp_path / "mae", size=16)
    assert isinstance(method.teacher, FrozenTeacher)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(method.teacher.tokens(images), other.encoder.encode(images).last)
    assert isinstance(method_of(tmp_path / "mae", size=24).teacher, FrozenTeacher)


def test_files_that_are_no_teacher_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", {"layer.weight": torch.zeros(3, 3)})
    with pytest.raises(WeightsError, match="no image tower of CLIP and no plain ViT"):
        read_teacher(path)
    tower = dict(timm_tower().state_dict())
    wrong = written(tmp_path / "y.safetensors", tower)
    config = with_teacher(tiny("itpn-clip"), wrong)
    assert isinstance(config, ITPNClipConfig)
    method = build(config, Grid.for_image((16, 16), 4, 6))
    with pytest.raises(WeightsError, match=r"patch_embed.proj.weight' is \(128, 3, 8, 8\)"):
        load_teacher(method, wrong)
    with pytest.raises(UsageError, match="learns from no frozen teacher"):
        with_teacher(tiny("mae"), wrong)
    with pytest.raises(UsageError, match="has no frozen teacher"):
        load_teacher(build(tiny("mae"), Grid.for_image((16, 16), 4, 3)), wrong)


def test_images_are_scaled_per_channel() -> None:
    encoder = ENCODER.build(Grid((4, 4), (4, 4), 3))
    images = torch.randn(1, 3, 16, 16)
    scaled = images * torch.tensor([1.0, 2.0, 3.0])[:, None, None] - 0.5
    teacher = FrozenTeacher(encoder, (1.0, 2.0, 3.0), (-0.5,))
    torch.testing.assert_close(teacher.tokens(images), encoder.encode(scaled).last)
    with pytest.raises(UsageError, match="one for each of 3 channels"):
        FrozenTeacher(encoder, (1.0, 2.0))


def test_the_flop_of_a_tower_are_those_that_pytorch_counts() -> None:
    config = ClipViTConfig(embed_dim=32, depth=2, num_heads=2, patch_size=4, out_dim=8)
    encoder = config.build(Grid((4, 4), (4, 4), 3))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.encode(torch.randn(1, 3, 16, 16))
    assert counter.get_total_flops() == pytest.approx(encoder.forward_flops(16), rel=0.01)
