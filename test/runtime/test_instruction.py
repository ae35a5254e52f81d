"""Instructions as people type them, against the form the training data has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.runtime.instruction import MAX_CHARACTERS, clean_instruction


@pytest.mark.parametrize(
    ('typed', 'cleaned'),
    [
        ('pick up the red cube', 'pick up the red cube'),
        ('Pick up the Red Cube.', 'pick up the red cube'),
        ('  pick\tup \n the  cube !? ', 'pick up the cube'),
        ('open drawer 2, then close it.', 'open drawer 2, then close it'),
        ('pick\x00up\x1b[31m', 'pick up [31m'),
        ('hebe den Würfel auf', 'hebe den würfel auf'),
    ],
)
def test_examples(typed, cleaned):
    assert clean_instruction(typed) == cleaned


@pytest.mark.parametrize('typed', ['', '   ', '\n\t', '...', ' ?! ', '\x00'])
def test_nothing_is_refused_with_an_example(typed):
    with pytest.raises(InputRefused, match='instruction is empty; .*red cube') as refusal:
        clean_instruction(typed)
    assert refusal.value.reason == 'instruction'


def test_the_longest_and_one_more():
    assert len(clean_instruction('a' * MAX_CHARACTERS)) == MAX_CHARACTERS
    with pytest.raises(InputRefused, match='401 characters; use at most 400'):
        clean_instruction('a' * (MAX_CHARACTERS + 1))


@given(st.text(max_size=MAX_CHARACTERS))
def test_what_comes_out_is_one_clean_line_and_stays_as_it_is(typed):
    try:
        cleaned = clean_instruction(typed)
    except InputRefused:
        return
    assert cleaned.isprintable() and cleaned == cleaned.strip() and '  ' not in cleaned
    assert cleaned[-1] not in '.!?;:,'
    if len(cleaned) <= MAX_CHARACTERS:  # lower case of a few letters is longer
        assert clean_instruction(cleaned) == cleaned
