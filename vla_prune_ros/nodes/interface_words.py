"""Words and keys that the nodes say, with their meaning: :mod:`.interface_doc` prints them.

A test compares them with what running nodes publish and with the words in their sources.
"""

STATES: dict[str, dict[str, tuple[str, str]]] = {
    'vla_policy': {
        'UNCONFIGURED': ('OK or ERROR', 'No model. With ERROR: why `configure` failed.'),
        'LOADING': ('OK', 'Reading the checkpoint, then one query to warm up.'),
        'INACTIVE': ('OK', 'Loaded; no chunk leaves before `activate`.'),
        'WAITING': ('WARN', 'An input is missing or stale, or there is no instruction.'),
        'RUNNING': ('OK', 'Chunks go out.'),
        'LATE': ('WARN', 'Chunks come out after their last step was due.'),
        'REFUSED': ('WARN', 'The last message, query or chunk was not usable; it tries on.'),
        'STOPPED': ('OK', '`~/stop` was called, or `~/start` not yet.'),
        'TIMEOUT': ('ERROR', 'A query runs longer than `inference_timeout_s`.'),
        'FAULT': ('ERROR', '`max_faults` failures in a row; only `~/reset` ends it.'),
        'FINALIZED': ('OK', 'Shut down.'),
    },
    'chunk_executor': {
        'DISARMED': ('OK', 'Nothing is sent before `~/arm`.'),
        'MOVING': ('OK', 'A step of the chunk is due now.'),
        'HOLDING': (
            'WARN or OK',
            'Armed without a due step: zero commands, then silence. OK where time waits for one.',
        ),
        'REFUSED': ('ERROR', 'The last chunk was refused; the reason says why.'),
    },
}
"""Node -> state word -> (level, meaning)."""

CHUNK_FIELDS: dict[str, str] = {
    'header.stamp': 'Stamp of the newest image; path, overlays and record of the query share it.',
    'header.frame_id': 'Parameter `frame_id`: the frame of the deltas.',
    'joint_names': '`{names}`',
    'points[i].positions': 'Step i: translation in m, rotation vector in rad applied from the '
    'left, both along the axes of the frame; gripper 0 closed ... 1 open.',
    'points[i].velocities': 'The deltas divided by the control period, m/s and rad/s; gripper 0.',
    'points[i].time_from_start': '(i + 1) control periods: step i is complete at the stamp plus '
    'this time.',
}
"""Field of ``~/action_chunk`` -> meaning."""

INFERENCE: dict[str, tuple[str, str]] = {
    'node_pairing_ms': ('ms', 'Finding the newest complete pair.'),
    'node_queue_ms': ('ms', 'Waiting for the query before; not part of the overhead.'),
    'node_decode_ms': ('ms', 'Image messages to RGB arrays.'),
    'node_state_ms': ('ms', 'Pose and joints to the state vector.'),
    'node_guard_ms': ('ms', 'Units, limits and finiteness of the actions.'),
    'node_publish_ms': ('ms', 'The chunk message.'),
    'node_report_ms': ('ms', 'Record, path and overlays of the query before.'),
    'policy_preprocess_ms': ('ms', 'JPEG round trip, resize, crop, state.'),
    'policy_vision_ms': ('ms', 'Both towers and the projector.'),
    'policy_selection_ms': ('ms', 'All work of the pruning method, wherever it happens.'),
    'policy_language_ms': ('ms', 'Language model without that.'),
    'policy_head_ms': ('ms', 'Action head and un-normalisation.'),
    'policy_total_ms': ('ms', 'The whole query inside the policy.'),
    'overhead_ms': ('ms', 'All `node_` stages but the queue.'),
    'stamp_to_chunk_ms': ('ms', 'ROS time from the newest image to the published chunk.'),
    'skew_ms': ('ms', 'Newest minus oldest image stamp of the pair.'),
    'age_<stream>_ms': ('ms', 'ROS time minus header stamp when the pair was made.'),
    'early_cameras': (
        '1',
        'Cameras whose frames the towers saw before the rest of the pair came.',
    ),
    'visual_tokens': ('1', 'Visual tokens that reached the last layer, all cameras.'),
    'kept_<camera>': ('1', 'The same for one camera, of 256.'),
    'mode': ('word', '`dense`, `coarse` or `fine`.'),
    'steps': ('1', 'Steps of the chunk.'),
    'motion': ('word', 'What the speed of the end effector came from, or `unknown`.'),
    'motion_linear_m_s': ('m/s', 'That speed; left out while it is unknown, like the next two.'),
    'motion_angular_rad_s': ('rad/s', 'The same of rotation.'),
    'motion_vertical_m_s': ('m/s', "Along the base's z, negative while descending."),
    'pruning_<key>': ('any', 'What the method says of itself, for example `pruning_reason`.'),
    'refresh_ms': ('ms', 'Refresh of the pruning memory behind the chunk before, where one ran.'),
    'scaled_steps': ('1', 'Steps that were scaled down to a limit.'),
    'largest_step_m': ('m', 'Largest translation before scaling.'),
    'largest_step_rad': ('rad', 'Largest rotation before scaling.'),
    'prompt': ('text', 'What was tokenised, line breaks as blanks.'),
}
"""Key of ``~/inference`` -> (unit, meaning).

``<stream>`` is a camera, ee_pose or joint_states; ``<key>`` is the pruning method's.
"""

DIAGNOSTICS: dict[str, tuple[str, ...]] = {
    'vla_policy: inputs': ('<stream>_rate_hz', '<stream>_received', 'lost_<reason>'),
    'vla_policy: inference': (
        'chunks',
        'faults_in_a_row',
        'busy_s',
        'replaced_jobs',
        'discarded_jobs',
    ),
    'vla_policy: pruning': (
        'method',
        'motion_source',
        'mode',
        'reason',
        'motion',
        'motion_why',
        'visual_tokens',
        'refresh_ms',
    ),
    'vla_policy: safety': ('other_chunk_publishers',),
    'chunk_executor: execution': (
        'armed',
        'loaded',
        'refused',
        'time_jump',
        'executed',
        'skipped',
        'superseded',
        'commands',
    ),
    'chunk_executor: safety': (),
}
"""Status of ``/diagnostics`` -> its keys; counters appear with their first count."""
