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
    ({'cameras': ['a']}, ('base', 'libero')),
    ({'base': 'franka'}, ('base', 'franka', 'libero')),
    ({'base': ['libero']}, ('base', 'libero')),
    ({'base': 'libero', 'camera': ['a']}, ("'camera'", "'cameras'")),
    ({'base': 'libero', 3: 4, 'x': 5}, ('3', 'cameras')),
    *(
        ({'base': 'libero', name: value}, (name,))
        for name, values in {
            'cameras': ('wrist', [], ['a', 'a']),
            'chunk': (0, 8.5),
            'proprio_dim': (-1,),
            'normalization': ('max',),
            'control_period_s': (0, '5e-2', float('nan')),
            'action_kind': ('torque',),
            'proprio_kind': ('x',),
            'action_dim': (6,),
            'action_names': (['a'],),
            'action_scale': ([1.0], [0.0] * 7, 0.05),
        }.items()
        for value in values
    ),
    ('- a\n- b\n', ()),
]


@pytest.mark.parametrize(('content', 'named'), REFUSED, ids=str)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path, content, named):
    with pytest.raises(ProfileError) as error:
        load_profile(write(tmp_path, content))
    text = str(error.value)
    assert '\n' not in text and all(w in text for w in ('my_robot', *named)), text


@pytest.mark.parametrize('name', ['nope', '', 'libero.txt', '/tmp'])
def test_an_unknown_name_lists_the_known_ones(tmp_path, name):
    with pytest.raises(ProfileError, match=f"unknown profile '{name}'; .*aloha.*bridge.*libero"):
        load_profile(name)
    with pytest.raises(ProfileError, match='nowhere.yaml cannot be read'):
        load_profile(tmp_path / 'nowhere.yaml')


def test_every_field_can_be_given_in_a_file(tmp_path):
    for name, profile in PROFILES.items():
        values = {f.name: getattr(profile, f.name) for f in fields(Profile)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        assert load_profile(write(tmp_path, {'base': name, **plain})) == profile
