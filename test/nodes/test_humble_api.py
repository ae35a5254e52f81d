"""What nodes/ uses of rclpy exists in Humble, the oldest distribution that is supported.

The lists below were written from rclpy's own record of versions, ``rclpy/CHANGELOG.rst`` of
ros2/rclpy on the branch humble (3.3.15): for example managed nodes (3.2.0),
``signal_handler_options`` (3.1.0) and ``wait_for_all_acked`` (3.1.0).
"""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREES = {
    path.name: list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))
    for path in sorted((ROOT / 'vla_prune_ros' / 'nodes').rglob('*.py'))
}
OWN = {n.name for nodes in TREES.values() for n in nodes if hasattr(n, 'name')}

# Module -> names that can be imported from it in Humble; only what is used or likely to be.
MODULES = {
    'rclpy': {'init', 'ok', 'shutdown', 'try_shutdown', 'create_node', 'spin', 'spin_once'},
    'rclpy.clock': {'Clock', 'ClockType', 'JumpThreshold'},
    'rclpy.duration': {'Duration'},
    'rclpy.executors': {'ExternalShutdownException', 'SingleThreadedExecutor'},
    'rclpy.lifecycle': {'LifecycleNode', 'LifecycleState', 'TransitionCallbackReturn'},
    'rclpy.node': {'Node'},
    'rclpy.parameter': {'Parameter'},
    'rclpy.publisher': {'Publisher'},
    'rclpy.qos': {'DurabilityPolicy', 'QoSPolicyKind', 'QoSProfile', 'ReliabilityPolicy'},
    'rclpy.qos_overriding_options': {'QoSOverridingOptions'},
    'rclpy.signals': {'SignalHandlerOptions'},
    'rclpy.time': {'Time'},
}
ENDPOINT = {'callback_group', 'event_callbacks', 'qos_overriding_options'}
LOG = {'throttle_duration_sec', 'throttle_time_source_type', 'skip_first', 'once'}
# Call -> keyword arguments that Humble takes; a call that is not here takes none.
KEYWORDS = {
    'init': {'args', 'context', 'domain_id', 'signal_handler_options'},
    'Clock': {'clock_type'},
    'Duration': {'seconds', 'nanoseconds'},
    'JumpThreshold': {'min_forward', 'min_backward', 'on_clock_change'},
    'Parameter': {'name', 'type_', 'value'},
    'QoSProfile': {'history', 'depth', 'reliability', 'durability', 'deadline', 'lifespan'},
    'SingleThreadedExecutor': {'context'},
    'create_jump_callback': {'pre_callback', 'post_callback'},
    'create_lifecycle_publisher': ENDPOINT,
    'create_publisher': ENDPOINT,
    'create_service': {'qos_profile', 'callback_group'},
    'create_subscription': {*ENDPOINT, 'raw'},
    'create_timer': {'callback_group', 'clock'},
    'spin_once': {'timeout_sec'},
    'with_default_policies': {'callback', 'entity_id'},
    'shutdown': {'timeout_sec'},
    **dict.fromkeys(('debug', 'info', 'warning', 'error', 'fatal'), LOG),
}
# Methods and attributes of Node and LifecycleNode, and of what they hand out.
MEMBERS = {
    *('add_on_set_parameters_callback', 'context', 'count_publishers', 'count_subscribers'),
    *('create_client', 'create_publisher', 'create_service', 'create_subscription'),
    *('create_timer', 'create_lifecycle_publisher', 'destroy_lifecycle_publisher'),
    *('declare_parameter', 'describe_parameter', 'destroy_client', 'destroy_node'),
    *('destroy_publisher', 'destroy_subscription', 'destroy_timer', 'get_clock', 'get_logger'),
    *('get_name', 'get_parameter', 'has_parameter', 'resolve_topic_name', 'set_parameters'),
    *('trigger_activate', 'trigger_cleanup', 'trigger_configure', 'trigger_deactivate'),
    *('trigger_shutdown', 'on_activate', 'on_cleanup', 'on_configure', 'on_deactivate'),
    *('on_shutdown', 'on_error'),
    *('get_subscription_count', 'topic_name', 'publish', 'wait_for_all_acked'),  # publishers
    *('call_async', 'service_is_ready', 'wait_for_service'),  # clients
    *('done', 'result', 'exception', 'add_done_callback'),  # futures
    *('add_node', 'remove_node', 'spin', 'spin_once', 'shutdown'),  # executors
    *('create_jump_callback', 'now', 'nanoseconds', 'to_msg'),  # clocks and times
    *('ok', 'try_shutdown', 'cancel', 'reset', 'destroy', 'is_canceled'),  # contexts, timers
    *('clock', 'timer_period_ns'),  # timers
    *('debug', 'info', 'warning', 'error', 'fatal'),  # loggers
    *('to_parameter_msg', 'value', 'type_', 'Type', 'name'),  # parameters
    'with_default_policies',
}
CLASSES = (
    *('node.Node', 'lifecycle.LifecycleNode', 'publisher.Publisher', 'subscription.Subscription'),
    *('client.Client', 'timer.Timer', 'context.Context', 'executors.SingleThreadedExecutor'),
    'impl.rcutils_logger.RcutilsLogger',
)


def attributes(name):
    return {node.attr for node in TREES[name] if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize('name', TREES)
def test_imports_functions_and_keywords_exist_in_humble(name):
    taken = (MEMBERS | {n for names in MODULES.values() for n in names}) - OWN
    for node in TREES[name]:
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'rclpy':
            assert {alias.name for alias in node.names} <= MODULES[node.module]
        elif isinstance(node, ast.Import):
            rclpy = {a.name for a in node.names if a.name.split('.')[0] == 'rclpy'}
            assert rclpy <= set(MODULES)
        elif isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') == 'rclpy':
            assert node.attr in MODULES['rclpy']
        elif isinstance(node, ast.Call):
            called = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            given = {k.arg for k in node.keywords} - {None}
            assert called not in taken or given <= KEYWORDS.get(called, set()), node.lineno


@pytest.mark.ros
def test_every_rclpy_member_in_use_is_on_the_list():
    """Names that rclpy's classes have and nodes/ uses, whoever the object in hand is."""
    pytest.importorskip('rclpy')
    members = set()
    for place in CLASSES:
        module, _, kind = place.rpartition('.')
        found = getattr(import_module(f'rclpy.{module}'), kind)
        members |= {n for n in dir(found) if n[0] != '_'}
    for name in TREES:
        used = (attributes(name) & members) - OWN - MODULES['rclpy']
        assert used <= MEMBERS, f'{name}: {sorted(used - MEMBERS)}'
