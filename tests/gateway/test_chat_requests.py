"""What a chat request may have beside its messages, and what each fault of it is called."""

import pytest
from google.protobuf import field_mask_pb2
from grpc import StatusCode

from tests.fakes import TOKENIZER, FakeWorker
from tests.gateway.serving import failing, serving
from textserve.v1 import generation_pb2 as pb
from textserve.v1 import model_pb2

TEMPLATE = (
    "{% if tools %}{{ tools[0].function.name }}:{% endif %}{% for m in messages %}<{{ m.content }}>{% endfor %}"
    "{{ n if n is defined }}{% if add_generation_prompt %}>{% endif %}"
)


def chat(*messages: pb.ChatMessage, **fields: object) -> pb.GenerateRequest:
    turns = messages or (pb.ChatMessage(role="user", text="hi"),)
    return pb.GenerateRequest(chat=pb.ChatPrompt(messages=turns, **fields))  # type: ignore[arg-type]


def tool(**fields: str) -> pb.Tool:
    return pb.Tool(function=pb.FunctionDeclaration(**fields))


def call(**fields: str) -> pb.ChatMessage:
    return pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(function=pb.FunctionCall(**fields))])


async def prompt_of(request: pb.GenerateRequest) -> str:
    """The prompt that a worker gets."""
    worker = FakeWorker(runs_freely=True, chat_template=TEMPLATE)
    async with serving(worker) as served:
        await served.caller.generate(request)
    return TOKENIZER.decode(worker.submits[0].prompt_token_ids)


async def test_tools_arguments_and_what_is_continued_reach_the_template() -> None:
    assistant = pb.ChatMessage(role="assistant", text="Sure, ")
    parts = pb.ChatMessage(role="user", parts=pb.ContentParts(parts=[pb.ContentPart(text="hi")]))
    arguments = {"n": 3.0}
    assert await prompt_of(chat(template_arguments=arguments)) == "<hi>3>"
    assert await prompt_of(chat(tools=[tool(name="f")])) == "f:<hi>>"
    assert await prompt_of(chat(tools=[tool(name="f")], tool_choice=pb.TOOL_CHOICE_NONE)) == "<hi>>"
    user = pb.ChatMessage(role="user", text="hi")
    assert await prompt_of(chat(user, assistant, continue_last_message=True)) == "<hi><Sure, "
    assert "{'type': 'text', 'text': 'hi'}" in await prompt_of(chat(parts))


FAULTS: dict[str, tuple[pb.GenerateRequest, str, str]] = {
    "a part that is nothing": (
        chat(pb.ChatMessage(role="user", parts=pb.ContentParts(parts=[pb.ContentPart()]))),
        "chat.messages[0].parts.parts[0].part",
        "REQUIRED",
    ),
    "no parts": (
        chat(pb.ChatMessage(role="user", parts=pb.ContentParts())),
        "chat.messages[0].parts.parts",
        "OUT_OF_RANGE",
    ),
    "a tool that is nothing": (chat(tools=[pb.Tool()]), "chat.tools[0].function.name", "REQUIRED"),
    "a schema that is no JSON": (
        chat(tools=[tool(name="f", parameters_json="{'a': 1}")]),
        "chat.tools[0].function.parameters_json",
        "INVALID_JSON",
    ),
    "a schema that is no object": (
        chat(tools=[tool(name="f", parameters_json="[1]")]),
        "chat.tools[0].function.parameters_json",
        "INVALID_JSON",
    ),
    "a schema with NaN": (
        chat(tools=[tool(name="f", parameters_json='{"a": NaN}')]),
        "chat.tools[0].function.parameters_json",
        "INVALID_JSON",
    ),
    "a schema that is nested too deeply": (
        chat(tools=[tool(name="f", parameters_json='{"a":' + "[" * 9000)]),
        "chat.tools[0].function.parameters_json",
        "INVALID_JSON",
    ),
    "arguments that are too long": (
        chat(call(name="f", arguments_json='{"a": "' + "x" * 65_536 + '"}')),
        "chat.messages[0].tool_calls[0].function.arguments_json",
        "OUT_OF_RANGE",
    ),
    "a call without a name": (chat(call()), "chat.messages[0].tool_calls[0].function.name", "REQUIRED"),
    "an unknown choice": (chat(tool_choice=9), "chat.tool_choice", "OUT_OF_RANGE"),
    "a name that is taken": (chat(template_arguments={"messages": []}), "chat.template_arguments", "TAKEN_NAME"),
    "a name that is none": (chat(template_arguments={"a b": 1.0}), "chat.template_arguments", "INVALID_NAME"),
    "large arguments": (chat(template_arguments={"a": "x" * 16_384}), "chat.template_arguments", "OUT_OF_RANGE"),
    "a user's message to continue": (
        chat(continue_last_message=True),
        "chat.continue_last_message",
        "CONTRADICTION",
    ),
    "nothing to continue": (
        chat(pb.ChatMessage(role="assistant"), continue_last_message=True),
        "chat.messages[0].content",
        "REQUIRED",
    ),
    "a default that there is none of": (
        pb.GenerateRequest(text="ab", ignored_defaults=field_mask_pb2.FieldMask(paths=["generation_config.seed"])),
        "ignored_defaults.paths[0]",
        "UNKNOWN_PATH",
    ),
}


