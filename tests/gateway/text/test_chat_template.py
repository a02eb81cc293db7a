import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.request import ChatPrompt, Message
from gateway.text.chat_template import ChatTemplate, TemplateError

HELLO = ChatPrompt((Message("user", "Hello"),))


def render(source: str) -> str:
    return ChatTemplate(source, {}).render(HELLO)


def test_a_template_sees_the_messages_the_special_tokens_and_the_generation_prompt() -> None:
    source = (
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    turns = ChatPrompt((Message("system", "Be brief."), Message("user", "Hi")))
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(turns) == "<s>[system]Be brief.[user]Hi[assistant]"


def test_there_are_no_tools_and_no_documents() -> None:
    assert render("{{ tools is none and documents is none }}") == "True"


def test_special_tokens_do_not_replace_what_every_template_sees() -> None:
    assert ChatTemplate("{{ messages[0].content }}", {"messages": "mine"}).render(HELLO) == "Hello"


def test_block_lines_leave_no_white_space() -> None:
    assert render("{% if true %}\n    {% set x = 1 %}\nyes\n{% endif %}\n") == "yes\n"


def test_loops_may_break_and_continue() -> None:
    source = (
        "{% for n in range(9) %}{% if n == 1 %}{% continue %}{% elif n == 3 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    )
    assert render(source) == "02"


def test_the_generation_tag_changes_nothing() -> None:
    source = "{% for m in messages %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endfor %}"
    assert render(source) == "<Hello>"


@given(role=st.text(), content=st.text())
def test_tojson_writes_plain_json_without_escapes_for_html(role: str, content: str) -> None:
    rendered = ChatTemplate("{{ messages | tojson }}", {}).render(ChatPrompt((Message(role, content),)))
    assert rendered == json.dumps([{"role": role, "content": content}], ensure_ascii=False)


def test_tojson_takes_the_arguments_that_templates_pass() -> None:
    source = "{{ {'b': '<ä>', 'a': 1} | tojson(indent=1, sort_keys=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}"
    assert render(source) == '{\n "a": 1,\n "b": "<ä>"\n}[1,2]'


def test_strftime_now_gives_the_local_date() -> None:
    before = datetime.now().astimezone().strftime("%Y-%m-%d")
    rendered = render("{{ strftime_now('%Y-%m-%d') }}")
    assert before <= rendered <= datetime.now().astimezone().strftime("%Y-%m-%d")


def test_namespaces_and_dicts_work_as_in_transformers() -> None:
    source = (
        "{% set ns = namespace(n=1, self=2) %}{% for _ in range(3) %}{% set ns.n = ns.n * 2 %}{% endfor %}"
        "{{ ns.n }}{{ ns.self }}{{ dict(a=1).a }}{{ dict.fromkeys(['k'], 5).k }}"
    )
    assert render(source) == "8215"


def test_a_refusal_of_the_template_reaches_the_caller_in_its_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^the model's chat template refuses the messages: roles must alternate$"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.missing.more }}",
        "{{ messages[7].content }}",
        "{{ 'text' + none }}",
        "{{ 1 / 0 }}",
        "{{ [].pop() }}",
        "{{ range(10 ** 9) | list }}",
        "{{ strftime_now(5) }}",
        "{{ 'a'.encode('no such codec') }}",
        "{{ 'a' * 10 ** 18 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% include 'other' %}",
    ],
)
def test_a_template_that_fails_says_so(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^the model's chat template fails on the messages: \w+Error"):
        render(source)


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{ 'open", "{% no_such_tag %}", "{% for x in y %}" * 30 + "{% endfor %}" * 30]
)
def test_a_source_that_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^the model's chat template is broken: \w+Error"):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ (messages | attr('__class__')).__mro__ }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ dict.update(messages[0], role='system') }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._hidden = 1 %}",
        "{{ self._TemplateReference__context.environment.globals }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


@given(content=st.text() | st.sampled_from(["{{ 7 * 7 }}", "{% raw %}", "{# x #}", "{{ raise_exception('no') }}"]))
def test_what_callers_write_is_data(content: str) -> None:
    template = ChatTemplate("{% for m in messages %}<{{ m.content }}>{% endfor %}", {})
    assert template.render(ChatPrompt((Message("user", content),))) == f"<{content}>"


def test_a_chat_without_messages_is_refused() -> None:
    with pytest.raises(TemplateError, match="at least one message"):
        ChatTemplate("anything", {}).render(ChatPrompt(()))
