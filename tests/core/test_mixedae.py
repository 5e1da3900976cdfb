"""MixedAE: equal shares of a group, attention to the best keys, and who reads whose tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import DECODER, ENCODER, tiny

from mimkit.core.batch import Batch, Progress
from mimkit.core.encoders.contract import Encoder
from mimkit.core.errors import UsageError
from mimkit.core.grid import Grid
from mimkit.core.layers import attend
from mimkit.core.method import Head, Method, Output
from mimkit.core.methods import MAEConfig, build
from mimkit.core.mixing import Mixing, top_k_reading, top_k_weights
from mimkit.core.noise import Noise
from mimkit.core.objectives.contrastive import homologous_contrast

GRID = Grid((4, 5), (4, 4), 3)


def make(group: int = 4, **options) -> Method:
    torch.manual_seed(0)
    return build(tiny("mixedae", group=group, **options), GRID).eval()


def pixels(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num, 3, *GRID.image_size, generator=generator)


def run(method: Method, images: torch.Tensor, plan=None) -> Output:
    batch = Batch(images, None, torch.arange(len(images)))
    return method(batch, Progress(1.0, 10), Noise(3), plan)


def test_images_of_a_group_share_all_places_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    method, rows = make(), []
    encode = Encoder.encode_patches

    def counting(self, patches, *args, **kwargs):
        rows.append(len(patches))
        return encode(self, patches, *args, **kwargs)

    monkeypatch.setattr(Encoder, "encode_patches", counting)
    output = run(method, pixels(8))
    assert output.plan.visible.shape == (8, 5)
    for group in output.plan.visible.unflatten(0, (2, 4)):
        assert group.flatten().sort().values.tolist() == list(range(20))
    assert rows == [2], "the encoder works on one sequence per group"
    assert output.predictions["pixels"].shape[:2] == (8, 15), "the decoder on every image"


def test_an_image_is_rebuilt_from_its_own_tokens_alone() -> None:
    method = make()
    output, head = run(method, pixels(4)), method.heads["pixels"]
    assert isinstance(head, Head)
    before = head.predict(output.features, output.plan)
    sequence = output.features.sequence.clone()
    sequence[1:, 1:] = 0.0  # tokens of the others; the class token belongs to all
    after = head.predict(replace(output.features, sequence=sequence), output.plan)
    torch.testing.assert_close(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_before_the_decoder_images_of_a_group_do_read_each_other() -> None:
    method = make()
    before = run(method, pixels(8))
    changed = pixels(8)
    changed[1] += 1.0
    after = run(method, changed, before.plan)
    moved = (before.features.last != after.features.last).flatten(1).any(dim=1)
    assert moved[:4].all()
    assert not moved[4:].any()


def test_each_query_keeps_exactly_k_keys_and_all_keys_are_plain_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 9, 4)
    weights = top_k_weights(q, k, 3, num_prefix=1)
    assert ((weights[:, :, 1:, 1:] > 0).sum(dim=-1) == 3).all()
    assert (weights[..., 0] > 0).all()
    assert (weights[:, :, 0] > 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 4] = False
    plain = top_k_reading(8, num_prefix=1)(q, k, v, mask)
    torch.testing.assert_close(plain, attend(q, k, v, mask))


def test_contrast_is_least_when_tokens_cluster_by_image_whatever_the_slots_are_called() -> None:
    torch.manual_seed(0)
    owner = torch.tensor([0, 0, 0, 1, 1, 1])
    mixed = torch.randn(1, 6, 8)
    clustered = torch.eye(2)[owner][None]
    costs = [float(homologous_contrast(x, owner, 0.25).mean()) for x in (clustered, mixed)]
    assert costs[0] < costs[1]
    # Two others of the image at cosine 1, three of the other image at cosine 0.
    expected = torch.log(2 * torch.tensor(4.0).exp() + 3) - 4.0
    assert costs[0] == pytest.approx(float(expected), rel=1e-5)
    swapped = homologous_contrast(mixed, 1 - owner, 0.25)
    torch.testing.assert_close(swapped, homologous_contrast(mixed, owner, 0.25))


def test_tokens_without_data_take_no_part_in_the_contrast() -> None:
    torch.manual_seed(0)
    tokens, owner = torch.randn(1, 6, 8), torch.tensor([0, 0, 0, 1, 1, 1])
    valid = torch.tensor([[True, True, False, True, True, False]])
    kept = [0, 1, 3, 4]
    expected = homologous_contrast(tokens[:, kept], owner[kept], 0.25)
    torch.testing.assert_close(homologous_contrast(tokens, owner, 0.25, valid)[:, kept], expected)


def test_a_group_of_one_with_plain_attention_is_mae() -> None:
    torch.manual_seed(0)
    mae = build(MAEConfig(encoder=ENCODER, decoder=DECODER), GRID).eval()
    expected = run(mae, pixels(2))
    mixing = Mixing(1, ENCODER.embed_dim, top_k=())
    torch.nn.init.zeros_(mixing.segment_embed)
    mae.corruption = mixing
    torch.testing.assert_close(run(mae, pixels(2), expected.plan).loss, expected.loss)


def test_wrong_batches_and_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="is not a multiple of the 4"):
        run(make(), pixels(6))
    with pytest.raises(UsageError, match="mixes no images"):
        make(group=1)
