"""Knobs of VLA-Cache: released numbers, other models, refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.pruning.layout import Target
from vla_prune_ros.pruning.methods.vla_cache import VlaCacheConfig, fit


def test_released_numbers_for_the_published_model():
    """Released code for OpenVLA-OFT: its constants, and where its decoder cuts."""
    assert fit(Target()) == VlaCacheConfig(0.996, 150, 100, 15, (2, 6, 9, 11), 0.55)


@given(st.integers(1, 80), st.integers(1, 400))
def test_any_model_gets_layers_and_counts_that_it_has(layers, patches):
    config = fit(Target(layers=layers, patches=patches))
    assert 0 <= config.relevant_layer < layers
    assert all(1 <= layer < layers for layer in config.grow_before)
    assert bool(config.grow_before) == (layers > 1)
    assert 1 <= config.static_top <= patches and 1 <= config.relevant_top <= patches


def test_half_the_depth_and_a_quarter_of_the_patches():
    """Shares of the depth: 2, 6, 9 and 11 of 32 are 1, 3, 4.5 and 5.5 of 16."""
    config = fit(Target(layers=16, patches=64))
    assert config.grow_before in [(1, 3, 4, 5), (1, 3, 4, 6), (1, 3, 5, 6)]
    assert (config.relevant_layer, config.static_top, config.relevant_top) == (7, 38, 25)


@pytest.mark.parametrize(
    ('knobs', 'says'),
    [
        ({'threshold': 0.0}, 'threshold is 0.0; use a number above 0 and up to 1'),
        ({'threshold': 1.1}, 'threshold is 1.1'),
        ({'growth': -0.1}, 'growth is -0.1; use a number from 0 to 1'),
        ({'growth': float('nan')}, 'growth is nan'),
        ({'static_top': 0}, 'static_top is 0; use a whole number of 1 or more'),
        ({'static_top': 12.5}, 'static_top is 12.5'),
        ({'relevant_top': 257}, 'relevant_top is 257; use a whole number up to 256'),
        ({'relevant_layer': -1}, 'relevant_layer is -1'),
        ({'grow_before': (0, 2)}, 'grow_before is 0; use a whole number of 1 or more'),
        ({'grow_before': ()}, r'grow_before is \(\); use layers'),
        ({'grow_before': 2}, 'grow_before is 2; use layers'),
    ],
)
def test_impossible_knobs_are_refused(knobs, says):
    with pytest.raises(ProfileError, match=says):
        fit(Target(), **knobs)


def test_layers_that_a_decoder_lacks_become_its_last():
    config = fit(Target(layers=8), relevant_layer=15, grow_before=[2, 6, 9, 11])
    assert (config.relevant_layer, config.grow_before) == (7, (2, 6, 7))
