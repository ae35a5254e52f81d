"""docs/interface.md against running nodes: the script that makes it, and the keys of messages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip('rclpy', reason='no ROS 2 distribution and no ros-* wheels')

from rclpy.qos import ReliabilityPolicy

from vla_prune_ros.nodes.policy.pipeline import DIAGNOSTICS
from vla_prune_ros.records import InferenceRecord
from vla_prune_ros.runtime.messages import status_values

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'interface.md'
CAMERAS = ('primary', 'wrist')
STREAMS = (*CAMERAS, 'ee_pose', 'joint_states')


def test_the_page_is_what_the_script_prints():
    pytest.importorskip('rosbags', reason='needs the extra with rosbags')
    command = [sys.executable, ROOT / 'scripts' / 'interface.py']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=400)
    assert done.returncode == 0, done.stderr
    same = PAGE.read_text(encoding='utf-8') == done.stdout
    assert same, 'run: python scripts/interface.py > docs/interface.md'


def test_the_overrides_shown_on_the_page_reach_the_subscription(ros, micro, tmp_path):
    from rclpy.parameter import Parameter

    from vla_prune_ros.nodes.policy.node import PolicyNode

    block = re.search(r'```yaml\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)[1]
    (tmp_path / 'qos.yaml').write_text(block, encoding='utf-8')
    node = PolicyNode(
        cli_args=['--ros-args', '--params-file', str(tmp_path / 'qos.yaml')],
        parameter_overrides=[Parameter('checkpoint', value=str(micro))],
    )
    node.trigger_configure()
    qos = {s.topic_name: s.qos_profile for s in node.subscriptions}
    node.destroy_node()
    changed, same = (qos[f'/vla_policy/image/{c}'] for c in CAMERAS)
    assert (changed.reliability, changed.depth) == (ReliabilityPolicy.RELIABLE, 2)
    assert (same.reliability, same.depth) == (ReliabilityPolicy.BEST_EFFORT, 5)


def fits(key, template):
    """``age_primary_ms`` fits ``age_<stream>_ms``."""
    for mark, values in (('<stream>', STREAMS), ('<camera>', CAMERAS)):
        if mark in template:
            return key in {template.replace(mark, v) for v in values}
    open_end = {'lost_<reason>': 'lost_', 'pruning_<key>': 'pruning_'}.get(template)
    return key == template or (open_end is not None and key.startswith(open_end))


def test_keys_of_the_record_and_of_the_diagnostics_are_the_documented_ones(rig):
    robot = rig().bring_up().robot
    names = {f'vla_policy: {concern}' for concern in DIAGNOSTICS}

    def record():
        return status_values(robot.inferences[-1].status[0]) if robot.inferences else {}

    # The speed of the arm is known from the second pose on.
    robot.until(lambda: 'motion_linear_m_s' in record(), 'record')
    robot.until(lambda: names <= set(robot.diagnostics), 'diagnostics')
    keys, templates = set(record()), InferenceRecord.keys()
    assert not {k for k in keys if not any(fits(k, t) for t in templates)}
    missing = {t for t in templates if not any(fits(k, t) for k in keys)}
    # The dense policy has none of these.
    assert missing == {'pruning_<key>', 'pruning_reason', 'refresh_ms'}
    for concern, templates in DIAGNOSTICS.items():
        found = status_values(robot.diagnostics[f'vla_policy: {concern}'])
        assert not {k for k in found if not any(fits(k, t) for t in templates)}, concern
