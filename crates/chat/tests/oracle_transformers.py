"""Renders the templates of `data/families` with `transformers`, as cases for the test `families.rs`.

    pip install transformers==5.24.0 jinja2==3.1.6
    python oracle_transformers.py

The templates were written for this test after the formats that the families publish: none is a copy, each uses what the
real one uses of the language. Every template meets every conversation of `data/conversations.json`. The clock of
`strftime_now` is set. Output: `data/families.json`, for each template a list of outcomes in the order of the
conversations: a text, `{"raised": message}` where the template itself refuses, or `null` for any other error.
"""

import datetime
import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils as utils

DATA = pathlib.Path(__file__).parent / "data"
NOW = datetime.datetime(2026, 2, 3, 4, 5, 6)
# Templates that concatenate arguments with texts: they expect them as JSON text.
ARGUMENTS_AS_TEXT = {"deepseek_v3", "deepseek_r1"}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def messages_of(conversation, as_text):
    messages = json.loads(json.dumps(conversation["messages"]))
    for message in messages:
        for call in message.get("tool_calls", []) if as_text else []:
            function = call["function"]
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return utils._normalize_chat_messages(messages)


def render(source, conversation, tools, as_text):
    try:
        rendered, _ = utils.render_jinja_template(
            conversations=[messages_of(conversation, as_text)],
            tools=tools if "tools" in conversation else None,
            chat_template=source,
            add_generation_prompt=conversation["generation"],
            bos_token="<s>",
            eos_token="</s>",
            **conversation.get("variables", {}),
        )
        return rendered[0]
    except jinja2.exceptions.TemplateError as error:
        return {"raised": str(error)} if type(error) is jinja2.exceptions.TemplateError else None
    except (TypeError, AttributeError, ValueError, KeyError, RecursionError):
        return None


def main():
    utils.datetime = Clock
    conversations = json.loads((DATA / "conversations.json").read_text(encoding="utf-8"))
    tools = json.loads((DATA / "tools.json").read_text(encoding="utf-8"))
    outcomes = {}
    for path in sorted((DATA / "families").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        as_text = path.stem in ARGUMENTS_AS_TEXT
        outcomes[path.stem] = [render(source, conversation, tools, as_text) for conversation in conversations]
        texts = sum(isinstance(outcome, str) for outcome in outcomes[path.stem])
        failed = [c["name"] for c, o in zip(conversations, outcomes[path.stem]) if o is None]
        print(f"{path.stem:16} {texts} texts, failed: {failed}")
    lines = ",\n".join(
        f"{json.dumps(name)}: [\n"
        + ",\n".join(json.dumps(outcome, ensure_ascii=False, separators=(",", ":")) for outcome in list_)
        + "\n]"
        for name, list_ in outcomes.items()
    )
    (DATA / "families.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8", newline="\n")


main()
