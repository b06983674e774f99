"""What all clients have in common: where the service is, and what they ask it.

The built-in model is small and was never told of tools; what is forced is enforced whatever the model, so structure is what
these tests look at."""

import json
import os

import pytest

QUESTION = "What does tar do?"
ANSWER = "An archiving utility."
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["n"],
    "additionalProperties": False,
}
ARGUMENTS = {
    "type": "object",
    "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["HUBLAB_URL"]


def check_number(text: str) -> None:
    """Whether a text obeys SCHEMA."""
    assert 1 <= json.loads(text)["n"] <= 3


def check_arguments(arguments) -> None:
    """Whether arguments, or their text, obey ARGUMENTS."""
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert list(arguments) == ["days"] and 1 <= arguments["days"] <= 7
