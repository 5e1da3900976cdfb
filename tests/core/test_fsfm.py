"""FSFM: one mask token for two decoders, a teacher of the whole, released weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_fsfm import faces, fsfm_config, hidden, make_fsfm, maps_of, step
from torch import Tensor, nn
from torch.nn import functional

from mimkit.core.batch import Batch, Progress
from mimkit.core.checkpoints.published import import_published
from mimkit.core.decoders.pooled import PooledDecoder
from mimkit.core.errors import UsageError, WeightsError
from mimkit.core.grid import Grid
from mimkit.core.masking.plan import MaskPlan
from mimkit.core.masking.region_maps import (
    COVERED,
)
from mimkit.core.masking.views import DisjointView
from mimkit.core.method import Method
from mimkit.core.methods import EncoderConfig, build
from mimkit.core.methods.fsfm import SPEC, PooledDecoderConfig
from mimkit.core.objectives.alignment import WholeImageAlignment
from mimkit.core.objectives.contrastive import info_nce, nt_xent
from mimkit.core.teacher import Teacher
from mimkit.core.training.engine import split
from mimkit.core.views import join_plans, stack_views


def teacher_of(method: Method) -> Teacher:
    assert method.teacher is not None
    return method.teacher


def test_the_region_counts_once_more() -> None:
    batch, method = faces(), make_fsfm()
    output = step(method, batch)
    results = output.per_sample
    truth = method.objectives["pixels"]
    seen = truth(output.features, output.plan, output.context, {})
    inside = output.plan.subsets[COVERED].gather(1, output.plan.predict).float()
    mean = (seen.per_token * inside).sum(dim=1) / inside.sum(dim=1)
    torch.testing.assert_close(output.terms["region"], mean.mean())
    parts = [
        step(method, part, output.plan.rows(slice(2 * k, 2 * k + 2)))
        for k, part in enumerate(split(batch, 2))
    ]
    torch.testing.assert_close(torch.cat([part.per_sample for part in parts]), results)
    published = make_fsfm(as_published=True)
    whole = step(published, batch, output.plan)
    ratio = (seen.per_token * inside).sum() / inside.sum()
    torch.testing.assert_close(whole.terms["region"], ratio)


def test_student_sees_what_is_visible_and_teacher_all() -> None:
    method, batch = make_fsfm(), faces()
    lengths = []
    for part in (method.encoder, teacher_of(method).copy_of("encoder")):
        first = part.get_submodule("blocks.0")
        first.register_forward_hook(lambda _, given, out: lengths.append(given[0].shape[1]))
    before = step(method, batch)
    assert lengths == [1 + 16, 1 + 64]
    blocked = hidden(before).reshape(4, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(blocked, faces(seed=9).images, batch.images)
    after = step(method, replace(batch, images=other), before.plan)
    whole = method.objectives["alignment"]
    assert isinstance(whole, WholeImageAlignment)
    vectors = [whole.student(o.features, o.plan, 64) for o in (before, after)]
    assert torch.equal(*vectors)
    assert torch.equal(before.predictions["pixels"], after.predictions["pixels"])
    for name in ("pixels", "region", "alignment"):
        assert not torch.equal(before.terms[name], after.terms[name])


def test_who_learns_from_which_loss() -> None:
    learnt: dict[str, set[str]] = {}
    method = make_fsfm()
    for name in ("pixels", "region", "alignment"):
        method.zero_grad()
        step(method, faces()).terms[name].backward()
        learnt[name] = {
            ".".join(key.split(".")[:3] if key.startswith("heads") else key.split(".")[:1])
            for key, p in method.named_parameters()
            if p.grad is not None and p.grad.any()
        }
    decoder = {"encoder", "trunk", "heads.pixels.predictor"}
    own = {f"heads.alignment.{part}" for part in ("decoder", "projector", "predictor")}
    assert learnt == {
        "pixels": decoder,
        "region": decoder,
        "alignment": {"encoder", "trunk"} | own,
    }


def test_the_teacher_follows_and_stands_still_at_the_end() -> None:
    method = make_fsfm()
    teacher = teacher_of(method)
    followed = ("encoder", "heads.alignment.decoder", "heads.alignment.projector")
    assert teacher.names == followed
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    method.after_step(Progress(10.0, 10))
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    method.after_step(Progress(0.0, 10))
    name = "copies.1.embed.weight"
    moved = teacher.state_dict()[name] - before[name]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.004), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("absent", [False, True])
def test_one_mask_token_stands_for_all(absent: bool) -> None:
    torch.manual_seed(0)
    decoder, length, num_hidden = PooledDecoder(24, 2, 3), 7, 9
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    sequence, token = torch.randn(2, length, 24), torch.randn(1, 1, 24)
    readable, missing = torch.ones(2, length, dtype=torch.bool), 3 * absent
    readable[1, length - 2 :] = not absent
    counts = torch.tensor([num_hidden, num_hidden - missing], dtype=torch.float32)
    given = readable if absent else None
    ours = decoder(sequence, given, token.expand(2, -1, -1), counts)
    every = torch.cat([decoder.embed(sequence), token.expand(2, num_hidden, -1)], dim=1)
    there = torch.cat([readable, torch.arange(num_hidden) < counts[:, None]], dim=1)
    for block in decoder.blocks:
        every = block(every, there)
    every = decoder.head(decoder.norm(every)) * there[..., None]
    torch.testing.assert_close(ours, every.sum(1) / there.sum(1, keepdim=True))
    order = torch.randperm(length)
    permuted = decoder(
        sequence[:, order],
        given if given is None else given[:, order],
        token.expand(2, -1, -1),
        counts,
    )
    torch.testing.assert_close(ours, permuted)


def test_contrasts_are_cross_entropies() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 5, 8)
    there = torch.tensor([True, True, False, True, True])
    a, b = functional.normalize(q[there], dim=1), functional.normalize(k[there], dim=1)
    label = torch.arange(4)
    wanted = 0.2 * functional.cross_entropy(a @ b.T / 0.1, label, reduction="none")
    torch.testing.assert_close(info_nce(q, k, there)[there], wanted)
    both = torch.cat([a, b])
    logits = (both @ both.T / 0.1).fill_diagonal_(-torch.inf)
    cost = functional.cross_entropy(logits, (torch.arange(8) + 4) % 8, reduction="none")
    torch.testing.assert_close(nt_xent(q, k, there)[there], cost.reshape(2, 4).mean(dim=0))
    assert info_nce(q, k, there).isfinite().all()


@pytest.mark.parametrize("name", ["simsiam", "byol", "infonce", "simclr"])
def test_every_alignment_trains(name: str) -> None:
    method = make_fsfm(alignment_loss=name)
    terms = []
    optim = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(8):
        term = step(method, faces()).terms["alignment"]
        optim.zero_grad()
        term.backward()
        optim.step()
        terms.append(float(term.detach()))
    assert terms[-1] < terms[0] - 0.01


def published_state(method: Method) -> dict[str, Tensor]:
    """Return weights under published names, without a teacher."""
    back = {ours: theirs for theirs, ours in SPEC.names.items() if not theirs.startswith("target.")}
    state = {}
    for name, value in method.state_dict().items():
        heads = [head for head in back if name == head or name.startswith(f"{head}.")]
        if heads:
            head = max(heads, key=len)
            state[back[head] + name.removeprefix(head)] = value
    return state | {"rep_decoder_pos_embed": torch.zeros(1, 65, 24)}


def test_released_weights_tell_their_sizes_and_give_the_teacher_its_own() -> None:
    encoder = EncoderConfig(embed_dim=384, depth=1, num_heads=12, patch_size=16)
    size = Grid.for_image((32, 32), 16, 3)
    made = fsfm_config(
        encoder=encoder,
        decoder=replace(fsfm_config().decoder, dim=512, num_heads=16, depth=1),
        pooled_decoder=PooledDecoderConfig(depth=1),
    )
    method = build(made, size)
    state = published_state(method)
    read = import_published(state, "fsfm")
    assert read.config == made, "depth, widths and heads are those of the file"
    images = torch.randn(2, 3, 32, 32)
    batch = Batch(images, None, torch.arange(2))
    torch.testing.assert_close(step(read.method, batch).loss, step(method, batch).loss)
    other = {f"target.{k}": v + 1 for k, v in state.items() if k.startswith(("norm", "blocks"))}
    with pytest.raises(WeightsError, match="not in the file"):
        import_published(state | other, "fsfm")
    with pytest.raises(WeightsError, match="hidden tokens have no position"):
        import_published(state | {"rep_decoder_pos_embed": torch.ones(1, 5, 384)}, "fsfm")


def test_wrong_numbers_are_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"num_heads 5: does not divide the encoder's width 24"):
        make_fsfm(pooled_decoder=PooledDecoderConfig(num_heads=5))
    wrong = faces()
    object.__setattr__(wrong, "regions", torch.zeros(4, 16, 16, dtype=torch.int8))
    with pytest.raises(UsageError, match=r"regions of shape \(4, 16, 16\): are no map of images"):
        step(make_fsfm(), wrong)


def test_views_carry_maps_and_plans_their_subsets() -> None:
    batch = faces()
    one_crop = stack_views(batch, DisjointView(8, 8, same_image=True)).regions
    other_crop = stack_views(replace(batch, second=batch.images + 1), DisjointView(8, 8)).regions
    assert one_crop is not None
    assert other_crop is not None
    assert torch.equal(one_crop, maps_of(batch).repeat(2, 1, 1))
    assert torch.equal(other_crop[:4], maps_of(batch))
    assert not other_crop[4:].any()
    plan = step(make_fsfm(), batch).plan
    plain = MaskPlan(plan.visible, plan.predict)
    joined = join_plans(plan, plain).subsets[COVERED]
    assert torch.equal(joined[:4], plan.subsets[COVERED])
    assert not joined[4:].any()
    assert torch.equal(plan.rows(slice(2)).subsets[COVERED], plan.subsets[COVERED][:2])
