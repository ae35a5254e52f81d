"""``vla-prune check``: what a checkpoint holds, and whether this package runs it as published."""

from dataclasses import dataclass
from itertools import chain
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
    ok: bool
    failed: int
    found: dict[str, str]  # what the checkpoint holds
    checks: list[Finding]
    weights_gb: dict[str, float]  # dtype -> 1e9 bytes


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
    count = policy.describe()['parameters']
    tensors = chain(policy.model.parameters(), policy.model.buffers())
    loaded = sum(t.numel() * t.element_size() for t in tensors)
    sizes = {'float32': 4 * count, 'bfloat16': 2 * count, options.dtype: loaded}
    return CheckResult(
        ok=all(check.ok for check in checks),
        failed=sum(not check.ok for check in checks),
        found=_found(policy),
        checks=checks,
        weights_gb={name: size / 1e9 for name, size in sizes.items()},
    )


def check_pixels(policy: Policy) -> Finding:
    """The file's constants: ImageNet's rounded to bfloat16 for DINOv2, and 0.5 for SigLIP."""
    path = policy.checkpoint / PIXELS
    if not path.is_file():
        return finding('pixel constants', f'no {PIXELS}, the published ones are used')
    config = read_json(path)
    ours = {'means': (DINO_MEAN, SIGLIP_MEAN), 'stds': (DINO_STD, SIGLIP_STD)}
    for name, values in ours.items():
        if name in config and not _close(config[name], values):
            problem = f'{PIXELS}: {name} is {config[name]}, this package uses {values}'
            remedy = 'fetch the file of the published checkpoint'
            return finding('pixel constants', 'others', problem, remedy)
    return finding('pixel constants', 'as published')


def _close(got: Any, want: Any) -> bool:
    try:
        return bool(np.allclose(np.asarray(got, float), want, rtol=0, atol=1e-6))
    except (TypeError, ValueError):
        return False


def _found(policy: Policy) -> dict[str, str]:
    about, profile, size = policy.describe(), policy.profile, policy.model.size
    keys = sorted(read_json(policy.checkpoint / 'dataset_statistics.json'))
    found = {
        'checkpoint': str(policy.checkpoint),
        'parameters': f'{about["parameters"]:,} in use, {about["dtype"]} on {about["device"]}',
        'tensors': _tensors(policy),
        'language model': f'{size.text.num_hidden_layers} layers, width {size.text.hidden_size}',
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


def _tensors(policy: Policy) -> str:
    there = set()
    for file in weight_files(policy.checkpoint):
        with safe_open(file, 'pt') as shard:
            there.update(shard.keys())
    published = set(published_shapes(policy.model.size))
    lacking = len(published - there)
    unused = f'; the other {lacking} are not needed' if lacking else ''
    return f'{len(published & there)} of {len(published)} published ones{unused}'


def check_report(result: CheckResult) -> tuple[Table, str]:
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
    failed = f'{result.failed} of {len(result.checks)} checks failed'
    return table, 'OK' if result.ok else failed
