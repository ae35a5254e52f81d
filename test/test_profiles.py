"""Robot profiles: the published constants, YAML files of users, and units.

Expected constants: OpenVLA-OFT's table of platforms (chunk 8 / 25 / 5, action 7 / 14 / 7, proprio
8 / 14 / 7) and robosuite's OSC_POSE scaling (0.05 m, 0.5 rad).
"""

from dataclasses import fields, replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.profiles import PROFILES, Profile, load_profile

PUBLISHED = {
    'libero': (8, 7, 8, 'bounds_q99', 0.05),
    'aloha': (25, 14, 14, 'bounds', 0.04),
    'bridge': (5, 7, 7, 'bounds_q99', 0.2),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_constants(name):
    p = load_profile(name)
    got = (p.chunk, p.action_dim, p.proprio_dim, p.normalization, p.control_period_s)
    assert got == PUBLISHED[name]
    assert len(p.action_names) == len(p.action_scale) == p.action_dim


def test_libero_units_are_those_of_the_controller():
    units = load_profile('libero').to_si(np.ones((1, 7)))
    np.testing.assert_allclose(units, [[0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0]])


@given(stn.arrays(np.float64, (3, 7), elements=st.floats(-2, 2)))
def test_units_go_there_and_back(actions):
    profile = load_profile('libero')
    np.testing.assert_allclose(profile.from_si(profile.to_si(actions)), actions, atol=1e-12)
    assert profile.to_si(actions.astype(np.float32)).dtype == np.float64


def test_a_profile_is_passed_through():
    profile = replace(PROFILES['libero'], name='mine')
    assert load_profile(profile) is profile


def write(tmp_path, content):
    path = tmp_path / 'my_robot.yaml'
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    changes = {'cameras': ['front', 'hand'], 'control_period_s': 0.1, 'action_scale': [1] * 7}
    profile = load_profile(write(tmp_path, {'base': 'libero', **changes}))
    assert profile == replace(
        PROFILES['libero'],
        name='my_robot',
        cameras=('front', 'hand'),
        control_period_s=0.1,
        action_scale=(1,) * 7,
    )
    assert load_profile(str(write(tmp_path, {'base': 'bridge', 'name': 'x'}))).name == 'x'


REFUSED = [
    ({'cameras': ['a']}, ('base is None', 'libero')),
    ({'base': 'franka'}, ("base is 'franka'", 'libero')),
    ({'base': ['libero']}, ("base is ['libero']", 'libero')),
    ({'base': 'libero', 'camera': ['a']}, ("unknown field 'camera'", 'cameras')),
    ({'base': 'libero', 3: 4, 'x': 5}, ('unknown field', 'cameras')),
    ({'base': 'libero', 'cameras': 'wrist'}, ("cameras is 'wrist'", 'a list of words')),
    ({'base': 'libero', 'cameras': [1, 2]}, ('cameras is [1, 2]', 'a list of words')),
    ({'base': 'libero', 'cameras': []}, ('cameras is empty', 'at least one')),
    ({'base': 'libero', 'cameras': ['a', 'a']}, ('repeats a name', 'once')),
    ({'base': 'libero', 'chunk': 0}, ('chunk is 0', '1 or more')),
    ({'base': 'libero', 'chunk': 8.5}, ('chunk is 8.5', 'a whole number')),
    ({'base': 'libero', 'chunk': True}, ('chunk is True', 'a whole number')),
    ({'base': 'libero', 'proprio_dim': -1}, ('proprio_dim is -1', '0 for none')),
    ({'base': 'libero', 'normalization': 'max'}, ("normalization is 'max'", 'bounds_q99')),
    ({'base': 'libero', 'control_period_s': 0}, ('control_period_s is 0', 'above 0')),
    ({'base': 'libero', 'control_period_s': '5e-2'}, ("'5e-2'", 'a number')),
    ({'base': 'libero', 'control_period_s': float('nan')}, ('control_period_s is nan', 'above 0')),
    ({'base': 'libero', 'action_kind': 'torque'}, ("'torque'", 'delta_pose')),
    ({'base': 'libero', 'proprio_kind': 'x'}, ("proprio_kind is 'x'", 'joints')),
    ({'base': 'libero', 'action_dim': 6}, ('delta_pose has action_dim 6', 'use 7')),
    ({'base': 'libero', 'action_names': ['a']}, ('action_names has 1 names', 'give 7')),
    ({'base': 'libero', 'action_scale': [1.0]}, ('action_scale has 1 numbers', 'give 7')),
    ({'base': 'libero', 'action_scale': [0.0] * 7}, ('action_scale is', 'above 0')),
    ({'base': 'libero', 'action_scale': 0.05}, ('action_scale is 0.05', 'a list of numbers')),
    ({'base': 'libero', 'action_scale': None}, ('action_scale is None', 'a list of numbers')),
    ('- a\n- b\n', ('is not a mapping', 'base: libero')),
    ('', ('is not a mapping', 'base: libero')),
    ('base: [', ('cannot be read', 'YAML')),
]


@pytest.mark.parametrize(('content', 'words'), REFUSED, ids=str)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, content, words):
    with pytest.raises(ProfileError) as error:
        load_profile(write(tmp_path, content))
    text = str(error.value)
    assert '\n' not in text and all(w in text for w in ('my_robot', *words)), text


@pytest.mark.parametrize('name', ['nope', '', 'libero.txt', '/tmp'])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ProfileError, match=f"unknown profile '{name}'; .*aloha.*bridge.*libero"):
        load_profile(name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match='nowhere.yaml cannot be read'):
        load_profile(tmp_path / 'nowhere.yaml')
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ProfileError, match='binary.yaml cannot be read'):
        load_profile(tmp_path / 'binary.yaml')


def test_every_field_can_be_given_in_a_file(tmp_path):
    for name, profile in PROFILES.items():
        values = {f.name: getattr(profile, f.name) for f in fields(Profile)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        assert load_profile(write(tmp_path, {'base': name, **plain})) == profile
