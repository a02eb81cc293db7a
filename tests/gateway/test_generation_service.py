"""Generate and StreamGenerate over gRPC: the same answer, whole or as it comes."""

import asyncio

import pytest

from tests.fakes import EOS, FakeWorker, ids, says
from tests.gateway.serving import request, serving, settle, text_of
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2

TEXTS = ["plain", "é", "汉字かな", "👩🏽\u200d🚀 to the 🌍", "stop", "a\n\tb  c", " leading", "\x00\x7f"]


@pytest.mark.parametrize("text", TEXTS)
async def test_concatenated_deltas_equal_the_whole_text_byte_for_byte(text: str) -> None:
    async with serving(FakeWorker(says(text), runs_freely=True)) as served:
        whole = await served.caller.generate(request())
        streamed = await served.caller.stream(request())

    assert whole.candidates[0].text == text
    assert text_of(streamed) == text
    assert "\N{REPLACEMENT CHARACTER}" not in text_of(streamed)


async def test_a_stream_starts_once_first_and_finishes_once_last() -> None:
    async with serving(FakeWorker(says("hello"), runs_freely=True)) as served:
        messages = await served.caller.stream(request())

    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    assert messages[0].started.prompt_token_count == 2
    assert messages[0].started.seed == messages[-1].finished.receipt.seed
    assert messages[-1].finished.finish_reason == pb.FINISH_REASON_END_OF_SEQUENCE


async def test_a_stream_has_started_once_its_first_token_is_there_and_says_so_before() -> None:
    async with serving(FakeWorker(says("st"))) as served:
        call = served.caller.generation.StreamGenerate(pb.GenerateRequest(text="ab", stop_sequences=["stop"]))
        messages = aiter(call)
        first = asyncio.ensure_future(anext(messages))
        await served.worker.until(lambda: served.worker.row_count == 1)
        await settle()
        assert not first.done()

        served.worker.step()  # of this token nothing can be delivered yet
        assert (await first).HasField("started")

        served.worker.step()
        assert [message.WhichOneof("event") async for message in messages] == ["delta", "finished"]


async def test_a_token_is_delivered_as_soon_as_it_is_there() -> None:
    async with serving(FakeWorker(says("abc"))) as served:
        messages = aiter(served.caller.generation.StreamGenerate(request()))
        await served.worker.until(lambda: served.worker.row_count == 1)

        for character in "abc":
            served.worker.step()
            if character == "a":
                assert (await anext(messages)).HasField("started")
            assert (await anext(messages)).delta.text == character


async def test_length_ends_with_max_new_tokens() -> None:
    async with serving(FakeWorker(runs_freely=True)) as served:
        answer = await served.caller.generate(request("ab", max_new_tokens=5))

    assert answer.candidates[0].text == "ababa"
    assert answer.candidates[0].finish_reason == pb.FINISH_REASON_LENGTH
    assert answer.usage == pb.Usage(prompt_token_count=2, output_token_count=5)


async def test_a_stop_sequence_ends_it_and_its_beginning_never_leaks() -> None:
    stopping = pb.GenerateRequest(
        text="ab", stop_sequences=["c, d", "zzz"], output_options=pb.OutputOptions(token_ids=True)
    )
    async with serving(FakeWorker(says("a, b, c, d, e, f"), runs_freely=True)) as served:
        whole = await served.caller.generate(stopping)
        streamed = await served.caller.stream(stopping)
        await served.nothing_runs()

    (candidate,) = whole.candidates
    assert (candidate.text, candidate.stop_sequence) == ("a, b, ", "c, d")
    assert candidate.finish_reason == pb.FINISH_REASON_STOP_SEQUENCE
    assert list(candidate.token_ids) == ids("a, b, c, d")
    assert whole.usage.output_token_count == len(ids("a, b, c, d"))
    assert text_of(streamed) == "a, b, "
    assert streamed[-1].finished.stop_sequence == "c, d"


async def test_a_stop_sequence_cancels_what_the_worker_would_go_on_with() -> None:
    async with serving(FakeWorker(says("stop"))) as served:
        call = served.caller.generation.Generate(pb.GenerateRequest(text="ab", stop_sequences=["to"]))
        await served.worker.until(lambda: served.worker.row_count == 1)

        served.worker.step()

        assert (await call).candidates[0].text == "s"
        await served.worker.until(lambda: served.worker.row_count == 0)
        assert served.worker.cancelled == {served.worker.submits[0].sequences[0].sequence_id}


