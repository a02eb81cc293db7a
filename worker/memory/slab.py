"""The memory of a left-padded batch: a flat pool viewed as rows and columns, seen by transformers as a cache.

In each layer that keeps keys and values a slab is one buffer of [rows, heads, columns, dimension] for each, a view of
flat storage that was allocated at start; in each recurrent layer, states for each row. All layers share a window of
columns: `start` is the first column that any row uses, `end` the first one not yet written. Rows are aligned at `end`:
the newest token of every row is in the same column, and a shorter row has padding to its left.

Padding is masked, but 0 times NaN is NaN: so nothing outside the window is ever read, and what `copy_rows`, `widen` and
`clear` put into the window as padding is zero, unless the runner reads no padding. Whatever an earlier row or view left
in the storage can therefore not come under a mask. (What a model itself makes of pad tokens in a prefill group is not
copied from there.)

Copies of live columns are made in place, row by row or column by column (`copies`): beside the storage they take the
memory of one row of one layer at most.
"""

from collections.abc import Sequence

from torch import Tensor
from transformers.cache_utils import Cache

from .cache_layers import AttentionLayer, HybridLayer, RecurrentLayer, Window, cache_layer
from .copies import Piece, RowCopy, row_moves, take_rows
from .storage import Storage


class Slab:
    """All layers' buffers and their window."""

    def __init__(self, storage: Storage, rows: int, columns: int, *, reads_padding: bool = True) -> None:
        """Views storage, of at least `rows` rows and rows times columns tokens. What it held before is still there.

        Padding is left as it is for a runner that does not read it.
        """
        self.storage = storage
        self.reads_padding = reads_padding
        self.window = Window()
        self.layers = [cache_layer(layer, self.window) for layer in storage.layers]
        self._cache = Cache(layers=list(self.layers))
        self.rows = self.columns = 0
        self.view(rows, columns, end=0)

    @property
    def attention_layers(self) -> list[AttentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, AttentionLayer)]

    @property
    def token_buffers(self) -> list[Tensor]:
        """Keys and values of all layers, each [rows, heads, columns, dimension]."""
        return [buffer for layer in self.attention_layers for buffer in layer.buffers]

    @property
    def state_buffers(self) -> list[Tensor]:
        """States of all layers, each [rows of the storage, ...]."""
        return [buffer for layer in self.storage.layers for states in layer.states for buffer in states.buffers]

    def cache(self, rows: int) -> Cache:
        """Returns what transformers is given for a forward pass of the first `rows` rows."""
        for layer in self.layers:
            if isinstance(layer, RecurrentLayer | HybridLayer):
                layer.narrow(rows)
        return self._cache

    def view(self, rows: int, columns: int, *, end: int) -> None:
        """Views the storage anew as rows and columns, the live ones kept, so that the window ends at `end`.

        Raises ValueError if they do not fit.
        """
        window = self.window
        if rows > self.storage.rows or rows * columns > self.storage.tokens:
            raise ValueError(
                f"{rows} rows of {columns} columns, but room for {self.storage.rows} of {self.storage.tokens} tokens"
            )
        if window.rows > rows or not window.width <= end <= columns:
            raise ValueError(f"{window.rows} rows of {window.width} columns do not fit into {rows} of {columns}")
        before = self.token_buffers
        for layer in self.attention_layers:
            layer.view(rows, columns)
        if (columns, end) != (self.columns, window.end):
            moved = list(zip(before, self.token_buffers, strict=True))
            self.storage.moves.move_window(moved, window.rows, window.piece, end)
        self.rows, self.columns = rows, columns
        window.start, window.end = end - window.width, end

    def move_window(self, end: int) -> None:
        """Copies the live columns so that the window ends at `end`."""
        self.view(self.rows, self.columns, end=end)

    def widen(self, start: int) -> None:
        """Opens the window to the left, down to `start`, with zeros as padding."""
        window = self.window
        if self.reads_padding:
            opened = [(buffer, buffer) for buffer in self.token_buffers]
            rows = [RowCopy(row, row, 0) for row in range(window.rows)]
            self.storage.moves.copy_rows(opened, rows, Piece(start, window.start - start), 0, zeroes=True)
        window.start = start

    def take_rows(self, order: Sequence[int]) -> None:
        """Makes row i what row order[i] was. Any order, repeats allowed, up to the number of rows."""
        moves = list(row_moves(order))
        self.storage.moves.take_rows(self.token_buffers, moves, self.window.piece)
        for states in self.state_buffers:
            take_rows(states, moves)
        self.window.rows = len(order)

    def copy_rows(self, source: "Slab", rows: Sequence[RowCopy]) -> None:
        """Fills rows of the window with the newest columns of another slab's rows, behind zeros."""
        pairs = list(zip(self.token_buffers, source.token_buffers, strict=True))
        window, source_end = self.window, source.window.end
        self.storage.moves.copy_rows(pairs, rows, window.piece, source_end, zeroes=self.reads_padding)
        for target, origin in zip(self.state_buffers, source.state_buffers, strict=True):
            for row in rows:
                target[row.row] = origin[row.source]

    def clear_row(self, row: int) -> None:
        """Zeroes a row."""
        for buffer in (*self.token_buffers, *self.state_buffers):
            buffer[row].zero_()

    def clear(self) -> None:
        """Zeroes all rows and closes the window."""
        for buffer in self.token_buffers:
            buffer.zero_()
        for buffer in self.state_buffers:
            buffer[: self.rows].zero_()
        self.close()

    def close(self) -> None:
        """Forgets all rows."""
        self.window.rows = self.window.start = self.window.end = 0
