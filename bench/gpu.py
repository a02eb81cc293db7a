"""Decode steps of a model of the shape of Llama 3 8B on a GPU, over the bytes that a step cannot help reading.

Weights are random, made and quantized on the device: nothing is downloaded. The scales of NF4 blocks are quantized,
too, as the worker does unless it is told otherwise, and the floor counts them so, a byte for a block. Sides take
turns: the engine with NF4 weights, the engine with the same shape in bfloat16, and transformers alone with the NF4
model, in a loop that does nothing but the forward pass and argmax.
"""

import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from bench.report import arguments, show
from bench.timing import Work, in_turn, medians, seconds
from worker.assembly import assemble
from worker.domain.config import Config
from worker.domain.sequence import Root, SamplingParameters
from worker.domain.sequence import Sequence as Row
from worker.engine.engine import Engine
from worker.loading.checkpoint.generation_defaults import GenerationDefaults
from worker.loading.checkpoint.tokenizer_files import TokenizerFiles
from worker.loading.facts import ModelFacts
from worker.loading.loading import LoadedModel
from worker.loading.quantization.bitsandbytes_offline import bnb

ROWS = (1, 16, 32, 8, 64, 4)
"""What tells most comes first."""
PROMPT_TOKENS = 512
STEPS = 16
"""Steps of one side before the other's turn."""
IS_NESTED = Config().double_quantization
"""Whether the scales of blocks are quantized, too."""
COPY_BYTES = 4 << 30
GIB_FOR_KEYS_AND_VALUES = 12.0
LLAMA_8B: Mapping[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
}
FLOOR_BAR, EAGER_BAR = 2.0, 8.0


@dataclass(frozen=True)
class Times:
    """Medians of the steps of one number of rows, in seconds."""

    rows: int
    nf4: float
    bf16: float
    eager: float


def random_model(shape: Mapping[str, int], device: torch.device, *, is_quantized: bool) -> Any:  # noqa: ANN401 - untyped
    """Returns a bfloat16 Llama with random weights on the device, its layers in NF4 if asked for."""
    config = LlamaConfig.from_dict({**shape, "eos_token_id": None, "bos_token_id": None})
    with torch.device("meta"):
        model = LlamaForCausalLM(config).bfloat16().eval()
    with torch.device(device):
        model.model.rotary_emb = LlamaRotaryEmbedding(config)
        linear = [name for name, module in model.model.named_modules() if isinstance(module, nn.Linear)]
        for name in linear if is_quantized else ():
            model.model.set_submodule(name, _four_bit(model.model.get_submodule(name)))
        for module in model.modules():
            _fill(module)
    return model


def _four_bit(layer: nn.Module) -> nn.Module:
    """Returns an NF4 layer of the same shape with random weights."""
    weight = torch.randn(_size(layer), dtype=torch.bfloat16) * 0.02
    packed, state = bnb.functional.quantize_4bit(weight, compress_statistics=IS_NESTED, quant_type="nf4")
    quantized: nn.Module = bnb.nn.LinearNF4(
        weight.shape[1], weight.shape[0], bias=False, compute_dtype=torch.bfloat16, device="meta"
    )
    quantized.weight = bnb.nn.Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True)
    return quantized.eval()


def _size(layer: nn.Module) -> torch.Size:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape


