"""Prompts as ids on the device, made once per instruction."""

import torch
from torch import Tensor

from ..model.prompt import PromptTokenizer, build_prompt

_MOST = 64  # an instruction flood must not grow memory


class Prompts:
    """int64 (1, P) ids of the prompt of an instruction, BOS first; the same tensor each time."""

    def __init__(self, tokenizer: PromptTokenizer, device: torch.device) -> None:
        self._tokenizer, self._device = tokenizer, device
        self._ids: dict[str, Tensor] = {}

    def ids(self, instruction: str) -> Tensor:
        """Those of one instruction."""
        if instruction not in self._ids:
            if len(self._ids) >= _MOST:
                self._ids.clear()
            ids = self._tokenizer(build_prompt(instruction))
            self._ids[instruction] = torch.tensor([ids], device=self._device)
        return self._ids[instruction]
