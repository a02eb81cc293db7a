"""How the attention of a captured step is divided: into how many parts each row, into how many columns a tile. Pure."""

_LEAST_PARTS, _MOST_PARTS = 8, 64
_PROGRAMS_PER_PROCESSOR = 4
_LEAST_COLUMNS, _MOST_COLUMNS = 16, 64
_TILE_BYTES = 64 * 256


def attention_parts(heads: int, processors: int) -> int:
    """Returns into how many parts each row's tokens are divided, a power of two between 8 and 64.

    Few rows alone would leave most of the device idle. Many rows still need some parts: one long row among short ones
    would otherwise be read by few processors while the others wait.

    Args:
        heads: rows times heads of keys, each of which is computed by itself.
        processors: multiprocessors of the device.
    """
    wanted = -(-_PROGRAMS_PER_PROCESSOR * processors // heads)
    return min(_MOST_PARTS, max(_LEAST_PARTS, 1 << (wanted - 1).bit_length()))


def columns_at_once(column_bytes: int) -> int:
    """Returns how many columns a tile of attention has whose keys, or values, take so many bytes each.

    Several tiles lie in a multiprocessor's shared memory at a time: of 64 columns of 256 bytes they take 70 KiB, where
    most cards have 99.
    """
    columns = _MOST_COLUMNS
    while columns > _LEAST_COLUMNS and columns * column_bytes > _TILE_BYTES:
        columns //= 2
    return columns
