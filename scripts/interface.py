#!/usr/bin/env python3
"""Prints docs/interface.md: starts the nodes and lists the records that they used.

python scripts/interface.py > docs/interface.md
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'OFF'

import jinja2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from vla_prune_ros.bags.reader import IMAGE_TYPES
from vla_prune_ros.bags.topics import STREAMS
from vla_prune_ros.model.synthetic import make_checkpoint
from vla_prune_ros.nodes import executor
from vla_prune_ros.nodes.interface import Service, Topic
from vla_prune_ros.nodes.policy import node as policy
from vla_prune_ros.nodes.policy import pipeline
from vla_prune_ros.nodes.simulator import SimulatorNode, SimulatorParams
from vla_prune_ros.nodes.tools.bag_interface import CLOCK, BagPlayerParams, advertise
from vla_prune_ros.profiles import DELTA_POSE_NAMES, LIBERO
from vla_prune_ros.records import InferenceRecord
from vla_prune_ros.sim.scene import Scene, SceneState

KINDS = {bool: 'bool', int: 'integer', float: 'double', str: 'string'}  # names of ROS
TEMPLATE = Path(__file__).resolve().parents[1] / 'docs' / 'interface.md.j2'
NODES = {
    'vla_policy': policy.PolicyParams,
    'chunk_executor': executor.ExecutorParams,
    'simulator': SimulatorParams,
    'bag_player': BagPlayerParams,
}

used: dict[tuple[str, str], list[Any]] = defaultdict(list)
"""(node, 'publishes', 'subscribes' or 'serves') -> records, in the order of their use."""


def record(kind: type, method: str, verb: str) -> None:
    """From now on ``kind.method(node, ...)`` is noted, for each record once."""
    create = getattr(kind, method)

    def noted(self: Any, node: Node, *args: Any, **names: Any) -> Any:
        rows = used[node.get_name(), verb]
        if self not in rows:
            rows.append(self)
        return create(self, node, *args, **names)

    setattr(kind, method, noted)


class EmptyScene(Scene):
    """As much of a scene as the simulator node asks for before its first step."""

    control_hz, cameras, time_s = 20.0, LIBERO.cameras, 0.0
    instruction = description = 'none'

    def reset(self, seed: int) -> None:
        pass

    def step(self, action: np.ndarray) -> None:
        pass

    def images(self) -> dict[str, np.ndarray]:
        return {}

    def state(self) -> SceneState:
        upright = np.array([0.0, 0.0, 0.0, 1.0])
        return SceneState(np.zeros(3), upright, (), np.zeros(0), np.zeros(0))

    def success(self) -> bool:
        return False


def start_nodes() -> None:
    for kind, method, verb in (
        (Topic, 'publisher', 'publishes'),
        (Topic, 'lifecycle_publisher', 'publishes'),
        (Topic, 'subscription', 'subscribes'),
        (Service, 'serve', 'serves'),
    ):
        record(kind, method, verb)
    rclpy.init()
    executor.ExecutorNode()
    SimulatorNode(lambda params: EmptyScene())
    streams = {f'/{s}': s for s in ('primary', *STREAMS)}
    for images in IMAGE_TYPES:
        types = {f'/{s}': kind for s, kind in STREAMS.items()} | {'/primary': images}
        player = Node('bag_player')
        advertise(player, BagPlayerParams(), streams, types)
        CLOCK.publisher(player)
    other = {'image_transport': 'compressed', 'motion_source': 'joint_velocities', 'ee_link': 'x'}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(make_checkpoint(Path(folder), 'micro'))
        for values in ({}, other):
            values = {'checkpoint': checkpoint, **values}
            overrides = [Parameter(name, value=value) for name, value in values.items()]
            node = policy.PolicyNode(parameter_overrides=overrides)
            node.trigger_configure()
            node.destroy_node()


def type_name(kind: Any) -> str:
    """``sensor_msgs/msg/Image`` of a message or service class."""
    package, group = kind.__module__.split('.')[:2]
    return f'{package}/{group}/{kind.__name__}'


def qos_text(qos: QoSProfile) -> str:
    """For example ``reliable, transient local, 1``; the number is the depth."""
    reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    words = ['reliable' if reliable else 'best effort']
    if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        words.append('transient local')
    return ', '.join([*words, str(qos.depth)])


def parameter(f: Field, hint: Any) -> tuple[str, ...]:
    """Name, type, default, allowed values, live, meaning."""
    meta = f.metadata
    allowed = ', '.join(map(str, meta['choices']))
    if meta['low'] is not None:
        allowed = f'{meta["low"]:g} ... {meta["high"]:g}'
    default = f.default_factory() if f.default is MISSING else f.default
    default = list(default) if isinstance(default, tuple) else default
    shown = json.dumps(default).replace('"', '') or "''"
    several = get_origin(hint) is tuple
    kind = KINDS[get_args(hint)[0] if several else hint] + ' array' * several
    return f'`{f.name}`', kind, f'`{shown}`', allowed, 'yes' if meta['live'] else '', meta['doc']


def node_tables(name: str) -> dict[str, Any]:
    def topics(verb: str) -> list[tuple[str, ...]]:
        rows = used[name, verb]
        return [(f'`{t.name}`', type_name(t.kind), qos_text(t.qos), t.doc) for t in rows]

    hints = get_type_hints(NODES[name])
    return {
        'subscribes': topics('subscribes'),
        'publishes': topics('publishes'),
        'services': [(f'`{s.name}`', type_name(s.kind), s.doc) for s in used[name, 'serves']],
        'parameters': [parameter(f, hints[f.name]) for f in fields(NODES[name])],
    }


def table(rows: Any, *heads: str) -> str:
    lines = [heads, ('---',) * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def words(rows: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(f'`{word}`', *rest) for word, rest in rows.items()]


def main() -> None:
    start_nodes()
    diagnostics = {
        f'`{node}: {concern}`': (', '.join(f'`{key}`' for key in keys),)
        for node, module in (('vla_policy', pipeline), ('chunk_executor', executor))
        for concern, keys in module.DIAGNOSTICS.items()
    }
    template = jinja2.Template(
        TEMPLATE.read_text(encoding='utf-8'),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    page = template.render(
        nodes={name: node_tables(name) for name in NODES},
        states={
            'vla_policy': words(policy.STATES),
            'chunk_executor': words(executor.STATES),
        },
        inference=words(InferenceRecord.keys()),
        diagnostics=[(name, *keys) for name, keys in diagnostics.items()],
        joint_names=', '.join(DELTA_POSE_NAMES),
        table=table,
    )
    sys.stdout.write(page)
    sys.stdout.flush()
    os._exit(0)  # nobody waits for nodes that only were looked at


if __name__ == '__main__':
    main()
