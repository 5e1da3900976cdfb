"""Swin: windows, shifts, position biases, merging, absent tokens, memory."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import timm
import torch
from tiny_methods import swin
from torch.nn import functional

from mimkit.core.encoders.contract import Pass
from mimkit.core.encoders.swin import Stage, Swin, SwinConfig
from mimkit.core.encoders.swin_blocks import CosineAttention, TableAttention, WholeWindows
from mimkit.core.encoders.swin_sparse import SeenCells, attention_flops, run_length
from mimkit.core.encoders.windows import Windows
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid, patchify
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.places import cells_of
from mimkit.core.tokens import membership, take

VERSIONS = (1, 2)


def encoder(config: SwinConfig, size: tuple[int, ...] = (32, 48), channels: int = 3) -> Swin:
    torch.manual_seed(0)
    model = config.build(Grid.for_image(size, config.patch_size, channels))
    for name, parameter in model.named_parameters():
        if "norm" in name:  # those of version 2 start at zero, which would hide everything
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def whole(stage: Stage, x: torch.Tensor) -> list[WholeWindows]:
    """Return the windows of even and odd blocks on a grid that holds data everywhere."""
    ways = stage.windows(tuple(x.shape[1:-1]))
    return [WholeWindows(w, w.allowed(None, x.device)) for w in ways]


def pixels(model: Swin, num: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num, model.grid.channels, *model.grid.image_size)
    return torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [(8, 8), (7, 11), (1, 9), (5, 6, 3)])
def test_windows_are_put_back_where_they_were(shape: tuple[int, ...]) -> None:
    grid = torch.randn(2, *shape, 3)
    windows = Windows.fit(shape, (4,) * len(shape), shifted=True)
    cut = windows.cut(grid)
    assert cut.shape == (2, windows.num_windows, windows.num_cells, 3)
    assert torch.equal(windows.join(cut), grid)
    assert windows.shift == tuple(2 if n > 4 else 0 for n in shape)


def test_cells_read_their_own_region_of_a_rolled_window_and_no_padding() -> None:
    windows = Windows.fit((6, 10), (4, 4), shifted=True)  # padded to 8 x 12, rolled by 2
    allowed = windows.allowed(None, torch.device("cpu"))
    assert allowed is not None
    rows, cols = torch.meshgrid(torch.arange(1, 7), torch.arange(1, 11), indexing="ij")
    place = windows.cut(torch.stack([rows, cols], dim=-1)[None])[0]
    for row, col in ((0, 0), (3, 5), (5, 9)):
        at = (place == torch.tensor([row + 1, col + 1])).all(dim=-1).nonzero()[0]
        seen = {tuple(p) for p in place[at[0]][allowed[0, at[0], at[1]]].tolist()}
        # Windows of the grid moved by two cells, cut off at its border.
        low = [max((n + 2) // 4 * 4 - 2, 0) for n in (row, col)]
        high = [min((n + 2) // 4 * 4 + 2, end) for n, end in ((row, 6), (col, 10))]
        wanted = {(r + 1, c + 1) for r in range(low[0], high[0]) for c in range(low[1], high[1])}
        assert seen == wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_encoder_is_timms(version: int) -> None:
    config = SwinConfig(
        patch_size=8, stem_size=2, embed_dim=12, depths=(2, 2, 1), num_heads=(2, 3, 4),
        window_size=4, version=2 if version == 2 else 1,
    )  # fmt: skip
    ours = encoder(config, (32, 32), 5)
    kind = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}[version]
    theirs = timm.create_model(
        kind, img_size=32, patch_size=2, window_size=4, embed_dim=12, depths=(2, 2, 1),
        num_heads=(2, 3, 4), in_chans=5, num_classes=0, drop_path_rate=0.0,
    ).eval()  # fmt: skip
    state = {}
    for name, value in ours.state_dict().items():
        words = name.split(".")
        if "downsample" in words:  # timm merges at the start of the next stage
            words[1] = str(int(words[1]) + 1)
        state[".".join(words)] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    computed = ("relative_position_index", "attn_mask", "relative_coords_table", "k_bias")
    assert all(name.endswith(computed) for name in missing), missing
    images = pixels(ours)
    with torch.no_grad():
        expected = getattr(theirs, "forward_features")(images).flatten(1, 2)  # noqa: B009
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)


def test_a_stage_of_version_2_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    stage = Stage(swin(2, 1), 0, (8, 8), [0.0, 0.0])
    for name, parameter in stage.named_parameters():
        if "norm" in name:
            torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    out = stage(x, whole(stage, x))
    assert torch.equal(out, x)
    out.square().sum().backward()
    for name, parameter in stage.named_parameters():
        learns = name.endswith(("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"))
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == learns, name
    fresh = swin(2, 2).build(Grid.for_image((16, 16), 4, 3))
    starts = [p for n, p in fresh.named_parameters() if ".blocks." in n and "norm" in n]
    assert not any(p.any() for p in starts)


def test_cosine_attention_ignores_lengths_and_its_logits_are_bounded() -> None:
    torch.manual_seed(0)
    attention = CosineAttention(8, (4, 4), 2)
    torch.testing.assert_close(attention.logit_scale, torch.full((2, 1, 1), log(10.0)))
    q, k = torch.randn(2, 3, 2, 16, 4)
    first, longer = attention.compare(q, k), attention.compare(3 * q, 0.2 * k)
    torch.testing.assert_close(first[0] @ first[1].mT, longer[0] @ longer[1].mT)
    torch.nn.init.constant_(attention.logit_scale, 20.0)
    q, k, factor = attention.compare(q, k)
    assert factor == 1.0
    torch.nn.init.normal_(attention.get_parameter("cpb_mlp.2.weight"), std=10.0)
    bias = attention.bias((4, 4), torch.device("cpu"))
    logits = q @ k.mT + bias
    assert logits.abs().max() <= 100 + 16 + 1e-3
    assert logits.abs().max() > 50
    assert bias.min() >= 0
    assert bias.max() <= 16


def test_a_continuous_bias_keeps_its_values_in_larger_windows() -> None:
    torch.manual_seed(0)
    small = CosineAttention(8, (4, 4), 2)
    large = CosineAttention(8, (6, 6), 2, trained_reach=(4, 4))
    large.cpb_mlp.load_state_dict(small.cpb_mlp.state_dict())
    device = torch.device("cpu")
    shared = large.bias_rows(device).reshape(11, 11, 2)[2:-2, 2:-2].reshape(49, 2)
    torch.testing.assert_close(shared, small.bias_rows(device))
    other = CosineAttention(8, (6, 6), 2)
    other.cpb_mlp.load_state_dict(small.cpb_mlp.state_dict())
    assert not torch.allclose(
        other.bias_rows(device).reshape(11, 11, 2)[2:-2, 2:-2].reshape(49, 2), shared
    )


def test_a_table_bias_of_a_smaller_window_is_the_middle_of_the_table() -> None:
    attention = TableAttention(8, (4, 4), 2)
    whole = attention.bias((4, 4), torch.device("cpu"))
    part = attention.bias((2, 4), torch.device("cpu"))
    torch.testing.assert_close(part, whole[:, :8, :8])
    steps = attention.relative_position_bias_table.reshape(7, 7, 2)
    assert torch.equal(whole[:, 5, 2], steps[3 + 1, 3 - 1])  # cell (1, 1) reads cell (0, 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_absent_token_holds_reaches_nobody(version: int) -> None:
    model = encoder(swin(2 if version == 2 else 1, 3))
    images = pixels(model)
    absent = torch.zeros(2, model.grid.num_tokens, dtype=torch.bool)
    absent[0, :40] = True
    absent[1, ::3] = True
    patches = patchify(images, model.grid.patch)
    spoiled = patches.masked_fill(absent[..., None], float("nan"))
    clean = model.encode_patches(patches, absent=absent)
    assert torch.equal(clean.sequence, model.encode_patches(spoiled, absent=absent).sequence)
    assert clean.readable is not None
    assert clean.readable.shape == clean.sequence.shape[:2]
    assert not clean.readable[0, 0], "all tokens of its cell are absent"
    assert clean.readable[1].all(), "no cell of this sample is without data"
    # A sample whose tokens all hold data is what it is without a mask.
    present = torch.zeros_like(absent)
    torch.testing.assert_close(
        model.encode_patches(patches, absent=present).sequence,
        model.encode_patches(patches).sequence,
    )


def test_taps_are_maps_of_stages_behind_merging() -> None:
    model = encoder(swin(1, 3), (28, 44))
    features = model.encode(pixels(model), taps=(0, 1, 2))
    for tap in (0, 1, 2):
        cells = model.map_shape(model.grid.shape, tap)
        assert features.taps[tap].shape == (2, cells[0] * cells[1], model.tap_dim(tap))
    assert model.map_shape((7, 11), 0) == (7, 11)
    assert model.map_shape((7, 11), 2) == model.map_shape((7, 11)) == (4, 6)
    last = functional.layer_norm(
        features.taps[2], (model.embed_dim,), model.norm.weight, model.norm.bias
    )
    torch.testing.assert_close(last, features.last)


def test_recomputed_blocks_give_the_same_gradients_and_keep_less() -> None:
    grads, kept = [], []
    for recompute in (False, True):
        model = encoder(swin(2, 2, checkpoint=recompute), (16, 16)).train()
        sizes: list[int] = []

        def count(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(pixels(model)).square().sum()
        kept.append(sum(sizes))
        loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("square", [False, True])
def test_windows_of_long_grids(square: bool) -> None:
    config = swin(2, 3, square_windows=square)
    model = encoder(config, (16, 64), 2)  # grids of 8 x 32, 4 x 16 and 2 x 8 patches
    assert [s.reach for s in model.stages] == [(4, 4), (4, 4), (2, 2) if square else (2, 4)]
    stage = list(model.stages)[1]
    x = torch.randn(1, 4, 16, 16)
    moved = x.clone()
    moved[:, :, 3] += 1.0
    changed = (stage(x, whole(stage, x)) - stage(moved, whole(stage, x))).abs().amax(
        dim=(0, 1, 3)
    ) > 0
    # Only a shift along the long axis lets the first window reach into the second.
    assert changed.nonzero().max() == (3 if square else 5)


def test_it_runs_on_another_size_and_says_what_does_not_fit() -> None:
    model = encoder(swin(2, 2))
    other = torch.randn(1, 3, 20, 24)
    assert model(other).shape == (1, 30, model.embed_dim)
    visible = torch.arange(3)[None]
    small = encoder(swin(2, 3))  # its last cells hold four tokens
    with pytest.raises(UsageError, match="cannot be dropped"):
        small.run(torch.randn(1, 96, 48), Pass((8, 12), visible))
    with pytest.raises(UsageError, match="patch_size 16"):
        SwinConfig(patch_size=16, stem_size=4, depths=(1,), num_heads=(3,)).build(
            Grid.for_image((32, 32), 16, 3)
        )
    with pytest.raises(UsageError, match="heads"):
        SwinConfig(num_heads=(5, 6, 12, 24)).build(Grid.for_image((64, 64), 32, 3))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("size", "stages", "window", "num_visible"),
    [
        ((64, 96), 2, 4, 100),  # several runs in the first stage, one in the second
        ((40, 72), 3, 3, 12),  # windows do not divide the grid, and units are wider than they are
        ((16, 16), 2, 5, 5),  # the last stage is a single window
        ((16, 24, 8), 2, 3, 9),
    ],
)
def test_visible_tokens_alone_are_a_whole_grid_of_which_nothing_else_is_read(
    version: int, size: tuple[int, ...], stages: int, window: int, num_visible: int
) -> None:
    side = 2 * 2 ** (stages - 1)
    config = replace(
        swin(2 if version == 2 else 1, stages), patch_size=side, window_size=window, stem_size=2
    )
    model, generator = encoder(config, size, 2), torch.Generator().manual_seed(2)
    patches = patchify(pixels(model), model.grid.patch)
    noise = torch.rand(2, model.grid.num_tokens, generator=generator)
    index = noise.topk(num_visible, dim=1).indices
    absent = torch.zeros(2, model.grid.num_tokens, dtype=torch.bool)
    absent[1, index[1, :2]] = True
    taps = tuple(range(stages))
    plan = MaskPlan(index, index, absent)
    seen = model.encode_patches(patches.masked_fill(absent[..., None], torch.nan), plan, taps=taps)
    hidden = ~membership(index, model.grid.num_tokens) | absent
    dense = model.encode_patches(patches, absent=hidden, taps=taps)
    for tap in (-1, *taps):
        cells = model.map_shape(model.grid.shape, tap)
        parts = [n // k for n, k in zip(cells, model.grid.shape, strict=True)]
        places = cells_of(index, model.grid.shape, parts)
        wanted = take(dense.context(tap), places)
        kept = ~take(absent, index).repeat_interleave(wanted.shape[1] // num_visible, dim=1)
        torch.testing.assert_close(seen.context(tap)[kept], wanted[kept], rtol=1e-4, atol=1e-5)
    assert seen.readable is not None
    assert seen.readable.sum(dim=1).tolist() == [num_visible, num_visible - 2]


def test_a_mask_that_a_batch_shares_is_worked_out_once() -> None:
    model = encoder(replace(swin(1, 2), window_size=3), (48, 48))
    patches = patchify(pixels(model), model.grid.patch)
    index = torch.randperm(144, generator=torch.Generator().manual_seed(0))[:40]
    shared = model.encode_patches(patches, MaskPlan(index.expand(2, -1), index.expand(2, -1)))
    single = torch.stack([index, index])
    assert torch.equal(shared.last, model.encode_patches(patches, MaskPlan(single, single)).last)
    seen = SeenCells(index.expand(2, -1), (12, 12), (2, 2), None, released=False)
    around = seen.neighbours(Windows.fit((24, 24), (3, 3), shifted=True), (3, 3), 0)
    assert around.pairs.shape == (1, 18, 9, 27), "160 cells in runs of 9, with those next to them"


def test_released_places_are_those_of_another_cell_between_first_and_last_stage() -> None:
    """The j-th cell, counted token by token, is taken for the j-th in raster order."""
    index = torch.tensor([[1, 3]])  # of 2 x 2 tokens
    stages = {}
    for released in (False, True):
        seen = SeenCells(index, (2, 2), (4, 4), None, released)
        for stage, side in enumerate((8, 4, 2)):
            windows = Windows.fit((side, side), (8, 8), shifted=False)
            reach = (side, side)
            stages[released, stage] = seen.neighbours(windows, reach, stage).pairs
    assert torch.equal(stages[True, 0], stages[False, 0])
    assert torch.equal(stages[True, 2], stages[False, 2])
    # Cells 4 to 7 and 12 to 15 of a grid of 4 x 4 instead of the right half.
    cells = torch.tensor([4, 5, 6, 7, 12, 13, 14, 15])
    place = torch.stack([cells // 4, cells % 4], dim=-1)
    step = place[:, None] - place[None] + 3
    assert stages[True, 1][0, 0].tolist() == (step[..., 0] * 7 + step[..., 1]).tolist()


def test_dropped_cells_cost_nothing() -> None:
    assert run_length(192, 49) == 192
    assert run_length(768, 49) == 49
    assert attention_flops(768, 49, 8) == 2 * 768 * 8 * 32 + 4 * (16 * 49) * 147 * 8
    model = SwinConfig().build(Grid.for_image((192, 192), 32, 3))
    assert model.visible_flops(9) < 0.3 * model.forward_flops(36)