def _fill(module: nn.Module) -> None:
    """Gives a module's own weights numbers: norms are 1, matrices small and random."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.device.type == "meta":
            sizes = parameter.shape
            values = torch.ones(sizes) if len(sizes) == 1 else torch.randn(sizes, dtype=parameter.dtype) * 0.02
            setattr(module, name, nn.Parameter(values.to(parameter.dtype), requires_grad=False))


def engine_over(model: Any, device: torch.device) -> Engine:  # noqa: ANN401 - transformers models share no static type
    """Returns an engine as the worker has it, for all numbers of rows."""
    facts = ModelFacts(
        name="random",
        architecture=type(model).__name__,
        context_length=2 * PROMPT_TOKENS,
        vocab_size=model.config.vocab_size,
        quantization="nf4",
        quantized_share=1.0,
        fingerprint="",
        defaults=GenerationDefaults.of(model.generation_config),
        eos_token_ids=(),
        devices=(str(device),),
    )
    loaded = LoadedModel(model, facts, TokenizerFiles(b"", "", {}, clean_up_tokenization_spaces=False), 0, device)
    return assemble(loaded, Config(max_rows=max(ROWS), memory_gib=GIB_FOR_KEYS_AND_VALUES, chunk_tokens=2048))


@contextmanager
def running(engine: Engine, rows: int, vocab_size: int) -> Iterator[None]:
    """Has so many rows decode in the engine, each behind a prompt of its own."""
    rng = random.Random(rows)
    sequences = []
    for number in range(rows):
        prompt = [rng.randrange(1, vocab_size) for _ in range(PROMPT_TOKENS - rng.randrange(PROMPT_TOKENS // 4))]
        sequences.append(Row(number, prompt, SamplingParameters(max_new_tokens=PROMPT_TOKENS)))
        engine.scheduler.submit(Root(prompt, sequences[-1:]))
    while len(engine.scheduler.running) < rows:
        engine.step()
    yield
    engine.scheduler.cancel(sequences)
    while engine.scheduler.has_work:
        engine.step()


class Eager:
    """transformers' own loop: forward pass, argmax, a cache that grows."""

    def __init__(self, model: Any, rows: int, device: torch.device) -> None:  # noqa: ANN401 - as above
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.tokens = torch.randint(1, model.config.vocab_size, (rows, PROMPT_TOKENS), device=device)

    @torch.inference_mode()
    def step(self) -> list[list[int]]:
        """Feeds the newest tokens, at first the prompts; returns the next ones."""
        output = self.model(input_ids=self.tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.tokens = output.logits[:, -1:].argmax(-1)
        tokens: list[list[int]] = self.tokens.tolist()
        return tokens


def measure(nf4: Any, engines: Sequence[Engine], rows: int, rounds: int, device: torch.device) -> Times:  # noqa: ANN401 - as above
    """Measures the sides, which take turns, after each has run once."""
    eager = Eager(nf4, rows, device)
    steps: list[Work] = [*(engine.step for engine in engines), eager.step]
    with ExitStack() as stack:
        for engine in engines:
            stack.enter_context(running(engine, rows, nf4.config.vocab_size))
        taken = medians([in_turn([step] * STEPS) for step in steps], rounds)
    return Times(rows, *(time / STEPS for time in taken))


def weight_bytes(model: Any) -> int:  # noqa: ANN401 - as above
    """Returns what a step reads of the weights: all but the embedding, of which it reads one vector for each row."""
    embedding = model.get_input_embeddings().weight
    total = 0
    for parameter in model.parameters():
        if parameter is not embedding:
            total += parameter.numel() * parameter.element_size()
            state = getattr(parameter, "quant_state", None)
            total += scale_bytes(state) if state else 0
    return total


def scale_bytes(state: Any) -> int:  # noqa: ANN401 - bitsandbytes ships no types
    """Returns the size of a 4-bit matrix's scales, and of the scales of those if they are quantized."""
    own: int = state.absmax.numel() * state.absmax.element_size()
    return own + (scale_bytes(state.state2) if state.nested else 0)


def copy_bandwidth(device: torch.device, repeats: int = 20) -> float:
    """Returns the bytes per second, read and written, of a large copy on the device."""
    source = torch.randint(0, 255, (COPY_BYTES,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(device)

    copy()
    return 2 * COPY_BYTES / statistics.median(seconds(copy) for _ in range(repeats))


def row_of(times: Times, floor_s: float) -> dict[str, float]:
    """Returns the table's row."""
    return {
        "rows": times.rows,
        "NF4 step ms": 1000 * times.nf4,
        "NF4 step / NF4 floor": times.nf4 / floor_s,
        "bf16 step ms": 1000 * times.bf16,
        "bf16 step / NF4 step": times.bf16 / times.nf4,
        "transformers eager step ms": 1000 * times.eager,
        "eager step / NF4 step": times.eager / times.nf4,
        "tokens/s": times.rows / times.nf4,
    }


def checks(measured: Sequence[Times], floor_s: float) -> dict[str, bool]:
    """Returns the bars, and whether they are met."""
    found = {}
    for times in measured:
        rows = times.rows
        if rows <= 32:
            found[f"a step at {rows} rows takes at most {FLOOR_BAR:g} floors"] = times.nf4 <= FLOOR_BAR * floor_s
            found[f"NF4 is faster than bf16 at {rows} rows"] = times.nf4 < times.bf16
        if rows <= 16:
            found[f"{EAGER_BAR:g} times transformers eager at {rows} rows"] = times.eager >= EAGER_BAR * times.nf4
    return found


def main() -> int:
    """Measures, and returns the exit code: 2 without a GPU, 1 if a bar is missed."""
    given = arguments("Measure decode steps on a GPU.")
    if not torch.cuda.is_available():
        print("bench.gpu measures a CUDA device, and there is none", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    bandwidth = copy_bandwidth(device)
    nf4, bf16 = (random_model(LLAMA_8B, device, is_quantized=is_quantized) for is_quantized in (True, False))
    floor_s = weight_bytes(nf4) / bandwidth
    engines = [engine_over(model, device) for model in (nf4, bf16)]
    measured = []
    for rows in ROWS:
        measured.append(measure(nf4, engines, rows, given.rounds, device))
        print(
            f"measured: {row_of(measured[-1], floor_s)}", file=sys.stderr, flush=True
        )  # should time be up before the end
    measured.sort(key=lambda times: times.rows)
    card = {
        "device": torch.cuda.get_device_name(device),
        "copy GB/s": bandwidth / 1e9,
        "NF4 floor ms": 1000 * floor_s,
        "scales quantized": IS_NESTED,
    }
    tables: dict[str, list[Mapping[str, object]]] = {
        "device": [card],
        "decode steps": [row_of(times, floor_s) for times in measured],
    }
    return show("gpu", tables, checks(measured, floor_s), as_json=given.json)


if __name__ == "__main__":
    raise SystemExit(main())
