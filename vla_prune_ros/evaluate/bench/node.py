"""``vla-prune bench --node``: the verdict over what the node reported of its queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..demo import stage_percentiles
from ..machine import machine

TARGET_MS = 5.0
ARRIVED = 0.97  # of the asked rate: a slower publisher must not pass as a good transport


@dataclass(frozen=True, kw_only=True)
class NodeBench:
    ok: bool
    queries: int
    asked_hz: float
    sent_hz: dict[str, float]
    received_hz: dict[str, float]
    overhead_ms: dict[str, float]
    target_ms: float
    stages_ms: dict[str, dict[str, float]]
    transport_profile: bool
    machine: dict[str, Any]


def node_result(
    records: Sequence[Mapping[str, str]],
    *,
    asked_hz: float,
    sent_hz: Mapping[str, float],
    received_hz: Mapping[str, float],
    transport_profile: bool,
) -> NodeBench:
    stages = stage_percentiles(records)
    arrived = all(rate >= ARRIVED * asked_hz for rate in received_hz.values())
    return NodeBench(
        ok=stages['overhead']['p50'] < TARGET_MS and arrived,
        queries=len(records),
        asked_hz=asked_hz,
        sent_hz=dict(sent_hz),
        received_hz=dict(received_hz),
        overhead_ms=stages['overhead'],
        target_ms=TARGET_MS,
        stages_ms=stages,
        transport_profile=transport_profile,
        machine=machine(),
    )
