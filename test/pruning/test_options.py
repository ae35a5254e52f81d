"""Pruners by name, and their options: what is out of range is refused by method and option.

The ranges come from the declarations; that a value outside of them never reaches a method is what
is tested.
"""

from dataclasses import MISSING, fields
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.config import Above
from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import PRUNERS, build_pruner

TARGET = Target(('a', 'b'), 16, 8)
OPTIONS = [
    (name, field) for name, method in PRUNERS.items() for field in fields(method.options_type)
]


def outside(method, field):
    """Values of the option that its declaration does not allow."""
    hint = get_type_hints(method.options_type)[field.name]
    arms = [a for a in get_args(hint) if a is not NoneType] or [hint]
    kinds = {get_args(a)[0] if get_origin(a) is tuple else a for a in arms}
    values = [st.just(object()), st.just({'a': 1})]
    if kinds != {str}:
        values.append(st.text())
    if bool not in kinds:
        values.append(st.booleans())
    if kinds == {int}:
        values.append(st.floats())
    if kinds <= {int, float}:
        values.append(st.sampled_from([float('nan'), float('inf'), -float('inf')]))
        meta = field.metadata
        kind = st.integers if kinds == {int} else st.floats
        low = meta['low']
        if isinstance(low, Above):
            values.append(st.floats(max_value=low))
        elif low is not None:
            values.append(kind(max_value=low).filter(lambda v: v < low))
        if meta['high'] is not None:
            values.append(kind(min_value=meta['high']).filter(lambda v: v > meta['high']))
    if field.metadata['choices']:
        values.append(st.text().filter(lambda v: v not in field.metadata['choices']))
    return st.one_of(values)


@pytest.mark.parametrize('case', OPTIONS, ids=lambda case: f'{case[0]}.{case[1].name}')
@given(data=st.data())
def test_a_value_out_of_range_is_refused_by_method_and_option(case, data):
    name, field = case
    assert field.metadata['doc']
    assert (field.default, field.default_factory) != (MISSING, MISSING)
    value = data.draw(outside(PRUNERS[name], field))
    with pytest.raises(ProfileError) as refused:
        build_pruner({'name': name, field.name: value}, TARGET)
    assert name in str(refused.value) and field.name in str(refused.value)


@pytest.mark.parametrize(
    ('spec', 'option'),
    [
        # What depends on the model: 2 cameras of 16 patches.
        *(({'name': m, 'budget': 17}, 'budget') for m in PRUNERS if m in ('uniform', 'fastv')),
        ({'name': 'divprune', 'budget': (1, 2, 3)}, 'budget'),
        ({'name': 'uniform', 'budget': ()}, 'budget'),
        ({'name': 'vla_adp', 'split': (1, 2, 3)}, 'split'),
        ({'name': 'vla_adp', 'split': ()}, 'split'),
        ({'name': 'specprune', 'change_threshold': (5, 5, 5)}, 'change_threshold'),
        ({'name': 'specprune', 'change_threshold': 256}, 'change_threshold'),
        (
            {'name': 'specprune', 'metric': 'cosine', 'change_threshold': (0.9, 1.1)},
            'change_threshold',
        ),
        ({'name': 'vla_cache', 'static_top': 17}, 'static_top'),
        ({'name': 'vla_cache', 'relevant_top': 17}, 'relevant_top'),
        ({'name': 'vla_cache', 'grow_before': ()}, 'grow_before'),
        # What another option rules out.
        ({'name': 'vla_adp', 'budget': 4, 'keep_ratio': 0.5}, 'keep_ratio'),
        ({'name': 'specprune', 'preset': 'paper', 'budget': 8}, 'budget'),
        ({'name': 'specprune', 'preset': 'paper', 'fill': 'even'}, 'fill'),
        ({'name': 'specprune', 'preset': 'paper', 'refresh_every': 3}, 'refresh_every'),
    ],
)
def test_values_that_do_not_fit_the_model_or_each_other_are_refused(spec, option):
    with pytest.raises(ProfileError) as refused:
        build_pruner(spec, TARGET)
    assert spec['name'] in str(refused.value) and option in str(refused.value)


@pytest.mark.parametrize(
    ('spec', 'named'),
    [
        ({'name': 'uniform', 'bugdet': 5}, ['uniform', 'bugdet', 'budget']),
        ({'name': 'vla_cache', 'treshold': 0.9}, ['vla_cache', 'treshold', 'threshold']),
        (None, ['None']),
        (128, ['128']),
        (['uniform'], ['uniform']),
        (object(), ['object']),
        ('uniform:many', ['many']),
        ('uniform:\u0967\u0968', ['\u0967\u0968']),
        ('specprune:recommended:many', ['many']),
        ('specprune:paper:1:2', ['1:2']),
        ('{name: uniform', ['name: uniform']),
        ('nowhere.yaml', ['nowhere.yaml']),
        ('vla_cache:5', ['vla_cache', 'budget']),
        ('dense:5', ['dense', 'budget']),
        ('specprun', ['specprun', "'specprune'"]),
        ({'name': ['uniform']}, ['uniform']),
        ('{name: {a: b}}', ['a']),
        ({}, ['None', 'specprune']),
    ],
)
def test_what_is_no_specification_is_refused_by_name_with_the_nearest_known_one(spec, named):
    with pytest.raises(ProfileError) as refused:
        build_pruner(spec)
    assert all(name in str(refused.value) for name in named)


@pytest.mark.parametrize(
    ('spec', 'budget'),
    [
        ('uniform', (128, 128)),
        ('uniform:64', (64, 64)),
        ('uniform:64,16', (64, 16)),
        ('{name: uniform, budget: [64, 32]}', (64, 32)),
        ({'name': 'uniform', 'budget': [8, 4]}, (8, 4)),
        ({'name': 'uniform', 'budget': np.int64(9)}, (9, 9)),
    ],
)
def test_a_method_and_its_budget(spec, budget):
    pruner = build_pruner(spec)
    assert (pruner.name, pruner.budget) == ('uniform', budget)


@pytest.mark.parametrize('name', ['pruning.yaml', 'pruning.yml'])
def test_a_yaml_file_with_the_mapping(tmp_path, name):
    file = tmp_path / name
    file.write_text('name: uniform\nbudget: 9\n', encoding='utf-8')
    assert build_pruner(str(file)).budget == build_pruner(file).budget == (9, 9)


def test_a_preset_with_a_budget():
    config = build_pruner('specprune:recommended:48,44').config
    # Of 108, 100 and 120, 112 tokens after layer 1.
    assert (config.budgets[1].coarse, config.budgets[1].fine) == ((48, 44), (53, 49))
    assert build_pruner('specprune:paper').label == 'specprune:paper'


def test_an_object_passes_through():
    pruner = Dense()
    assert build_pruner(pruner) is pruner
