"""Self-check of a policy: one that would answer, but wrongly, is found before it moves a robot.

Each check is aimed at a silent mistake of the field, such as a causal mask from stock libraries
(52-60 % success instead of 98 %). The probes run the model itself, on random embeddings, and
compare with the published code (``predict_action`` of ``modeling_prismatic.py``)."""

import hashlib
import math
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ..errors import CheckpointError
from ..model import language
from ..model.normalization import Bounds
from ..model.openvla import STOP_ID
from ..model.prompt import BOS_ID, SPACE_ID, build_prompt
from ..pruning.base import Layout
from ..pruning.registry import build_pruner
from ..records import Inference
from .load import UNTRAINED_NOTE
from .policy import Policy

# 'In: What action should the robot take to' and '? \n Out :' as Llama-2 cuts them.
PREFIX_IDS = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304]
SUFFIX_IDS = [29973, 13, 3744, 29901, 29871]
LLAMA2_SHA256 = '9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347'
PROMPT = build_prompt('pick up the red cube')
BACKBONE_EPS, HEAD_EPS = 1e-6, 1e-5
# The heads have no squashing, but they were trained on targets in -1 ... 1.
PLAUSIBLE = 10.0
PATCHES = 4  # per camera: a short sequence shows the same mistakes
ROPE_THETA, ROPE_POSITION = 10000.0, 600
# float32 leaves 2e-5 at this position; frequencies rounded to bfloat16 leave about 1.
ROPE_TOLERANCE = 1e-3
# Of the hidden states' RMS. A causal mask gives exactly 0, models give 0.05 and more.
LEAST_CHANGE = 1e-4
SAME_ROW = 0.02  # RMS difference of equal rows; different rows are near 1


@dataclass(frozen=True)
class Finding:
    """:param value: what was found, for a table.
    :param reason: what is wrong and what to do about it; empty where ``ok``."""

    name: str
    ok: bool
    value: str
    reason: str = ''


def finding(name: str, value: str, wrong: str = '', remedy: str = '') -> Finding:
    return Finding(name, not wrong, value, f'{wrong}; {remedy}' if wrong and remedy else wrong)


@torch.inference_mode()
def probe_policy(policy: Policy, dry: Inference | None = None) -> tuple[Finding, ...]:
    """All checks, in the order of a table. Two short passes of the decoder; resets nothing.
    :param dry: of :meth:`Policy.warm_up`; None infers it here, which resets the pruner."""
    random = torch.Generator().manual_seed(0)
    layout = _layout(policy)
    trace: list[Tensor] = []  # with it every layer sees all rows, so that a mask is found
    embeddings = _random(policy, random, 1, layout.length)
    hidden = policy.model.decode(embeddings, layout, build_pruner('dense'), trace)[0]
    return (
        check_weights(policy),  # first: what is not finite fails the others as well
        check_norms(policy),
        check_statistics(policy),
        check_tokenizer(policy),
        probe_rope(policy),
        probe_sequence(policy),
        _probe_attention(policy, layout, embeddings, hidden, random),
        _probe_readout(policy, layout, hidden, trace[-1]),
        check_dry_run(policy, dry or policy.warm_up()),
    )


def require_sound(policy: Policy, dry: Inference | None = None) -> None:
    for found in probe_policy(policy, dry):
        if not found.ok:
            raise CheckpointError(
                f'{policy.checkpoint} fails the check of its {found.name} ({found.reason})',
                f'see all checks with vla-prune check {policy.checkpoint}',
            )


def check_norms(policy: Policy) -> Finding:
    """Meta's Llama-2 has 1e-5; the published ``config.json`` leaves it out, which means 1e-6."""
    count, wrong = 0, []
    for name, module in policy.model.named_modules():
        if not isinstance(module, LlamaRMSNorm | nn.LayerNorm):
            continue
        eps = module.variance_epsilon if isinstance(module, LlamaRMSNorm) else module.eps
        expected = HEAD_EPS if name.startswith('action_head') else BACKBONE_EPS
        count += 1
        if eps != expected:
            wrong.append(f'{name} has {eps:g}, expected {expected:g}')
    value = f'{count - len(wrong)} of {count} as published'
    return finding('norm eps', value, next(iter(wrong), ''), 'take the published config.json')


def check_statistics(policy: Policy) -> Finding:
    statistics, profile = policy.statistics, policy.profile
    wrong = _limits('action', statistics.action, profile.action_dim)
    sizes = f'{profile.action_dim} action'
    if statistics.proprio is not None:
        wrong = wrong or _limits('proprio', statistics.proprio, profile.proprio_dim)
        sizes += f' and {profile.proprio_dim} proprio'
    wrong = wrong and f'{statistics.key}: {wrong}'
    value = f'{statistics.key!r}: {sizes} limits'
    return finding('statistics', value, wrong, 'fetch dataset_statistics.json again')


