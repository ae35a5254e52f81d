"""Pruners by name: words, mappings, lines of YAML, files and objects."""

import numpy as np
import pytest

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.methods.baselines import Dense
from vla_prune_ros.pruning.registry import build_pruner


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


@pytest.mark.parametrize(
    ('spec', 'named'),
    [
        (None, 'None'),
        (128, '128'),
        (['uniform'], 'uniform'),
        (object(), 'object'),
        ('uniform:many', 'many'),
        ('uniform:\u0967\u0968', '\u0967\u0968'),
        ('specprune:recommended:many', 'many'),
        ('specprune:paper:1:2', '1:2'),
        ('{name: uniform', 'name: uniform'),
        ('nowhere.yaml', 'nowhere.yaml'),
    ],
)
def test_what_is_no_specification_is_refused_by_name(spec, named):
    with pytest.raises(ProfileError, match=named):
        build_pruner(spec)
