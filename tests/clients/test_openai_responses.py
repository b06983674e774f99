"""The official client of OpenAI: responses, which are kept."""

import openai
import pytest
from conftest import ANSWER, ARGUMENTS, QUESTION, SCHEMA, check_arguments, check_number

TOOL = {"type": "function", "name": "weather", "parameters": ARGUMENTS, "strict": True}


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_a_text(client):
    answer = client.responses.create(model="default", input=QUESTION, instructions="", metadata={"a": "b"})
    assert answer.output_text == ANSWER
    assert answer.status == "completed"
    assert answer.metadata == {"a": "b"}
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_stream(client):
    events = list(client.responses.create(model="default", input=QUESTION, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER
    with client.responses.stream(model="default", input=QUESTION) as stream:
        assert stream.get_final_response().output_text == ANSWER


def test_kept_answers(client):
    first = client.responses.create(model="default", input=QUESTION)
    assert client.responses.retrieve(first.id).output_text == ANSWER
    second = client.responses.create(model="default", input="And gzip?", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.content[0].text for item in items] == [QUESTION, ANSWER, "And gzip?"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    loose = client.responses.create(model="default", input=QUESTION, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(loose.id)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_tools(client, choice):
    answer = client.responses.create(
        model="default", input=QUESTION, tools=[TOOL], tool_choice=choice, max_output_tokens=200
    )
    call = answer.output[0]
    assert call.type == "function_call" and call.name == "weather"
    check_arguments(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    client.responses.create(
        model="default", previous_response_id=answer.id, input=[result], tools=[TOOL], max_output_tokens=8
    )


def test_tools_in_a_stream(client):
    events = list(
        client.responses.create(
            model="default", input=QUESTION, tools=[TOOL], tool_choice="required", max_output_tokens=200, stream=True
        )
    )
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    check_arguments(done.arguments)
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == done.arguments


def test_items_and_forms(client):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "And gzip?"},
    ]
    form = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}
    check_number(client.responses.create(model="default", input=items, text=form).output_text)


def test_logprobs(client):
    answer = client.responses.create(
        model="default", input=QUESTION, include=["message.output_text.logprobs"], top_logprobs=2
    )
    assert len(answer.output[0].content[0].logprobs[0].top_logprobs) == 2


def test_an_answer_that_is_cut(client):
    answer = client.responses.create(model="default", input=QUESTION, max_output_tokens=1)
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"


def test_errors(client):
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="default", input=QUESTION, background=True)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="default", input=QUESTION, tools=[{"type": "web_search"}])
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody", input=QUESTION)
