"""The BEiT-style ViT against timm's, its position tables, and SimMIM on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import BEIT

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published, infer_config
from mimkit.core.encoders.beit import BEiT, offset_pairs, resize_offsets
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.grid import Grid
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.methods import SimMIMViTConfig, build
from mimkit.core.methods.config_beit import BEiTConfig
from mimkit.core.noise import Noise
from mimkit.core.tokens import membership


def randomise(module: torch.nn.Module) -> None:
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


def encoder(size: tuple[int, ...] = (16, 24), **options) -> BEiT:
    made = replace(BEIT, **options).build(Grid.for_image(size, 4, 3)).eval()
    randomise(made)
    return made


@pytest.mark.parametrize("kind", ["shared", "block", "none"])
@pytest.mark.parametrize("absolute", [True, False])
def test_timm_computes_the_same_from_the_same_weights(kind: str, absolute: bool) -> None:
    beit = pytest.importorskip("timm.models.beit")
    ours = encoder(relative_positions=kind, absolute_positions=absolute)
    theirs = beit.Beit(
        img_size=(16, 24),
        patch_size=4,
        num_classes=0,
        embed_dim=24,
        depth=2,
        num_heads=2,
        init_values=0.1,
        use_abs_pos_emb=absolute,
        use_rel_pos_bias=kind == "block",
        use_shared_rel_pos_bias=kind == "shared",
        global_pool="token",
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(images), theirs.forward_features(images), rtol=1e-4, atol=1e-4
        )


def test_dropped_tokens_keep_the_bias_of_their_offsets() -> None:
    made = encoder(absolute_positions=True)
    images = torch.randn(2, 3, 16, 24)
    order = torch.stack([torch.randperm(24), torch.randperm(24)])
    whole = made.encode(images).last
    moved = made.encode(images, MaskPlan(order, order[:, :0])).last
    expected = whole.gather(1, order[..., None].expand_as(whole))
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


def test_pairs_name_the_difference_of_two_tokens() -> None:
    pairs = offset_pairs((2, 3), torch.device("cpu"))
    assert pairs[0, 1:].unique().tolist() == [15]
    assert pairs[1:, 0].unique().tolist() == [16]
    assert int(pairs[0, 0]) == 17
    assert pairs[1, 2] == pairs[2, 3] == pairs[4, 5], "one step right of the query"
    assert pairs[1, 2] != pairs[2, 1]
    assert pairs[1:, 1:].unique().tolist() == list(range(15))


def test_tables_of_other_grids_keep_near_offsets_and_class_rows() -> None:
    ramp = torch.arange(-3.0, 4.0)
    table = torch.cat([ramp, torch.tensor([10.0, 20.0, 30.0])])[:, None]
    wide = resize_offsets(table, (4,), (9,))[:, 0]
    assert wide[-3:].tolist() == [10.0, 20.0, 30.0]
    body = wide[:-3]
    assert body[8] == 0.0
    assert body[9] == pytest.approx(1.0), "the nearest offset keeps its value"
    assert body[0] == pytest.approx(-3.0, abs=1e-5)
    assert (body.diff() > 0).all()
    assert resize_offsets(table, (4,), (4,)) is table
    narrow = resize_offsets(table, (4,), (3,))[:-3, 0]
    assert narrow[2] == 0.0
    assert narrow[4] == pytest.approx(3.0, abs=1e-5)


def test_an_image_of_another_size_is_encoded() -> None:
    made = encoder(absolute_positions=True)
    assert made(torch.randn(1, 3, 24, 24)).shape == (1, 37, 24)
    one = encoder((4, 4))
    assert one(torch.randn(1, 3, 12, 8)).isfinite().all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UsageError, match="not a multiple of num_heads 5"):
        encoder(num_heads=5)


def step(method, images: torch.Tensor, seed: int = 0):
    return method(Batch(images, None, torch.arange(len(images))), Progress(0.0, 1), Noise(seed))


def simmim(**options):
    torch.manual_seed(0)
    config = SimMIMViTConfig(encoder=BEIT, **options)
    return build(config, Grid.for_image((32, 32), 4, 3))


def test_hidden_units_are_whole_and_their_count_is_rounded_up() -> None:
    method = simmim(mask_ratio=0.6, mask_unit=2)
    plan = step(method, torch.randn(3, 3, 32, 32)).plan
    hidden = membership(plan.predict, 64).reshape(3, 8, 8)
    assert hidden.sum((1, 2)).tolist() == [40] * 3, "ceil(0.6 * 16) units of four tokens"
    units = hidden.unflatten(2, (4, 2)).unflatten(1, (4, 2)).sum((2, 4))
    assert set(units.flatten().tolist()) == {0, 4}


def test_the_loss_is_the_mean_error_of_hidden_pixels() -> None:
    method, images = simmim(), torch.randn(2, 3, 32, 32)
    output = step(method, images)
    truth = output.context.patches.gather(
        1, output.plan.predict[..., None].expand(-1, -1, output.context.patches.shape[2])
    )
    expected = (output.predictions["pixels"] - truth).abs().mean()
    torch.testing.assert_close(output.loss, expected)


def test_published_heads_and_shapes_are_read() -> None:
    method = simmim(mask_unit=2)
    randomise(method)
    state = {}
    for name, value in method.state_dict().items():
        new = name.replace("corruption.mask_token", "encoder.mask_token")
        state[new.replace("heads.pixels.predictor.head", "decoder.0")] = value
    rows = torch.arange(48).reshape(16, 3).T.flatten()  # the released head lists colours first
    for part in ("weight", "bias"):
        state[f"decoder.0.{part}"] = state[f"decoder.0.{part}"][rows]
    state["decoder.0.weight"] = state["decoder.0.weight"][..., None, None]
    state["encoder.rel_pos_bias.relative_position_index"] = torch.zeros(65, 65)
    assert infer_config(state, "simmim-vit").encoder == BEIT
    imported = import_published(state, "simmim-vit", image_size=32).method
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(step(imported.eval(), images).loss, step(method.eval(), images).loss)
    del state["encoder.blocks.0.attn.q_bias"]
    with pytest.raises(WeightsError):
        import_published(state, "simmim-vit", config=SimMIMViTConfig(encoder=BEIT), image_size=32)


def test_options_are_told_from_shapes() -> None:
    wanted = BEiTConfig(
        embed_dim=24,
        depth=3,
        num_heads=2,
        patch_size=4,
        mlp_ratio=2.0,
        relative_positions="block",
        absolute_positions=True,
        layer_scale=None,
        qkv_bias=False,
    )
    state = wanted.build(Grid.for_image((8, 8), 4, 2)).state_dict()
    assert infer_config(state, "simmim-vit").encoder == wanted
