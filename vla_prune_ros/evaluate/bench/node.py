"""The node benchmark's verdict and table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from ..machine import machine
from ..summary import stage_label, stage_quantiles

TARGET_MS = 5.0
ARRIVED = 0.97  # of the asked rate: a slower publisher must not pass as a good transport


def node_result(
    records: Sequence[Mapping[str, str]],
    asked_hz: float,
    sent_hz: Mapping[str, float],
    received_hz: Mapping[str, float],
    transport_profile: bool,
) -> dict[str, Any]:
    """Quantiles of all stages and the verdict: overhead p50 below 5 ms, and all images arrive."""
    stages = stage_quantiles(records)
    arrived = all(rate >= ARRIVED * asked_hz for rate in received_hz.values())
    return {
        'ok': stages['overhead'].p50 < TARGET_MS and arrived,
        'queries': len(records),
        'asked_hz': asked_hz,
        'sent_hz': dict(sent_hz),
        'received_hz': dict(received_hz),
        'overhead_ms': asdict(stages['overhead']),
        'target_ms': TARGET_MS,
        'stages_ms': {n: asdict(q) for n, q in stages.items()},
        'transport_profile': transport_profile,
        'machine': machine(),
    }


def node_table(result: Mapping[str, Any]) -> Table:
    """The node's stages, the policy for comparison, and how old the images were when used."""
    where = f'{result["machine"]["cpu"]}, {result["machine"]["cores"]} cores'
    table = Table(
        title=f'node overhead on {where}: {result["queries"]} queries', title_justify='left'
    )
    for name in ('ms', 'p50', 'p95'):
        table.add_column(name, justify='left' if name == 'ms' else 'right')
    for name, q in result['stages_ms'].items():
        if name.startswith('node_'):
            table.add_row(stage_label(name), f'{q["p50"]:.2f}', f'{q["p95"]:.2f}')
    table.add_section()
    for name in ('overhead', 'policy_total', 'age_primary', 'age_wrist'):
        q = result['stages_ms'][name]
        style = 'bold' if name == 'overhead' else ''
        table.add_row(stage_label(name), f'{q["p50"]:.2f}', f'{q["p95"]:.2f}', style=style)
    return table


def node_verdict(result: Mapping[str, Any]) -> str:
    """Rates sent and received, and whether the target is met, as text lines."""
    rates = ', '.join(
        f'{c} {result["sent_hz"][c]:.1f} -> {result["received_hz"][c]:.1f}'
        for c in result['sent_hz']
    )
    return (
        f'640x480 images per second, sent -> received: {rates}\n'
        f'target: overhead p50 below {TARGET_MS:g} ms and all images received: '
        f'{"met" if result["ok"] else "MISSED"}'
    )
