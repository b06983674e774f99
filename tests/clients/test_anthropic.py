"""The official client of Anthropic: messages, streams, tools, counts, models, errors."""

import anthropic
import pytest
from conftest import ANSWER, ARGUMENTS, QUESTION, SCHEMA, check_arguments, check_number

MESSAGES = [{"role": "user", "content": QUESTION}]
TOOL = {"name": "weather", "description": "Tells the weather", "input_schema": ARGUMENTS}


@pytest.fixture(scope="module")
def client(url):
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def test_a_message(client):
    answer = client.messages.create(model="default", max_tokens=64, messages=MESSAGES, metadata={"user_id": "x"})
    assert [block.text for block in answer.content] == [ANSWER]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0
    assert answer._request_id.startswith("req_")


def test_blocks_and_system(client):
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    answer = client.messages.create(
        model="default",
        max_tokens=8,
        system=system,
        messages=messages,
        # Fields that this version of the client has no names for any more.
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 20},
    )
    assert answer.role == "assistant"


def test_stream(client):
    with client.messages.stream(model="default", max_tokens=64, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == ANSWER
        answer = stream.get_final_message()
    assert answer.content[0].text == ANSWER and answer.stop_reason == "end_turn"
    events = [
        event.type for event in client.messages.create(model="default", max_tokens=64, messages=MESSAGES, stream=True)
    ]
    assert events[0] == "message_start" and events[-1] == "message_stop"


def test_limits_and_stops(client):
    answer = client.messages.create(model="default", max_tokens=1, messages=MESSAGES)
    assert answer.stop_reason == "max_tokens"
    answer = client.messages.create(model="default", max_tokens=64, messages=MESSAGES, stop_sequences=["utility"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "utility")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}])
def test_tools_forced(client, choice):
    asked = {"model": "default", "max_tokens": 200, "messages": MESSAGES, "tools": [TOOL], "tool_choice": choice}
    answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    call = answer.content[0]
    assert call.type == "tool_use" and call.name == "weather"
    check_arguments(call.input)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    check_arguments(streamed.content[0].input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}]}
    conversation = [*MESSAGES, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    client.messages.create(model="default", max_tokens=8, messages=conversation, tools=[TOOL])


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_tools_free(client, choice):
    answer = client.messages.create(
        model="default", max_tokens=16, messages=MESSAGES, tools=[TOOL], tool_choice={"type": choice}
    )
    assert choice == "auto" or all(block.type == "text" for block in answer.content)


def test_json_schema(client):
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    answer = client.messages.create(
        model="default", max_tokens=64, messages=MESSAGES, extra_body={"output_config": form}
    )
    check_number(answer.content[0].text)


def test_thinking_off(client):
    client.messages.create(model="default", max_tokens=8, messages=MESSAGES, thinking={"type": "disabled"})
    with pytest.raises(anthropic.BadRequestError):
        thinking = {"type": "enabled", "budget_tokens": 1024}
        client.messages.create(model="default", max_tokens=2048, messages=MESSAGES, thinking=thinking)


def test_count_tokens(client):
    plain = client.messages.count_tokens(model="default", messages=MESSAGES).input_tokens
    assert 0 < plain < client.messages.count_tokens(model="default", messages=MESSAGES, tools=[TOOL]).input_tokens


def test_models(client):
    assert {"default", "swarm"} <= {model.id for model in client.models.list(limit=1)}
    assert client.models.retrieve("default").type == "model"


def test_errors(client):
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="nobody", max_tokens=8, messages=MESSAGES)
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError):
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
        client.messages.create(model="default", max_tokens=8, messages=[{"role": "user", "content": [image]}])
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="default", max_tokens=8, messages=MESSAGES, extra_body={"container": "x"})
