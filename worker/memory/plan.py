"""How the memory of a GPU is divided: from sizes to sizes. Pure.

A worker takes weights and their scales, as they are kept; CUDA's own context; a workspace for its largest step; graphs;
keys, values and states; copies of matrices in 16 bit, which make products faster where memory is left; and a reserve,
for no allocator uses its last byte. The budget of a model that is loaded and the command `plan` both come from here, so
that the one does what the other prints.
"""

from dataclasses import dataclass

from ..domain.refusal import UnsupportedModelError

MIB, GIB = 1 << 20, 1 << 30
LEAST_CONTEXT = 64

_CUDA_BYTES = 450 * MIB
"""What CUDA, its libraries and loaded kernels take for each process. The driver alone sees it."""
_GRAPH_BYTES = 24 * MIB
"""What the driver keeps for the launches of one captured step of a model of 32 layers."""
_GRAPH_LAYERS = 32
_WIDE, _WIDER = 10, 4
"""Tensors of the width of a layer, and of that of its MLP, that are there at a time while a chunk is read."""
_LOGITS = 6
"""Tensors of logits in float32 that are there at a time while rows are sampled."""
_MASK_BYTES = 4
"""For each token of a chunk and each column that it sees: the mask as it is made and as it is used."""
_LEAST_RESERVE, _RESERVE_SHARE = 200 * MIB, 0.03
_SHARE = 0.9
"""Of what is left, for keys, values and states: not every model computes within the workspace of its sizes."""
_COPY_SHARE = 0.5
"""Of what is left over, that copies may take: the rest is for what nobody has reckoned."""


@dataclass(frozen=True)
class Room:
    """How the memory of keys, values and states is divided."""

    tokens: int
    """Tokens of the running batch's pool: at least 1.5 contexts, at most that for each row."""
    group_tokens: int
    """Tokens of a prefill group: one longest prompt."""
    max_rows: int
    """Most rows of the batch, and of a group."""
    context_length: int
    """Most tokens of one sequence."""
    bytes_total: int
    """Memory of the batch and of the prefill group."""


@dataclass(frozen=True)
class Card:
    """The memory of one device, in bytes."""

    total: int
    free: int
    """What nobody has: neither another process nor a tensor of this one."""
    workers: int = 1
    """Worker processes that share it."""


@dataclass(frozen=True)
class ModelSize:
    """What of a model the memory depends on; sizes in bytes are of all its layers together."""

    weights: int
    """Without the scales of quantized blocks."""
    scales: int
    token: int
    """Keys and values of one token."""
    row: int
    """States of one row."""
    context: int
    """Most tokens of a sequence."""
    layers: int
    width: int
    """Numbers of a token between layers."""
    inner: int
    """Numbers of a token within an MLP."""
    vocabulary: int
    largest_matrix: int
    """Numbers of the largest quantized matrix, which prompts are multiplied with in 16 bit; 0: none is."""
    quantized: int
    """Numbers in all quantized matrices."""
    itemsize: int = 2
    """Bytes of a number in the type that is computed in."""


@dataclass(frozen=True)
class Demand:
    """What is asked of a worker."""

    rows: int
    chunk_tokens: int
    """Most tokens that are read in one step."""
    graphs: int = 0
    """How many captured steps there are; 0: none."""
    gib: float = 0.0
    """What keys, values and states may take; 0: what is left."""
    share: float = 0.0
    """Of what is left, that they may take; 0: 90 %."""
    is_loaded: bool = False
    """Whether weights, scales and CUDA's context are in memory already, and not in what is free."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a worker takes of a device, in bytes, and what that holds."""

    cuda: int
    weights: int
    scales: int
    workspace: int
    """For what the largest step computes with, and for the largest matrix in 16 bit."""
    graphs: int
    keys_values: int
    """And states."""
    copies: int
    """Matrices in 16 bit, if there is room: given up before anything else."""
    reserve: int
    left: int
    """What nothing is planned for."""
    room: Room

    @property
    def kinds(self) -> dict[str, int]:
        """Returns the bytes by what they are for."""
        return {
            "weights": self.weights,
            "scales": self.scales,
            "CUDA": self.cuda,
            "workspace": self.workspace,
            "graphs": self.graphs,
            "keys and values": self.keys_values,
            "16-bit copies": self.copies,
            "reserve": self.reserve,
            "left": self.left,
        }