def _limits(what: str, bounds: Bounds, length: int) -> str:
    low, high, mask = bounds.low, bounds.high, bounds.mask
    if not len(low) == len(high) == len(mask) == length:
        return f'{what} has {len(low)} limits, the profile {length}'
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return f'{what} limits are not finite'
    if not mask.any():
        return f'the mask of {what} scales nothing'
    bad = np.flatnonzero(mask & ~(low < high))
    return f'{what} {bad[0]}: {low[bad[0]]:g} is not below {high[bad[0]]:g}' if len(bad) else ''


def check_weights(policy: Policy) -> Finding:
    tensors = dict(chain(policy.model.named_parameters(), policy.model.named_buffers()))
    bad = [
        f'{name} holds values that are not finite'
        for name, tensor in tensors.items()
        # A sum needs no mask as large as the weights.
        if tensor.is_floating_point() and not torch.isfinite(tensor.detach().sum())
    ]
    value = 'not finite' if bad else f'{len(tensors)} tensors are finite'
    return finding('weights', value, next(iter(bad), ''), 'fetch the weights again')


def check_tokenizer(policy: Policy) -> Finding:
    """The prompt's fixed ids are Llama-2's, and ``tokenizer.model`` is the published file. Of a
    stand-in (``vla-prune make-checkpoint``) only BOS and the closing space are checked."""
    path, vocabulary = policy.tokenizer.path, policy.model.size.text.vocab_size
    ids = policy.tokenizer(PROMPT)
    standin = (path.parent / UNTRAINED_NOTE).is_file()  # make-checkpoint wrote both
    digest = tokenizer_hash(path)
    prefix, suffix = ids[: len(PREFIX_IDS)], ids[-len(SUFFIX_IDS) :]
    wrong = ''
    if ids[0] != BOS_ID or ids.count(BOS_ID) != 1 or ids[-1] != SPACE_ID:
        wrong = f'the prompt is {ids[:2]} ... {ids[-2:]}, expected one {BOS_ID} ... {SPACE_ID}'
    elif max(ids) >= vocabulary:
        wrong = f'id {max(ids)} is beyond the {vocabulary} rows of the embedding table'
    elif not standin and prefix != PREFIX_IDS:
        wrong = f'fixed ids of the prompt are {prefix}, expected {PREFIX_IDS}'
    elif not standin and suffix != SUFFIX_IDS:
        wrong = f'fixed ids of the prompt are {suffix}, expected {SUFFIX_IDS}'
    elif digest not in ('', LLAMA2_SHA256):
        wrong = f"tokenizer.model has SHA-256 {digest[:12]}..., which is not Llama-2's"
    value = 'stand-in, not Llama-2' if standin else 'Llama-2' if digest else 'Llama-2 by its ids'
    remedy = 'copy the tokenizer files of openvla/openvla-7b'
    return finding('tokenizer', value if not wrong else 'another', wrong, remedy)


def tokenizer_hash(path: Path) -> str:
    """SHA-256 of ``tokenizer.model`` beside a tokenizer's file (or itself), empty without one."""
    model = path if path.suffix == '.model' else path.parent / 'tokenizer.model'
    return hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else ''


def check_dry_run(policy: Policy, dry: Inference) -> Finding:
    profile = policy.profile
    largest = float(np.abs(dry.normalized).max())
    wrong = ''
    if dry.actions.shape != (profile.chunk, profile.action_dim):
        wrong = f'the chunk is {dry.actions.shape}, not {(profile.chunk, profile.action_dim)}'
    elif not (np.isfinite(dry.normalized).all() and np.isfinite(dry.actions).all()):
        wrong = 'actions on grey frames are not finite'
    elif largest > PLAUSIBLE:
        wrong = f'a normalised action on grey frames is {largest:.3g}, beyond {PLAUSIBLE:g}'
    remedy = 'weights, head and profile may be of different checkpoints'
    return finding('dry run', f'largest normalised action {largest:.2f}', wrong, remedy)


