"""The official client of OpenAI: chat, streams, tools, forms, embeddings, models, errors."""

import openai
import pytest
from conftest import ANSWER, ARGUMENTS, QUESTION, SCHEMA, check_arguments, check_number

MESSAGES = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells the weather", "parameters": ARGUMENTS}}


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_chat(client):
    answer = client.chat.completions.create(model="default", messages=MESSAGES)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_with_usage(client):
    chunks = list(
        client.chat.completions.create(
            model="default", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage.completion_tokens > 0


def test_several_answers_stop_seed_and_logprobs(client):
    answer = client.chat.completions.create(
        model="default", messages=MESSAGES, n=2, seed=1, temperature=1.0, logprobs=True, top_logprobs=2, max_tokens=8
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    answer = client.chat.completions.create(model="default", messages=MESSAGES, stop=["utility"])
    assert answer.choices[0].message.content == "An archiving "


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_tools_forced(client, choice):
    answer = client.chat.completions.create(
        model="default", messages=MESSAGES, tools=[TOOL], tool_choice=choice, max_tokens=200
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    check_arguments(call.function.arguments)


def test_tools_forced_in_a_stream(client):
    name, arguments = "", ""
    for chunk in client.chat.completions.create(
        model="default", messages=MESSAGES, tools=[TOOL], tool_choice="required", max_tokens=200, stream=True
    ):
        for call in chunk.choices[0].delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "weather"
    check_arguments(arguments)


def test_tools_auto_and_results(client):
    answer = client.chat.completions.create(model="default", messages=MESSAGES, tools=[TOOL], tool_choice="auto")
    assert answer.choices[0].finish_reason in ("stop", "tool_calls", "length")
    call = {"id": "call00000", "type": "function", "function": {"name": "weather", "arguments": '{"days": 2}'}}
    conversation = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00000", "content": "rain"},
    ]
    answer = client.chat.completions.create(model="default", messages=conversation, tools=[TOOL], max_tokens=8)
    assert answer.choices[0].message.role == "assistant"


def test_json_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model="default", messages=MESSAGES, response_format=form)
    check_number(answer.choices[0].message.content)


def test_completions(client):
    answer = client.completions.create(model="default", prompt="tar is", max_tokens=4)
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_embeddings(client):
    found = client.embeddings.create(model="default", input=["a cat", "a dog"])
    assert len(found.data) == 2
    assert abs(sum(n * n for n in found.data[0].embedding) - 1) < 1e-3


def test_models(client):
    assert {"default", "swarm"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("default").id == "default"


def test_errors(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=MESSAGES, extra_body={"colour": "red"})
    assert caught.value.param == "colour"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=[{"role": "user", "content": "tar " * 20_000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_swarm(client):
    answer = client.chat.completions.create(model="swarm", messages=MESSAGES)
    assert answer.model_extra["hublab"]["answered_by"]


def test_langchain(url):
    from typing import Annotated

    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import Field

    @tool
    def weather(days: Annotated[int, Field(ge=1, le=7)]) -> str:
        """Tells the weather."""
        return "rain"

    model = ChatOpenAI(model="default", base_url=f"{url}/v1", api_key="none", max_retries=0, max_tokens=200)
    assert model.invoke(QUESTION).content == ANSWER
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == ANSWER
    call = model.bind_tools([weather], tool_choice="weather").invoke(QUESTION).tool_calls[0]
    assert call["name"] == "weather" and 1 <= call["args"]["days"] <= 7
