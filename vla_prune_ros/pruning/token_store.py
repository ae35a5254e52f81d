"""What each layer last computed of every visual token, by original id."""

from torch import Tensor


class TokenStore:
    """Keys or values per layer, a slot for every visual token; a write overwrites its tokens only.

    Slots keep what was last written, so that tokens that are left out of a pass answer with what
    they held when they were last computed. Visual positions do not depend on the prompt, hence
    rotated keys stay valid from query to query. A slot that was never written holds zeros.
    """

    def __init__(self) -> None:
        self._layers: dict[int, Tensor] = {}

    def write(self, layer: int, visual: int, ids: Tensor, values: Tensor) -> None:
        """Overwrite the slots of ``ids``.

        :param visual: slots of a layer that has none yet.
        :param ids: int64 (n,), each once.
        :param values: (1, kv heads, n, d); copied.
        """
        if layer not in self._layers:
            _, heads, _, width = values.shape
            self._layers[layer] = values.new_zeros(1, heads, visual, width)
        self._layers[layer].index_copy_(2, ids, values.detach())

    def read(self, layer: int, ids: Tensor) -> Tensor:
        """What ``ids`` hold, in the order asked for: (1, kv heads, n, d)."""
        return self._layers[layer].index_select(2, ids)

    def __getitem__(self, layer: int) -> Tensor:
        """All slots of a layer, (1, kv heads, V, d); not a copy."""
        return self._layers[layer]

    def clear(self) -> None:
        """Forget everything and free the memory."""
        self._layers.clear()

    @property
    def nbytes(self) -> int:
        """Bytes that the slots occupy on their device."""
        return sum(t.numel() * t.element_size() for t in self._layers.values())
