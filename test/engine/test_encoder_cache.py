"""Frames that the towers see before their query: the same answers as without, and less to do.

Expected values come from plain queries on the same weights. Towers run on one camera and on two
round differently, hence 1e-5; the number of runs is counted at the towers themselves.
"""

from dataclasses import replace

import numpy as np
import pytest

from vla_prune_ros.errors import InputRefused


@pytest.fixture(scope='module')
def policies(load):
    dense = load()
    return {'dense': dense, 'specprune': dense.with_pruning('specprune')}


@pytest.fixture
def towers(policies, monkeypatch):
    for policy in policies.values():
        policy.reset()
    runs, backbone = [], policies['dense'].model.vision_backbone
    plain = backbone.forward

    def counted(pixels, *rest):
        runs.append(len(pixels))
        return plain(pixels, *rest)

    monkeypatch.setattr(backbone, 'forward', counted)
    return runs


def same(mine, plain):
    np.testing.assert_allclose(mine.normalized, plain.normalized, rtol=0, atol=1e-5)
    np.testing.assert_equal(dict(mine.kept), dict(plain.kept))
    np.testing.assert_equal(dict(mine.model_images), dict(plain.model_images))
    assert list(mine.model_images) == list(plain.model_images)


@pytest.mark.parametrize('pruning', ['dense', 'specprune'])
@pytest.mark.parametrize('early', [('primary',), ('wrist',), ('wrist', 'primary')])
def test_the_answer_is_that_of_a_plain_query(policies, observation, towers, pruning, early):
    policy = policies[pruning]
    plain = [policy.infer(observation), policy.infer(replace(observation, stamp_ns=10**8))]
    policy.reset()
    towers.clear()
    for stamp_ns, expected in zip((17, 10**8), plain, strict=True):
        for camera in early:
            policy.prefetch(camera, observation.images[camera], observation.instruction)
        assert towers == [1] * len(early)
        out = policy.infer(replace(observation, stamp_ns=stamp_ns))
        assert towers == [1, 1]  # each camera once, whoever was early
        towers.clear()
        same(out, expected)


def test_another_frame_or_instruction_is_encoded_anew(policies, observation, towers):
    policy, frames = policies['dense'], observation.images
    plain = policy.infer(observation)
    towers.clear()
    policy.prefetch('wrist', np.zeros_like(frames['wrist']), observation.instruction)
    policy.prefetch('primary', frames['primary'], 'another task')
    same(policy.infer(observation), plain)
    assert towers == [1, 1, 2]


def test_what_a_frame_shows_outlives_a_reset_and_serves_one_query(policies, observation, towers):
    """The first query of an episode resets the policy, and its frames may come before."""
    policy = policies['specprune']
    plain = policy.infer(observation)
    policy.prefetch('wrist', observation.images['wrist'], observation.instruction)
    for runs in (1, 2):
        policy.reset()
        towers.clear()
        same(policy.infer(observation), plain)
        assert towers == [runs]


def test_bad_frames_are_named(policies, observation):
    policy = policies['dense']
    with pytest.raises(InputRefused, match="camera 'left' is absent"):
        policy.prefetch('left', observation.images['wrist'], 'x')
    with pytest.raises(InputRefused, match="image of camera 'wrist' is float64"):
        policy.prefetch('wrist', np.zeros((4, 4, 3)), 'x')


def test_warm_up_runs_every_number_of_cameras(policies, towers):
    policies['dense'].warm_up()
    assert sorted(set(towers)) == [1, 2]
