"""Checks of a loaded policy that need no pass of the decoder: what is in its files and modules.

Constants: OpenVLA-OFT's published model, see :mod:`vla_prune_ros.engine.probes`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ..model.prompt import BOS_ID, SPACE_ID, build_prompt
from ..model.statistics import Bounds
from ..records import Inference
from .load import UNTRAINED_NOTE
from .policy import Policy

# 'In: What action should the robot take to' and '? \n Out :' as Llama-2 cuts them.
PREFIX_IDS = [1, 512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304]
SUFFIX_IDS = [29973, 13, 3744, 29901, 29871]
LLAMA2_SHA256 = '9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347'
BACKBONE_EPS, HEAD_EPS = 1e-6, 1e-5
# The heads have no squashing, but they were trained on targets in -1 ... 1.
PLAUSIBLE = 10.0


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    :param value: what was found, for a table.
    :param reason: what is wrong and what to do about it; empty where ``ok``.
    """

    name: str
    ok: bool
    value: str
    reason: str = ''


def finding(name: str, value: str, wrong: str = '') -> Finding:
    """A good one without ``wrong``, a bad one with."""
    return Finding(name, not wrong, value, wrong)


def check_norms(policy: Policy) -> Finding:
    """Epsilon 1e-6 in the decoder and in the towers, 1e-5 in the head.

    Meta's Llama-2 has 1e-5; the published ``config.json`` leaves the field out, which means 1e-6.
    """
    found = list(_epsilons(policy.model))
    wrong = [(name, eps, want) for name, eps, want in found if eps != want]
    said = ''
    if wrong:
        name, eps, want = wrong[0]
        said = f'{name} has {eps:g}, expected {want:g}; take the published config.json'
    return finding('norm eps', f'{len(found) - len(wrong)} of {len(found)} as published', said)


def _epsilons(model: nn.Module) -> Iterator[tuple[str, float, float]]:
    """Name, epsilon and expected epsilon of every norm."""
    for name, module in model.named_modules():
        if isinstance(module, LlamaRMSNorm):
            yield name, module.variance_epsilon, BACKBONE_EPS
        elif isinstance(module, nn.LayerNorm):
            yield name, module.eps, HEAD_EPS if name.startswith('action_head') else BACKBONE_EPS


def check_statistics(policy: Policy) -> Finding:
    """Lengths as the profile says, finite limits, low below high, something that is scaled."""
    statistics, profile = policy.statistics, policy.profile
    wrong = _limits('action', statistics.action, profile.action_dim)
    sizes = f'{profile.action_dim} action'
    if statistics.proprio is not None:
        wrong = wrong or _limits('proprio', statistics.proprio, profile.proprio_dim)
        sizes += f' and {profile.proprio_dim} proprio'
    said = f'{statistics.key}: {wrong}; fetch dataset_statistics.json again' if wrong else ''
    return finding('statistics', f'{statistics.key!r}: {sizes} limits', said)


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
    """No weight is infinite or NaN."""
    model = policy.model
    names, bad = 0, ''
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        names += 1
        bad = bad or ('' if _finite(tensor) else name)
    said = f'{bad} holds values that are not finite; fetch the weights again' if bad else ''
    return finding('weights', f'{names} tensors are finite' if not bad else 'not finite', said)


def _finite(tensor: Tensor) -> bool:
    """A sum is finite only where every term is; it makes no mask as large as the weights."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach().sum()))


def check_tokenizer(policy: Policy) -> Finding:
    """The prompt's fixed ids are Llama-2's, and ``tokenizer.model`` is the published file.

    A stand-in (``vla-prune make-checkpoint``) has pieces of its own; it is named as one, and only
    BOS and the closing space are looked at.
    """
    path = policy.tokenizer.path
    ids = policy.tokenizer(build_prompt('pick up the red cube'))
    standin = (path.parent / UNTRAINED_NOTE).is_file()  # make-checkpoint wrote both
    digest = tokenizer_hash(path)
    wrong = _framed(ids, policy.model.size.text.vocab_size) or ('' if standin else _llama2(ids))
    if digest not in ('', LLAMA2_SHA256):
        wrong = wrong or f"tokenizer.model has SHA-256 {digest[:12]}..., which is not Llama-2's"
    value = 'stand-in, not Llama-2' if standin else 'Llama-2' if digest else 'Llama-2 by its ids'
    said = f'{wrong}; copy the tokenizer files of openvla/openvla-7b' if wrong else ''
    return finding('tokenizer', value if not wrong else 'another', said)


def tokenizer_hash(path: Path) -> str:
    """SHA-256 of ``tokenizer.model`` beside a tokenizer's file (or itself), empty without one."""
    model = path if path.suffix == '.model' else path.parent / 'tokenizer.model'
    return hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else ''


def _framed(ids: list[int], vocabulary: int) -> str:
    if ids[0] != BOS_ID or ids.count(BOS_ID) != 1 or ids[-1] != SPACE_ID:
        return f'the prompt is {ids[:2]} ... {ids[-2:]}, expected one {BOS_ID} ... {SPACE_ID}'
    if max(ids) >= vocabulary:
        return f'id {max(ids)} is beyond the {vocabulary} rows of the embedding table'
    return ''


def _llama2(ids: list[int]) -> str:
    for got, want in ((ids[: len(PREFIX_IDS)], PREFIX_IDS), (ids[-len(SUFFIX_IDS) :], SUFFIX_IDS)):
        if got != want:
            return f'fixed ids of the prompt are {got}, expected {want}'
    return ''


def check_dry_run(policy: Policy, dry: Inference) -> Finding:
    """Grey frames give a finite chunk of the right shape and within what heads are trained on."""
    profile = policy.profile
    largest = float(np.abs(dry.normalized).max())
    wrong = ''
    if dry.actions.shape != (profile.chunk, profile.action_dim):
        wrong = f'the chunk is {dry.actions.shape}, not {(profile.chunk, profile.action_dim)}'
    elif not (np.isfinite(dry.normalized).all() and np.isfinite(dry.actions).all()):
        wrong = 'actions on grey frames are not finite'
    elif largest > PLAUSIBLE:
        wrong = f'a normalised action on grey frames is {largest:.3g}, beyond {PLAUSIBLE:g}'
    said = f'{wrong}; weights, head and profile may be of different checkpoints' if wrong else ''
    return finding('dry run', f'largest normalised action {largest:.2f}', said)
