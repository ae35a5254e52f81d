"""Prompt and tokens against ``tokens.json`` (Llama-2 tokenizer of the original code)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_prune_ros.errors import CheckpointError
from vla_prune_ros.model.prompt import BOS_ID, SPACE_ID, PromptTokenizer, build_prompt
from vla_prune_ros.model.synthetic import make_checkpoint


@pytest.fixture(scope='module')
def cases(data_dir):
    suites = json.loads((data_dir / 'tokens.json').read_text(encoding='utf-8'))['suites']
    return [case for suite in suites.values() for case in suite]


@pytest.fixture(scope='module')
def standin(tmp_path_factory):
    return PromptTokenizer(make_checkpoint(tmp_path_factory.mktemp('tokens'), 'micro'))


def test_prompt_text(cases):
    assert len(cases) >= 40
    for case in cases:
        assert build_prompt(case['task']) == case['prompt']


def test_ids_of_the_real_tokenizer(cases, golden_dir):
    tokenizer = PromptTokenizer(golden_dir / 'tokenizer')
    for case in cases:
        assert tokenizer(case['prompt']) == case['input_ids_model'], case['task']


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_the_standin_frames_any_text_as_llama_does(standin, text):
    ids = standin(build_prompt(text))
    assert ids[0] == BOS_ID and ids[-1] == SPACE_ID
    assert 0 not in ids[1:], 'nothing may become <unk>'
    assert max(ids) < 32064


def test_the_standin_keeps_known_words_whole(standin):
    """10 ids before the task words and 5 behind, as with Llama-2; one id per known word."""
    assert len(standin(build_prompt('pick up the red cube'))) == 10 + 5 + 5


def test_missing_and_broken_tokenizers_are_named(tmp_path):
    with pytest.raises(CheckpointError, match='no tokenizer.json or tokenizer.model'):
        PromptTokenizer(tmp_path)
    (tmp_path / 'tokenizer.json').write_text('{')
    with pytest.raises(CheckpointError, match='cannot be read'):
        PromptTokenizer(tmp_path)