async def test_token_ids_and_echo_come_if_asked_for() -> None:
    asked = pb.GenerateRequest(text="ab", output_options=pb.OutputOptions(echo=True, token_ids=True))
    async with serving(FakeWorker(says("cd"), runs_freely=True)) as served:
        whole = await served.caller.generate(asked)
        streamed = await served.caller.stream(asked)
        plain = await served.caller.generate(request())

    assert whole.candidates[0].text == text_of(streamed) == "abcd"
    assert list(whole.prompt_token_ids) == list(streamed[0].started.prompt_token_ids) == ids("ab")
    assert list(whole.candidates[0].token_ids) == [*ids("cd"), EOS]
    assert [token for message in streamed for token in message.delta.token_ids] == [*ids("cd"), EOS]
    assert streamed[1].delta.text == "ab"
    assert not plain.prompt_token_ids
    assert not plain.candidates[0].token_ids


async def test_an_echoed_prompt_that_ends_within_a_character_is_completed_by_the_output() -> None:
    first, second = ids("é")
    asked = pb.GenerateRequest(tokens=pb.TokenPrompt(ids=[first]), output_options=pb.OutputOptions(echo=True))
    async with serving(FakeWorker(lambda _submit: [second], runs_freely=True)) as served:
        assert (await served.caller.generate(asked)).candidates[0].text == "é"
        assert text_of(await served.caller.stream(asked)) == "é"


async def test_special_tokens_are_in_the_text_if_asked_for() -> None:
    asked = pb.GenerateRequest(text="ab", output_options=pb.OutputOptions(skip_special_tokens=False))
    async with serving(FakeWorker(says("cd"), runs_freely=True)) as served:
        assert (await served.caller.generate(asked)).candidates[0].text == "cd</s>"


async def test_the_three_forms_of_a_prompt_reach_the_worker_as_tokens() -> None:
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", text="hi")])
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        await served.caller.generate(pb.GenerateRequest(text="hi"))
        await served.caller.generate(pb.GenerateRequest(tokens=pb.TokenPrompt(ids=[5, 6, 7])))
        await served.caller.generate(pb.GenerateRequest(chat=chat))

        prompts = [list(submit.prompt_token_ids) for submit in served.worker.submits]
    assert prompts == [ids("hi"), [5, 6, 7], ids("user: hi\nassistant: ")]


async def test_a_long_prompt_is_the_same_off_the_event_loop() -> None:
    text = "é汉 stop " * 1000
    async with serving(FakeWorker(says("x"), context_length=20_000, runs_freely=True)) as served:
        asked = pb.GenerateRequest(text=text, output_options=pb.OutputOptions(echo=True))
        answer = await served.caller.generate(asked)

        assert list(served.worker.submits[0].prompt_token_ids) == ids(text)
        assert answer.candidates[0].text == text + "x"


async def test_a_receipt_asked_for_again_gives_the_same_submission() -> None:
    defaults = pb.GenerationConfig(do_sample=True, temperature=0.6, top_k=20, max_new_tokens=30)
    async with serving(FakeWorker(says("x"), defaults=defaults, runs_freely=True)) as served:
        receipt = (await served.caller.generate(request())).receipt
        assert 0 <= receipt.seed < 2**53
        again = pb.GenerateRequest(model=receipt.model, text="ab", generation_config=receipt.generation_config)

        repeated = (await served.caller.generate(again)).receipt
        assert repeated.server_request_id != receipt.server_request_id
        repeated.server_request_id = receipt.server_request_id
        assert repeated == receipt

        first, second = served.worker.submits
        assert first.generation_config == second.generation_config
        assert first.sequences[0].seed == second.sequences[0].seed == receipt.seed
    assert receipt.generation_config.temperature == 0.6
    assert receipt.worker == "worker-0"
    assert receipt.fingerprint == "fingerprint"


async def test_unseeded_requests_get_different_seeds() -> None:
    async with serving(FakeWorker(says("x"), runs_freely=True)) as served:
        seeds = {(await served.caller.generate(request())).receipt.seed for _ in range(5)}

    assert len(seeds) == 5


async def test_timing_is_the_gateways_clock_and_the_workers_account() -> None:
    async with serving(FakeWorker(says("ab"), rows=1)) as served:
        call = served.caller.generation.Generate(request())
        await served.worker.until(lambda: served.worker.row_count == 1)
        served.clock.advance(0.5)
        served.worker.step()
        served.worker.step(2)

        timing = (await call).timing

    assert timing.queue.ToMilliseconds() == 1
    assert timing.prefill.ToMilliseconds() == 2
    assert timing.time_to_first_token.ToMilliseconds() == 500


async def test_the_models_service_lists_the_model_with_its_ready_workers() -> None:
    defaults = pb.GenerationConfig(temperature=0.6)
    async with serving(FakeWorker(defaults=defaults), FakeWorker(defaults=defaults)) as served:
        (model,) = (await served.caller.models.ListModels(model_pb2.ListModelsRequest())).models

    assert (model.name, model.ready_worker_count, model.capabilities[0]) == (
        "tutor",
        2,
        model_pb2.MODEL_CAPABILITY_CHAT,
    )
    assert model.default_generation_config == defaults
    assert list(model.eos_token_ids) == [EOS]
