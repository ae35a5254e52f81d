"""``vla-prune check``: what a checkpoint holds, and whether this package runs it as published."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text
from safetensors import safe_open

from ..engine.load import load_policy
from ..engine.policy import Policy
from ..engine.self_check import Finding, finding, probe_policy, tokenizer_hash
from ..model.checkpoint import published_shapes
from ..model.files import Progress, read_json, weight_files
from ..model.images import DINO_MEAN, DINO_STD, SIGLIP_MEAN, SIGLIP_STD
from .options import CheckOptions

PIXELS = 'preprocessor_config.json'


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """``found``: what the checkpoint holds; ``weights_gb``: dtype -> 1e9 bytes."""

    ok: bool
    failed: int
    found: dict[str, str]
    checks: list[Finding]
    weights_gb: dict[str, float]


def check_checkpoint(options: CheckOptions, progress: Progress = lambda text: None) -> CheckResult:
    """:raises VlaPruneError: the checkpoint cannot be loaded."""
    policy = load_policy(
        options.checkpoint,
        options.profile,
        device=options.device,
        dtype=options.dtype,
        unnorm_key=options.unnorm_key,
        tokenizer=options.tokenizer,
        head=options.head,
        progress=progress,
    )
    progress('probing')
    checks = [check_pixels(policy), *probe_policy(policy)]
    failed = sum(not check.ok for check in checks)
    return CheckResult(
        ok=failed == 0,
        failed=failed,
        found=_found(policy),
        checks=checks,
        weights_gb=_weights_gb(policy, options.dtype),
    )


def check_pixels(policy: Policy) -> Finding:
    """The file's constants: ImageNet's rounded to bfloat16 for DINOv2, and 0.5 for SigLIP."""
    path = _folder(policy) / PIXELS
    if not path.is_file():
        return finding('pixel constants', f'no {PIXELS}, the published ones are used')
    config = read_json(path)
    ours = {'means': (DINO_MEAN, SIGLIP_MEAN), 'stds': (DINO_STD, SIGLIP_STD)}
    bad = [n for n, want in ours.items() if n in config and not _close(config[n], want)]
    problem = ''
    if bad:
        problem = (
            f'{PIXELS}: {bad[0]} is {config[bad[0]]}, this package uses {ours[bad[0]]}; fetch the '
            'file of the published checkpoint'
        )
    return finding('pixel constants', 'others' if bad else 'as published', problem)


def _close(got: Any, want: Any) -> bool:
    try:
        return bool(np.allclose(np.asarray(got, float), want, rtol=0, atol=1e-6))
    except (TypeError, ValueError):
        return False


def _found(policy: Policy) -> dict[str, str]:
    about, profile, size = policy.describe(), policy.profile, policy.model.size
    folder = _folder(policy)
    keys = sorted(read_json(folder / 'dataset_statistics.json'))
    text = size.text
    found = {
        'checkpoint': str(folder),
        'parameters': f'{about["parameters"]:,} in use, {about["dtype"]} on {about["device"]}',
        'tensors': _tensors(policy),
        'language model': f'{text.num_hidden_layers} layers, width {text.hidden_size}',
        'head': size.head,
        'cameras': f'{", ".join(profile.cameras)} (of the profile; the files do not tell)',
        'proprio': f'{size.proprio_dim} values' if size.proprio_dim else 'none',
        'FiLM': 'yes' if size.film else 'no',
        'chunk': f'{profile.chunk} steps x {profile.action_dim} ({profile.action_kind})',
        'statistics': f'{policy.statistics.key} of {", ".join(keys)}',
        'tokenizer': str(policy.tokenizer.path),
        'tokenizer.model': tokenizer_hash(policy.tokenizer.path) or 'none',
    }
    if about.get('note'):
        found['note'] = about['note']
    if policy.untrained:
        found['training'] = 'UNTRAINED random weights'
    return found


def _folder(policy: Policy) -> Path:
    return policy.checkpoint


def _tensors(policy: Policy) -> str:
    there = set()
    for file in weight_files(_folder(policy)):
        with safe_open(file, 'pt') as shard:
            there.update(shard.keys())
    published = set(published_shapes(policy.model.size))
    lacking = len(published - there)
    unused = f'; the other {lacking} are not needed' if lacking else ''
    return f'{len(published & there)} of {len(published)} published ones{unused}'


def _weights_gb(policy: Policy, dtype: str) -> dict[str, float]:
    tensors = chain(policy.model.parameters(), policy.model.buffers())
    count = policy.describe()['parameters']
    loaded = sum(t.numel() * t.element_size() for t in tensors)
    sizes = {'float32': 4 * count, 'bfloat16': 2 * count, dtype: loaded}
    return {name: size / 1e9 for name, size in sizes.items()}


def check_table(result: CheckResult) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for name, value in result.found.items():
        table.add_row(name, Text(value))
    sizes = ', '.join(f'{gb:.3g} GB in {name}' for name, gb in result.weights_gb.items())
    table.add_row('weights need', Text(f'{sizes}; activations come on top'))
    table.add_row('', '')
    for check in result.checks:
        verdict = ('OK', 'green') if check.ok else ('FAILED', 'bold red')
        text = check.value if check.ok else check.reason
        table.add_row(check.name, Text.assemble(verdict, f'  {text}'))
    return table


def check_verdict(result: CheckResult) -> str:
    if result.ok:
        return 'OK'
    return f'{result.failed} of {len(result.checks)} checks failed'
