"""The published prompt and its tokens."""

from collections.abc import Callable
from pathlib import Path

from ..errors import CheckpointError

BOS_ID = 1
# The lone space that stood between ``Out:`` and the first action token in training; openvla-oft's
# ``predict_action`` appends it.
SPACE_ID = 29871


def build_prompt(task: str) -> str:
    return f'In: What action should the robot take to {task.lower()}?\nOut:'


class PromptTokenizer:
    """Llama-2 tokenisation from ``tokenizer.json`` or ``tokenizer.model``, of a folder or a file;
    a CheckpointError where neither is there or can be read."""

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder)
        files = [path] if path.is_file() else [path / 'tokenizer.json', path / 'tokenizer.model']
        self.path = next((f for f in files if f.is_file()), None)
        if self.path is None:
            raise CheckpointError(
                f'no tokenizer.json or tokenizer.model in {path}',
                'copy the tokenizer files there or pass tokenizer=FOLDER',
            )
        try:
            self._encode = _open(self.path)
        except Exception as error:  # both libraries raise bare Exceptions of many kinds
            raise CheckpointError(
                f'tokenizer {self.path} cannot be read ({str(error).splitlines()[0]})',
                'fetch the file again',
            ) from None

    def __call__(self, text: str) -> list[int]:
        """Ids of the text, BOS first and 29871 last."""
        ids = [BOS_ID, *self._encode(text)]
        return ids if ids[-1] == SPACE_ID else [*ids, SPACE_ID]


def _open(path: Path) -> Callable[[str], list[int]]:
    if path.suffix == '.model':
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