async def test_each_fault_has_a_path_and_a_reason() -> None:
    async with serving(FakeWorker(context_length=4096, chat_template=TEMPLATE)) as served:
        for fault, (request, field, reason) in FAULTS.items():
            failure = await failing(served.caller.generate(request))
            assert (failure.code, failure.fields, failure.reason) == (
                StatusCode.INVALID_ARGUMENT,
                {field},
                reason,
            ), fault
        assert served.worker.submits == []


async def test_tools_for_a_model_that_knows_none_are_refused_and_capabilities_say_so() -> None:
    async with serving(FakeWorker(chat_template="{{ messages[0].content }}")) as served:
        failure = await failing(served.caller.generate(chat(tools=[tool(name="f")])))
        (model,) = (await served.caller.models.ListModels(model_pb2.ListModelsRequest())).models
    assert (failure.reason, failure.fields) == ("NO_TOOLS", {"chat.tools"})
    assert model_pb2.MODEL_CAPABILITY_TOOLS not in model.capabilities
    async with serving(FakeWorker(chat_template=TEMPLATE)) as served:
        named = await served.caller.models.GetModel(model_pb2.GetModelRequest(name="tutor"))
        unknown = await failing(served.caller.models.GetModel(model_pb2.GetModelRequest(name="other")))
    assert model_pb2.MODEL_CAPABILITY_TOOLS in named.model.capabilities
    assert unknown.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (model_pb2.ListModelsRequest(page_size=-1), "page_size"),
        (model_pb2.ListModelsRequest(page_token="x"), "page_token"),
    ],
    ids=["page_size", "page_token"],
)
async def test_a_page_that_there_is_not_is_refused(request_: model_pb2.ListModelsRequest, field: str) -> None:
    async with serving(FakeWorker()) as served:
        failure = await failing(served.caller.models.ListModels(request_))
    assert (failure.code, failure.fields) == (StatusCode.INVALID_ARGUMENT, {field})


DEFAULTS = pb.GenerationConfig(
    suppress_tokens=[5],
    bad_words_ids=[pb.TokenSequence(ids=[6])],
    forced_eos_token_id=1,
    temperature=0.5,
    do_sample=True,
)


@pytest.mark.parametrize(
    ("paths", "gone"),
    [
        (["generation_config.suppress_tokens"], {"suppress_tokens"}),
        (
            ["generation_config.forced_eos_token_id", "generation_config.bad_words_ids"],
            {"forced_eos_token_id", "bad_words_ids"},
        ),
        (["generation_config"], {"suppress_tokens", "bad_words_ids", "forced_eos_token_id"}),
        ([], set()),
    ],
)
async def test_a_model_has_no_say_in_what_a_request_ignores(paths: list[str], gone: set[str]) -> None:
    request = pb.GenerateRequest(text="ab", ignored_defaults=field_mask_pb2.FieldMask(paths=paths))
    worker = FakeWorker(runs_freely=True, defaults=DEFAULTS)
    async with serving(worker) as served:
        answer = await served.caller.generate(request)
    effective = {field.name for field, _ in answer.receipt.generation_config.ListFields()}
    submitted = {field.name for field, _ in worker.submits[0].generation_config.ListFields()}
    for name in ("suppress_tokens", "bad_words_ids", "forced_eos_token_id"):
        assert (name in effective, name in submitted) == ((name not in gone),) * 2
    assert answer.receipt.generation_config.do_sample is ("generation_config" not in paths)


async def test_a_models_stop_sequences_can_be_done_without() -> None:
    worker = FakeWorker(runs_freely=True)
    worker.description.default_stop_sequences.append("b")
    request = pb.GenerateRequest(text="ab", generation_config=pb.GenerationConfig(max_new_tokens=4))
    async with serving(worker) as served:
        stopped = await served.caller.generate(request)
        request.ignored_defaults.paths.append("stop_sequences")
        whole = await served.caller.generate(request)
    assert stopped.candidates[0].WhichOneof("ended_by") == "stop_sequence"
    assert whole.candidates[0].finish_reason == pb.FINISH_REASON_LENGTH
    assert whole.candidates[0].WhichOneof("ended_by") is None
    assert list(whole.receipt.stop_sequences) == []


async def test_the_token_that_ended_a_candidate_is_named_and_the_receipt_comes_once() -> None:
    request = pb.GenerateRequest(
        text="ab",
        generation_config=pb.GenerationConfig(num_return_sequences=3, temperature=1.0, stop_token_ids=[9], seed=1),
    )
    async with serving(FakeWorker(runs_freely=True)) as served:
        streamed = await served.caller.stream(request)
        whole = await served.caller.generate(request)
    finished = [message.finished for message in streamed if message.HasField("finished")]
    assert [each.HasField("receipt") for each in finished] == [False, False, True]
    assert streamed[-1].finished == finished[-1]
    assert {each.WhichOneof("ended_by") for each in whole.candidates} <= {"stop_token_id", None}
    ends = {each.candidate_index: each.stop_token_id for each in whole.candidates}
    assert ends == {each.candidate_index: each.stop_token_id for each in finished}
