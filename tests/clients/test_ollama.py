"""The official client of Ollama: generate, chat, embed, models, errors."""

import ollama
import pytest
from conftest import ANSWER, ARGUMENTS, QUESTION, SCHEMA, check_number

MESSAGES = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells the weather", "parameters": ARGUMENTS}}


@pytest.fixture(scope="module")
def client(url):
    return ollama.Client(host=url)


def test_generate(client):
    answer = client.generate(model="default", prompt=QUESTION, options={"num_ctx": 512, "seed": 1, "temperature": 0})
    assert answer.response == ANSWER
    assert answer.done and answer.done_reason == "stop" and answer.total_duration > 0 and answer.eval_count > 0
    pieces = list(client.generate(model="default:latest", prompt=QUESTION, stream=True))
    assert "".join(piece.response for piece in pieces) == ANSWER and pieces[-1].done


def test_generate_raw_and_system(client):
    assert client.generate(model="default", prompt="tar is", raw=True, options={"num_predict": 3}).eval_count <= 3
    assert client.generate(model="default", prompt=QUESTION, system="Be brief.", options={"num_predict": 8}).done


def test_load_and_free(client):
    assert client.generate(model="default", keep_alive="5m").done_reason == "load"
    assert client.chat(model="default", messages=[], keep_alive=0).done_reason == "unload"


def test_chat(client):
    answer = client.chat(model="default", messages=MESSAGES, keep_alive=-1)
    assert answer.message.content == ANSWER and answer.message.role == "assistant"
    pieces = client.chat(model="default", messages=MESSAGES, stream=True, think=False)
    assert "".join(piece.message.content for piece in pieces) == ANSWER


def test_forms(client):
    check_number(client.chat(model="default", messages=MESSAGES, format=SCHEMA).message.content)
    check_number(client.generate(model="default", prompt=QUESTION, format=SCHEMA).response)
    answer = client.generate(model="default", prompt=QUESTION, format="json", options={"num_predict": 40})
    assert answer.response.startswith("{")


def test_tools(client):
    answer = client.chat(model="default", messages=MESSAGES, tools=[TOOL], options={"num_predict": 16})
    assert answer.done
    conversation = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"days": 2}}}]},
        {"role": "tool", "tool_name": "weather", "content": "rain"},
    ]
    assert client.chat(model="default", messages=conversation, tools=[TOOL], options={"num_predict": 8}).done


def test_embed(client):
    found = client.embed(model="default", input=["a cat", "a dog"])
    assert len(found.embeddings) == 2
    assert list(client.embeddings(model="default", prompt="a cat").embedding) == list(found.embeddings[0])


def test_models(client):
    assert {"default", "swarm"} <= {model.model for model in client.list().models}
    shown = client.show("default")
    assert shown.details.format == "gguf" and "completion" in shown.capabilities
    assert shown.modelinfo["general.architecture"]
    client.ps()


def test_copy_and_delete(client):
    client.copy("default", "another")
    assert client.chat(model="another", messages=MESSAGES).message.content == ANSWER
    client.delete("another")
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("another")
    assert caught.value.status_code == 404


def test_errors(client):
    for status, ask in [
        (404, lambda: client.chat(model="nobody", messages=MESSAGES)),
        (400, lambda: client.generate(model="default", prompt=QUESTION, suffix="x")),
        (400, lambda: client.chat(model="default", messages=MESSAGES, think=True)),
        (403, lambda: client.pull("llama3")),
    ]:
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == status