def plan(card: Card, model: ModelSize, demand: Demand) -> MemoryPlan:
    """Divides the memory of a device.

    Raises UnsupportedModelError if the model does not fit, or nothing is left for keys and values.
    """
    cuda, weights, scales = _CUDA_BYTES, model.weights, model.scales
    mine = card.total // card.workers
    reserve = max(_LEAST_RESERVE, int(_RESERVE_SHARE * mine))
    workspace, graphs = workspace_bytes(model, demand), graph_bytes(model, demand)
    resident = cuda + weights + scales
    free = card.free if card.workers == 1 else min(card.free, mine - (resident if demand.is_loaded else 0))
    left = free - (0 if demand.is_loaded else resident) - workspace - graphs - reserve
    if left <= 0 and not demand.gib:
        raise UnsupportedModelError(
            f"it needs {_gib(resident + workspace + graphs + reserve)} GiB of memory beside its keys and values "
            f"(weights {_gib(weights + scales)}, workspace {_gib(workspace)}, graphs {_gib(graphs)}), and "
            f"{_gib(free + (resident if demand.is_loaded else 0))} GiB are there: give it a larger device or several "
            "(--gpus-per-worker), or fewer --chunk-tokens and --max-rows"
        )
    most = int(demand.gib * GIB) or int((demand.share or _SHARE) * left)
    room = divided(model.token, model.row, budget=most, max_rows=demand.rows, model_context=model.context)
    over = max(0, left - room.bytes_total)
    copies = min(int(_COPY_SHARE * over), model.quantized * model.itemsize) if demand.graphs else 0
    return MemoryPlan(
        cuda=cuda,
        weights=weights,
        scales=scales,
        workspace=workspace,
        graphs=graphs,
        keys_values=room.bytes_total,
        copies=copies,
        reserve=reserve,
        left=over - copies,
        room=room,
    )


def workspace_bytes(model: ModelSize, demand: Demand) -> int:
    """Returns what the largest step computes with: it reads a chunk, and samples all rows."""
    chunk = demand.chunk_tokens * (_WIDE * model.width + _WIDER * model.inner) * model.itemsize
    mask = demand.chunk_tokens * model.context * _MASK_BYTES
    logits = _LOGITS * demand.rows * model.vocabulary * 4
    return chunk + mask + logits + model.largest_matrix * model.itemsize


def graph_bytes(model: ModelSize, demand: Demand) -> int:
    """Returns what captured steps take: their launches each, and the tensors of the largest, which they share."""
    if not demand.graphs:
        return 0
    tensors = demand.rows * (model.vocabulary + _WIDE * model.width + _WIDER * model.inner) * model.itemsize
    return demand.graphs * _GRAPH_BYTES * model.layers // _GRAPH_LAYERS + tensors


def divided(token: int, row: int, *, budget: int, max_rows: int, model_context: int) -> Room:
    """Divides a budget in bytes into tokens and rows, each of which takes so many bytes.

    One part holds the running batch, the other the prefill group. States of recurrent layers, which each row of either
    has, take at most half of the budget, and fewer rows are served if that is not enough. The tokens of the batch are
    as many as are left; if that is less than 1.5 contexts beside a group of one, the context is cut.

    Raises UnsupportedModelError if not even a context of 64 tokens, or one row, fits.
    """
    for_states = min(2 * max_rows * row, budget // 2 if token else budget)
    rows = for_states // (2 * row) if row else max_rows
    tokens = (budget - for_states) // token if token else _whole(model_context, max_rows)
    context = min(model_context, _longest_context(tokens))
    if rows < 1 or context < min(LEAST_CONTEXT, model_context):
        raise UnsupportedModelError(
            f"{budget:,} bytes hold {tokens:,} tokens and the states of {rows} sequences, "
            "too few for one; give more --memory-gib"
        )
    pool = min(tokens - context, rows * _slack(context))
    return Room(
        tokens=pool,
        group_tokens=context,
        max_rows=rows,
        context_length=context,
        bytes_total=(pool + context) * token + 2 * rows * row,
    )


def _slack(context: int) -> int:
    """Returns 1.5 contexts: with fewer columns than that, the window would slide too often."""
    return context + -(-context // 2)


def _whole(context: int, rows: int) -> int:
    return rows * _slack(context) + context


def _longest_context(tokens: int) -> int:
    """Returns the longest context of which 1.5 and a group of one are in so many tokens."""
    context = tokens * 2 // 5
    return context if _whole(context, 1) <= tokens else context - 1


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
