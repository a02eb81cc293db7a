"""Conversations with tools, parts and arguments are rendered as transformers renders them; a last message goes on."""

import json
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gateway.domain.request import TOOL_CHOICE_NONE, ChatPrompt, Function, Message, ToolCall
from gateway.text.chat_template import ChatTemplate, TemplateError
from tests.gateway import vocabularies

TEMPLATE = """
{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}
{%- for message in messages %}<{{ message.role }}{% if message.name %} {{ message.name }}{% endif %}
{%- if message.tool_call_id %} {{ message.tool_call_id }}{% endif %}>
{%- if enable_thinking is not defined or enable_thinking %}{% if message.reasoning_content %}[
{{- message.reasoning_content }}]{% endif %}{% if message.thinking %}({{ message.thinking }}){% endif %}{% endif %}
{%- if message.content is string %}{{ message.content SPACING }}{% elif message.content %}
{%- for part in message.content %}{{ part.text SPACING }}{% endfor %}{% endif %}
{%- if message.tool_calls %}{% for call in message.tool_calls %}<call {{ call.id }}>{{ call.function.name }}
{{- call.function.arguments | tojson }}{% endfor %}{% endif %}</s>
{%- endfor %}
{%- if style is defined %}{{ style | tojson }}{% endif %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
STRIPPING = TEMPLATE.replace("SPACING", "| trim")
KEEPING = TEMPLATE.replace("SPACING", "")

texts = st.text(alphabet="ab é{}<>\n", max_size=8)
names = st.text(alphabet="fgh_", min_size=1, max_size=4)
values = st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | texts, lambda inner: st.lists(inner, max_size=2))
objects = st.dictionaries(names, values, max_size=3)
calls = st.builds(ToolCall, call_id=names, name=names, arguments_json=objects.map(json.dumps))
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=texts | st.lists(texts, min_size=1, max_size=3).map(tuple),
    name=st.just("") | names,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    tool_call_id=st.just("") | names,
    reasoning=texts,
)
chats = st.builds(
    ChatPrompt,
    messages=st.lists(messages, min_size=1, max_size=4).map(tuple),
    tools=st.lists(st.builds(Function, names, texts, objects.map(json.dumps)), max_size=2).map(tuple),
    template_arguments=st.fixed_dictionaries({}, optional={"enable_thinking": st.booleans(), "style": values}),
    continues_last=st.booleans(),
)


@cache
def theirs(template: str) -> PreTrainedTokenizerBase:
    with TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=vocabularies.byte_level(), chat_template=template).save_pretrained(
            folder
        )
        return AutoTokenizer.from_pretrained(folder)


def as_mapping(message: Message) -> dict[str, Any]:
    """A message as callers of transformers write it."""
    content = message.content
    known: dict[str, Any] = {
        "role": message.role,
        "content": content if isinstance(content, str) else [{"type": "text", "text": part} for part in content or ()],
    }
    if message.tool_calls:
        known["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments_json)},
            }
            for call in message.tool_calls
        ]
    others = {"name": message.name, "tool_call_id": message.tool_call_id, "reasoning_content": message.reasoning}
    return known | {name: value for name, value in others.items() if value}


@pytest.mark.parametrize("template", [STRIPPING, KEEPING], ids=["stripping", "keeping"])
@given(chat=chats)
def test_a_conversation_is_rendered_as_transformers_renders_it(template: str, chat: ChatPrompt) -> None:
    tools: list[Any] = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters_json),
            },
        }
        for tool in chat.tools
    ]
    expected = theirs(template).apply_chat_template(
        [as_mapping(message) for message in chat.messages],
        tools=tools or None,
        add_generation_prompt=not chat.continues_last,
        continue_final_message=chat.continues_last,
        tokenize=False,
        **chat.template_arguments,
    )
    assert ChatTemplate(template, {}).render(chat) == expected


def test_a_model_is_not_told_of_tools_that_it_shall_not_use() -> None:
    tool = Function("f", "", "")
    told, silent = (
        ChatTemplate(KEEPING, {}).render(ChatPrompt((Message("user", "hi"),), (tool,), choice))
        for choice in (0, TOOL_CHOICE_NONE)
    )
    assert "<tools>" in told
    assert "<tools>" not in silent


def test_a_template_that_leaves_out_what_is_to_be_continued_says_so() -> None:
    with pytest.raises(TemplateError, match="leaves out the message that is to be continued"):
        ChatTemplate("{{ messages[0].content }}", {}).render(
            ChatPrompt((Message("user", "a"), Message("assistant", "b")), continues_last=True)
        )


@pytest.mark.parametrize(
    ("source", "takes_tools"),
    [(KEEPING, True), ("{{ messages[0].content }}", False), ("{% set tools = 1 %}{{ tools }}", False)],
)
def test_it_is_known_whether_a_template_looks_at_tools(source: str, *, takes_tools: bool) -> None:
    assert ChatTemplate(source, {}).takes_tools is takes_tools
