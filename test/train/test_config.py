"""The YAML file of a fine-tuning: what is read, and what is refused with which words."""

import pytest

from vla_prune_ros.errors import ProfileError
from vla_prune_ros.train.config import Noise, read_settings

GOOD = """
checkpoint: /models/oft
out: out/a
work: out/b
train: {method: lightvla, queries: 16}
data:
  - {format: lerobot, path: /data, options: {cameras: {primary: observation.image}}}
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / 'run.yaml').write_text(text)
        return read_settings(tmp_path / 'run.yaml')

    return read


def test_defaults_are_the_published_recipe(read):
    settings = read(GOOD)
    assert (settings.steps, settings.lr, settings.schedule) == (40_000, 5e-4, 'step')
    assert (settings.lora.rank, settings.lora.alpha, settings.lora.dropout) == (32, 16, 0.0)
    assert (settings.train.noise.first, settings.train.noise.last) == (1.0, 0.0)
    assert settings.train.queries == 16 and settings.data[0].options['cameras']
    scorer = read(GOOD.replace('lightvla, queries: 16', 'vla_acl'))
    assert (scorer.train.alpha, scorer.train.budget, scorer.train.layers) == ((2.0, 0.1), 64, 5)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (('queries: 16', 'noise: 1'), 'train.lightvla.noise'),
        (('queries: 16', 'query: 16'), 'train.lightvla.query: Extra'),
        (('method: lightvla', 'method: magic'), "train: .*'magic'"),
        (('out: out/a', 'outt: out/a'), 'out: Field required'),
        (('format: lerobot', 'format: lerobo'), 'data.0.format'),
        (('checkpoint: /models/oft', 'steps: 0\ncheckpoint: a'), 'steps: .*greater'),
        (('checkpoint: /models/oft', 'checkpoint: [a'), 'cannot be read'),
    ],
)
def test_a_field_that_is_not_usable_is_named(read, change, words):
    with pytest.raises(ProfileError, match=words):
        read(GOOD.replace(*change))


def test_the_noise_falls_in_a_line():
    noise = Noise(first=1.0, last=0.2)
    assert [noise.at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])
