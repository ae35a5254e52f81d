"""A policy that goes on from another's memory answers as that one would have.

Expected values: the answers of the policy that was never interrupted, to the last bit. Frames,
speeds and noise are drawn here.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.engine.policy import Policy
from vla_prune_ros.errors import DataError
from vla_prune_ros.evaluate.bench.models import BenchModelOptions, build_bench_model
from vla_prune_ros.evaluate.bench.pruning import BenchScene
from vla_prune_ros.pruning.registry import PRUNERS
from vla_prune_ros.pruning.state import pack, unpack

METHODS = (
    'dense',
    'uniform:64',
    'fastv:64',
    'divprune:64',
    'vla_adp',
    'vla_pruner:64',
    'vla_cache',
)
SPECPRUNE = ('specprune', 'specprune:paper', 'specprune:legacy_2026')


@pytest.fixture(scope='module')
def model():
    return build_bench_model(BenchModelOptions('micro'))


def drive(policy: Policy, scene: BenchScene, queries):
    out = []
    for number in queries:
        seen = scene.observation(number, policy.statistics.proprio.mean)
        out.append(policy.infer(seen, scene.motion(number)))
        policy.refresh()
        for step in scene.steps_after(number):
            for camera, frame in scene.frames(step).items():
                policy.watch(camera, scene.stamp_ns(step), lambda frame=frame: frame)
    return out


@pytest.mark.parametrize('method', [*METHODS, *SPECPRUNE])
def test_it_goes_on_to_the_last_bit(model, method):
    scene = BenchScene(model.profile, 8)
    first, second = model.policy(method), model.policy(method)
    drive(first, scene, range(4))
    memory = first.memory()
    drive(second, scene, range(1))  # whatever it remembers is replaced
    second.restore(memory)
    expected, found = drive(first, scene, range(4, 8)), drive(second, scene, range(4, 8))
    for mine, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.normalized, plain.normalized)
        assert (mine.mode, mine.pruning) == (plain.mode, plain.pruning)
        for camera, mask in plain.kept.items():
            np.testing.assert_array_equal(mine.kept[camera], mask)


def test_frames_that_cannot_be_decoded_count_as_none(model):
    scene, policy = BenchScene(model.profile, 2), model.policy('specprune')
    drive(policy, scene, range(1))
    policy.watch('primary', 10**9, lambda: 1 / 0)
    other = model.policy('specprune')
    other.restore(policy.memory())
    drive(other, scene, range(1, 2))


def test_a_state_that_cannot_be_stored_is_refused(model):
    policy = model.policy('specprune')
    policy.pruner.memory.mode = lambda: None
    with pytest.raises(DataError, match='function'):
        policy.memory()


def test_a_memory_of_another_method_is_refused(model):
    memory = model.policy('uniform:64').memory()
    with pytest.raises(DataError, match='uniform'):
        model.policy('specprune').restore(memory)


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_packing_keeps_plain_values(value):
    assert repr(unpack(pack(value))) == repr(value)


def test_packing_keeps_tensors_and_what_is_shared():
    tensor = torch.randn(3, 2).bfloat16()
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2]
    scalar = torch.tensor(float('nan'), dtype=torch.float64)
    got = unpack(pack({'t': tensor, 's': scalar, 'a': image, 'b': (image,)}))
    assert got['t'].dtype == torch.bfloat16 and torch.equal(got['t'], tensor)
    assert got['s'].dtype == torch.float64 and got['s'].isnan() and got['s'].shape == ()
    np.testing.assert_array_equal(got['a'], image)
    assert got['b'][0] is got['a']


def test_every_method_is_here():
    """``lightvla`` and its kin are not stateful, and need trained weights."""
    named = {m.partition(':')[0] for m in (*METHODS, *SPECPRUNE)}
    assert set(PRUNERS) - named == {'lightvla', 'lightvla_star', 'vla_acl'}
