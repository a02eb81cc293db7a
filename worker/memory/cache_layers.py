"""The memory of a slab as transformers sees it: layers of a `Cache`, one kind for each way to remember.

transformers asks by class what a layer can do, so each kind descends from the class that the models look for. None
allocates anything: keys and values are written into the window, states into the rows in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import (
    CacheLayerMixin,
    DummyLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from .copies import Piece
from .storage import LayerStorage, RecurrentStorage, TokenStorage


@dataclass
class Window:
    """The columns and rows in use, shared by all layers."""

    rows: int = 0
    start: int = 0
    end: int = 0

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.end - self.start

    @property
    def piece(self) -> Piece:
        """Where the columns in use are."""
        return Piece(self.start, self.width)


class AttentionLayer(CacheLayerMixin):
    """Keys and values. `update` writes at the window's end, in place, and returns the window.

    Layers with a sliding window are of this kind too: all columns are kept, and transformers' mask does the sliding.
    """

    is_sliding = False
    is_croppable = False

    def __init__(self, tokens: TokenStorage, window: Window) -> None:
        # Not super(): a hybrid layer has called its other base's constructor itself.
        CacheLayerMixin.__init__(self)
        self.tokens = tokens
        self.window = window
        self.is_initialized = True
        self.view(0, 0)

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None  # noqa: S101 - set for good in __init__; the base class types it as optional
        assert self.values is not None  # noqa: S101 - the same
        return self.keys, self.values

    def view(self, rows: int, columns: int) -> None:
        """Views the storage as rows and columns. What is in it stays where it is."""
        self.keys, self.values = self.tokens.view(rows, columns)

    def lazy_initialization(self, *_args: object, **_kwargs: object) -> None:
        """Does nothing: the memory is there from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Writes [rows, heads, new, dim] behind the window; returns the window with them. The window stays."""
        rows, new = key_states.shape[0], key_states.shape[2]
        start, end = self.window.start, self.window.end
        keys, values = self.buffers
        keys[:rows, :, end : end + new] = key_states
        values[:rows, :, end : end + new] = value_states
        return keys[:rows, :, start : end + new], values[:rows, :, start : end + new]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the number of columns that a query sees, and the offset of the first."""
        return self.window.width + query_length, 0

    def get_seq_length(self) -> int:
        """Returns the width of the window."""
        return self.window.width

    def get_max_length(self) -> int:
        """Returns the number of columns."""
        return self.buffers[0].shape[2]


class RecurrentLayer(LinearAttentionLayer):
    """The states of a Mamba, linear attention or short convolution layer, one row of each for each row of the slab."""

    def __init__(self, states: Sequence[RecurrentStorage], window: Window) -> None:
        super().__init__(number_of_states=len(states))
        self.states = states
        self.window = window

    def narrow(self, rows: int) -> None:
        """Shows transformers the states of the first `rows` rows, as there if the window holds anything."""
        _narrow(self, self.states, self.window, rows)


class HybridLayer(AttentionLayer, LinearAttentionAndFullAttentionLayer):  # type: ignore[misc] # its own bases differ
    """Keys, values and states, of a layer with both kinds of attention."""

    def __init__(self, tokens: TokenStorage, states: Sequence[RecurrentStorage], window: Window) -> None:
        LinearAttentionAndFullAttentionLayer.__init__(self, number_of_states=len(states))
        self.states = states
        AttentionLayer.__init__(self, tokens, window)

    def narrow(self, rows: int) -> None:
        """Shows transformers the states of the first `rows` rows, as there if the window holds anything."""
        _narrow(self, self.states, self.window, rows)


def _narrow(layer: LinearAttentionLayer, states: Sequence[RecurrentStorage], window: Window, rows: int) -> None:
    for index, pair in enumerate(states):
        layer.has_previous_state[index] = window.width > 0
        if pair.conv is not None:
            layer.conv_states[index] = pair.conv[:rows]
            layer.conv_kernel_size[index] = pair.conv.shape[-1]
            layer.is_conv_states_initialized[index] = True
        if pair.recurrent is not None:
            layer.recurrent_states[index] = pair.recurrent[:rows]
            layer.is_recurrent_states_initialized[index] = True


SlabLayer = AttentionLayer | RecurrentLayer | HybridLayer | DummyLayer


def cache_layer(storage: LayerStorage, window: Window) -> SlabLayer:
    """Returns the kind of layer that what is stored needs."""
    if storage.tokens and storage.states:
        return HybridLayer(storage.tokens, storage.states, window)
    if storage.tokens:
        return AttentionLayer(storage.tokens, window)
    if storage.states:
        return RecurrentLayer(storage.states, window)
    return DummyLayer()
