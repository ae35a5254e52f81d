"""Cleaning of an instruction before it reaches the prompt.

A trailing full stop alone makes the published LIBERO checkpoints fail, so what people type is
brought to the form that the training data had.
"""

from ..errors import InputRefused

MAX_CHARACTERS = 400


def clean_instruction(text: str) -> str:
    """Single spaces, lower case, printable characters, no final punctuation.

    :raises InputRefused: nothing is left, or it is longer than 400 characters.
    """
    if len(text) > MAX_CHARACTERS:  # before anything walks over a megabyte
        raise InputRefused(
            'instruction',
            f'instruction has {len(text)} characters',
            f'use at most {MAX_CHARACTERS}',
        )
    words = ''.join(c if c.isprintable() else ' ' for c in text).lower().split()
    cleaned = ' '.join(words).rstrip(' .!?;:,')
    if not cleaned:
        raise InputRefused(
            'instruction',
            'instruction is empty',
            "say what to do, for example 'pick up the red cube'",
        )
    return cleaned
