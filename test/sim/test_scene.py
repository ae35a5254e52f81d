"""The conversion between twists and OSC_POSE actions.

Expected numbers: robosuite's ``osc_pose.json``, where 1.0 is 0.05 m or 0.5 rad per control step.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.sim.scene import twist_to_action

RATE = 20.0
linear = st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3)  # 1 m/s is 0.05 m per step
angular = st.lists(st.floats(-10.0, 10.0), min_size=3, max_size=3)  # 10 rad/s is 0.5 rad per step


@given(linear, angular, st.floats(0.0, 1.0), st.floats(20.0, 100.0))
def test_action_gives_the_twist_back(v, w, opened, rate):
    action = twist_to_action(np.array(v), np.array(w), opened, rate)
    assert action.shape == (7,) and action.dtype == np.float64
    np.testing.assert_allclose(action[:3] * 0.05 * rate, v, atol=1e-12)
    np.testing.assert_allclose(action[3:6] * 0.5 * rate, w, atol=1e-12)
    np.testing.assert_allclose((1.0 - action[6]) / 2.0, opened, atol=1e-12)


def test_beyond_the_unit_is_clipped_and_keeps_its_sign():
    action = twist_to_action(np.array([5.0, -5.0, 0.0]), np.array([-99.0, 0.0, 99.0]), 0.0, RATE)
    np.testing.assert_array_equal(action, [1.0, -1.0, 0.0, -1.0, 0.0, 1.0, 1.0])