def probe_sequence(policy: Policy) -> Finding:
    """The decoder's input is ``[BOS | visual | state | time | prompt | slots | stop]``."""
    model, layout = policy.model, _layout(policy)
    random = torch.Generator().manual_seed(1)
    ids = torch.tensor([policy.tokenizer(PROMPT)], device=policy.device)
    visual = _random(policy, random, 1, layout.visual)
    noisy = None
    if layout.time:
        shape = (1, policy.profile.chunk, policy.profile.action_dim)
        noisy = torch.randn(shape, generator=random).to(policy.device)
    state = None
    if model.proprio_projector is not None:
        state = torch.randn(1, model.size.proprio_dim, generator=random)
        state = state.to(policy.device, policy.dtype)
    x = model.embed(visual, ids, state, layout, noisy=noisy)

    # The parts, counted from both ends, and what must stand there.
    table = model.language_model.model.embed_tokens
    first, stop = 1 + layout.visual, x.shape[1] - 1
    slots = stop - layout.slots
    prompt = x[:, slots - ids.shape[1] + 1 : slots]
    parts = [
        ('BOS is not first', x[:, 0], table(ids[:, 0])),
        ('visual tokens do not follow BOS', x[:, 1:first], visual),
        ('the prompt is not before the slots', prompt, table(ids)[:, 1:]),
        ('</s> is not last', x[:, stop], table(torch.full_like(ids[:, 0], STOP_ID))),
    ]
    if state is not None:
        token = model.proprio_projector(state)
        parts.append(('the state does not follow the images', x[:, first : first + 1], token))
    if noisy is None:
        parts.append(('slots are not zero', x[:, slots:stop], torch.zeros_like(x[:, slots:stop])))
    wrong = next((what for what, got, want in parts if not torch.allclose(got, want)), '')
    remedy = 'another program has changed the model, load it unchanged'
    return finding('sequence', 'another order' if wrong else 'as published', wrong, remedy)


def _probe_attention(
    policy: Policy, layout: Layout, embeddings: Tensor, hidden: Tensor, random: torch.Generator
) -> Finding:
    """Another last slot changes every row that is read: attention looks forward, too."""
    other = embeddings.clone()
    other[:, -2] = _random(policy, random, 1)
    changed = policy.model.decode(other, layout, build_pruner('dense'), [])[0]
    change = _rms(changed - hidden) / _rms(hidden).mean()
    least = float(change.min())
    wrong = ''
    if not least > LEAST_CHANGE:  # also where it is NaN
        wrong = (
            f'row {int(change.argmin())} does not see the last slot (change {least:.2g}): '
            'attention is causal or masked'
        )
    remedy = 'use an unchanged torch and transformers'
    return finding('attention', f'bidirectional, least change {least:.2g}', wrong, remedy)


def _probe_readout(policy: Policy, layout: Layout, hidden: Tensor, stream: Tensor) -> Finding:
    """The head's rows are the positions one before each slot, next-token style."""
    full = policy.model.language_model.model.norm(stream)
    first = full.shape[1] - layout.slots - 2  # h[:, -(A + 2):-2]
    gaps = {
        shift: float(_rms(hidden - full[:, first + shift :][:, : layout.slots]).max())
        for shift in (0, -1, 1, -2, 2)
    }
    scale = float(_rms(full).mean())
    best = min(gaps, key=lambda shift: gaps[shift])
    wrong = ''
    if not (best == 0 and gaps[0] < SAME_ROW * scale):
        where = f'{best:+d} from' if best else 'unlike'
        wrong = f'hidden states are read at positions {where} the published ones'
    value = 'shifted' if wrong else 'one position before each slot'
    return finding('read-out', value, wrong, 'load the model unchanged')


def probe_rope(policy: Policy) -> Finding:
    """Rotary angles against float64: frequencies rounded to bfloat16 are a whole radian off."""
    config = policy.model.language_model.model.config
    dim = config.head_dim
    position = torch.tensor([ROPE_POSITION], device=policy.device)
    theta = config.rope_parameters['rope_theta']
    cos, sin = (t[0, 0].double().cpu() for t in language.rope(position, dim, theta, torch.float32))
    angles = [ROPE_POSITION * ROPE_THETA ** (-2 * i / dim) for i in range(dim // 2)] * 2
    gap = max(
        max(abs(c - math.cos(a)), abs(s - math.sin(a)))
        for c, s, a in zip(cos.tolist(), sin.tolist(), angles, strict=True)
    )
    good = gap < ROPE_TOLERANCE  # False where it is NaN, too
    off = f'rotary angles at position {ROPE_POSITION} are {gap:.2g} off (theta {theta:g})'
    remedy = 'keep their frequencies in float32 and theta at 10000'
    value = f'float32, {gap:.1g} off at {ROPE_POSITION}'
    return finding('rotary angles', value, '' if good else off, remedy)


def _layout(policy: Policy) -> Layout:
    profile, prompt = policy.profile, len(policy.tokenizer(PROMPT))
    layout = policy.model.layout(profile.cameras, prompt, profile.chunk)
    return replace(layout, patches=PATCHES)


def _random(policy: Policy, random: torch.Generator, *rows: int) -> Tensor:
    width = policy.model.size.text.hidden_size
    return (0.02 * torch.randn(*rows, width, generator=random)).to(policy.device, policy.dtype)


def _rms(x: Tensor) -> Tensor:
    return x[0].float().square().mean(dim=-1).sqrt()
