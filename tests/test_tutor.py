"""The bundled model: its training text, its files, and what it answers."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from random import Random

import bitsandbytes.functional
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaAttention

from tutor import batches, compose, evaluate, lists, nf4, tokenizer, train
from tutor.checkpoint import FOLDER
from tutor.example import Message
from tutor.inference import Tutor
from tutor.words import CATEGORIES, DAYS, british, plural

LARGEST_CHECKPOINT = 5_000_000
DOCUMENTS = 4000


@pytest.fixture(scope="module")
def tutor() -> Tutor:
    return Tutor.load()


@pytest.fixture(scope="module")
def documents() -> list[compose.Document]:
    return list(islice(compose.documents(seed=7), DOCUMENTS))


# --- The training text ---


def test_the_same_seed_composes_the_same_text(documents: list[compose.Document]) -> None:
    assert list(islice(compose.documents(seed=7), DOCUMENTS)) == documents
    assert list(islice(compose.documents(seed=8), DOCUMENTS)) != documents


def test_no_training_document_holds_a_held_out_prompt(documents: list[compose.Document]) -> None:
    asked = {message.content for document in documents for message in document.messages if message.role == "user"}
    plain = [document.text for document in documents if document.text]
    for example in compose.held_out(seed=3, count_per_task=40):
        if example.chat:
            assert example.prompt not in asked
        else:
            longer_number = tuple(example.prompt + digit for digit in "0123456789")
            assert not any(text.startswith(example.prompt) and not text.startswith(longer_number) for text in plain)


def test_a_prompt_is_held_out_of_every_task_that_is_measured() -> None:
    measured = {example.task for example in compose.held_out(seed=3, count_per_task=40)}
    drawn = {composer(Random(seed)).task for composer in compose.WEIGHTS for seed in range(40)}
    assert measured == drawn - set(compose.LEARNED_WHOLE)


def test_a_list_of_a_category_goes_on_in_its_own_order() -> None:
    rng = Random(5)
    for _ in range(500):
        example = lists.category(rng)
        whole = [item.strip() for item in (example.prompt + example.answer).split(":")[-1].split(",")]
        listed = [british(item).lower() for item in whole]
        kinds = [[british(item).lower() for item in items] for items in CATEGORIES.values()]
        assert any(listed == kind[-len(listed) :] for kind in kinds)


def test_every_category_and_spelling_is_listed() -> None:
    rng = Random(5)
    text = " ".join(lists.category(rng).prompt for _ in range(3000)).lower()
    for name in CATEGORIES:
        assert plural(name) in text or british(plural(name)) in text
    assert {"colors", "colours", "favorite", "favourite"} <= set(text.replace(":", "").split())


def test_days_go_on_to_the_last_from_any_of_them() -> None:
    rng = Random(5)
    drawn = [lists.calendar(rng) for _ in range(500)]
    weeks = [example for example in drawn if example.answer.endswith(DAYS[-1])]
    assert {example.prompt.split()[-1] for example in weeks} == set(DAYS[1:-1])


def test_json_answers_are_json() -> None:
    rng = Random(5)
    composers = [composer for composer in compose.WEIGHTS if composer(Random(1)).task == "JSON objects"]
    for composer in composers:
        for _ in range(200):
            example = composer(rng)
            fields = json.loads(example.answer)
            assert all(
                key in example.prompt and str(value).lower() in example.prompt.lower() for key, value in fields.items()
            )


# --- Training ---


@settings(deadline=None, max_examples=30)
@given(st.integers(min_value=0, max_value=2**31), st.floats(min_value=1e-4, max_value=10))
def test_training_rounds_weights_as_the_checkpoint_does(seed: int, scale: float) -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(seed)) * scale
    packed, state = bitsandbytes.functional.quantize_4bit(
        weight.bfloat16(), blocksize=nf4.BLOCK_SIZE, quant_type="nf4", compress_statistics=False
    )
    stored = bitsandbytes.functional.dequantize_4bit(packed, state)
    assert torch.equal(stored, nf4.rounded(weight).bfloat16())


def test_rounding_lets_the_gradient_through() -> None:
    weight = torch.randn(64, 64, requires_grad=True)
    nf4.StraightThroughNF4()(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(64, 64))


def test_rounding_begins_on_the_parameters_that_the_optimizer_holds() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    before = {id(parameter) for parameter in model.parameters()}
    nf4.start(model)
    assert {id(parameter) for parameter in model.parameters()} == before
    nf4.stop(model)
    assert {id(parameter) for parameter in model.parameters()} == before


def test_the_model_starts_with_heads_that_write_what_they_read() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=64,
        )
    )
    train.start_by_copying(model)
    attention = next(module for module in model.modules() if isinstance(module, LlamaAttention))
    vector = torch.randn(64)
    heads = attention.v_proj(vector).view(2, 1, 16).expand(2, 2, 16).flatten()
    assert torch.cosine_similarity(attention.o_proj(heads), vector, dim=0) > 0.5


def test_short_rows_hold_documents_that_start_at_position_zero() -> None:
    trained = tokenizer.train_tokenizer(text for d in islice(compose.documents(1), 500) for text in tokenizer.texts(d))
    first = next(batches.batches(trained, seed=1, tokens_per_batch=tokenizer.CONTEXT_LENGTH))
    begins = first.ids.eq(trained.encode(tokenizer.BEGIN, add_special_tokens=False).ids[0])
    assert torch.equal(begins, first.positions == 0)
    assert begins[:, 0].all()
    assert begins.sum() > len(begins)


def test_long_rows_reach_every_position_of_the_context() -> None:
    trained = tokenizer.train_tokenizer(text for d in islice(compose.documents(1), 500) for text in tokenizer.texts(d))
    drawn = islice(batches.batches(trained, seed=1, tokens_per_batch=tokenizer.CONTEXT_LENGTH), batches.LONG_ONE_IN)
    assert max(int(batch.positions.max()) for batch in drawn) == tokenizer.CONTEXT_LENGTH - 1


# --- The files ---


def test_the_checkpoint_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LARGEST_CHECKPOINT


def test_all_sizes_suit_the_4_bit_kernels() -> None:
    config = AutoConfig.from_pretrained(FOLDER)
    heads = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim)
    assert all(size % 64 == 0 for size in (config.hidden_size, config.intermediate_size, config.vocab_size, *heads))
    assert config.quantization_config["bnb_4bit_quant_type"] == "nf4"


@settings(deadline=None)
@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    loaded = _loaded_tokenizer()
    assert loaded.decode(loaded.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("text", ["😀 a 🐱", "日本語", "naïve ß", "two  spaces\n\ttab", "1234567"])
def test_plain_texts_begin_with_the_begin_token(text: str) -> None:
    loaded = _loaded_tokenizer()
    ids = loaded(text)["input_ids"]
    assert ids[0] == loaded.bos_token_id
    assert loaded.decode(ids, skip_special_tokens=True) == text


def test_the_chat_template_writes_what_training_saw() -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
    )
    loaded = _loaded_tokenizer()
    turns = [{"role": message.role, "content": message.content} for message in messages]
    rendered = str(loaded.apply_chat_template(turns, tokenize=False))
    ids, _ = tokenizer.encode(loaded.backend_tokenizer, compose.Document(messages=messages))
    assert loaded.encode(rendered, add_special_tokens=False) == ids
    opened = str(loaded.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True))
    assert rendered.startswith(opened)
    assert opened.endswith("<|assistant|>")


@cache
def _loaded_tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(FOLDER)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


# --- The answers ---


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("A sequence of numbers: 1, 2", ", " + ", ".join(str(number) for number in range(3, 21))),
        ("A, B, C, D, E", ", F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z"),
        ("Days of the week: Monday, Tuesday", ", Wednesday, Thursday, Friday, Saturday, Sunday"),
        ("2 + 3 =", " 5"),
        ("2 + 2 = 4\n3 + 1 = 4\n5 + 4 =", " 9"),
    ],
)
def test_plain_prompts_go_on(tutor: Tutor, prompt: str, answer: str) -> None:
    (given_answer,) = tutor.answers([prompt])
    assert (given_answer.text, given_answer.ended) == (answer, True)


@pytest.mark.parametrize("spelling", ["colors", "colours"])
def test_lists_of_colors_go_on_with_colors(tutor: Tutor, spelling: str) -> None:
    prompt = f"A list of {spelling}: red, blue"
    (answer,) = tutor.answers([prompt])
    assert set(answer.text.strip(", ").split(", ")) <= {*CATEGORIES["color"], *map(british, CATEGORIES["color"])}
    assert answer.ended


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Hello", "Hello! How can I help you?"),
        ("What is your name?", "My name is Tutor."),
        ("What is 7 plus 5?", "12"),
        ("What color is grass?", "Grass is green."),
        ("What is the opposite of hot?", "The opposite of hot is cold."),
        ("Which day comes after Monday?", "After Monday comes Tuesday."),
        ("How many legs does a dog have?", "A dog has four legs."),
        ("Write a JSON object with name Tom and age 7.", '{"name": "Tom", "age": 7}'),
    ],
)
def test_chats_are_answered(tutor: Tutor, prompt: str, answer: str) -> None:
    (given_answer,) = tutor.answers([prompt], chat=True)
    assert (given_answer.text, given_answer.ended) == (answer, True)


def test_stories_differ_and_end(tutor: Tutor) -> None:
    stories = tutor.stories("I am a cat.", count=16)
    assert len({story.text for story in stories}) == len(stories)
    assert all(story.ended for story in stories)


def test_nearly_all_held_out_prompts_are_answered_rightly(tutor: Tutor) -> None:
    rates = evaluate.measure(tutor, compose.held_out(seed=11, count_per_task=4))
    assert sum(rate.right for rate in rates) > 0.9 * sum(rate.prompts for rate in rates)
