"""Renders chat templates with PyPI `jinja2`, as cases for the test `rendering.rs`.

    python oracle_jinja2.py

Templates are the built-in ones (`../src/templates`) and the ones in `data/templates`, which were written for this test
from the features that published templates use. The environment is set up as `transformers` does for
`apply_chat_template`. One case file for each template is written to `data/rendered`; its format is described in
`rendering.rs`.
"""

import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent

CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "What is 2+2?")],
    [("user", " Hello \n"), ("assistant", "Hi! How can I help? "), ("user", "Name a colour.\n")],
    [
        ("system", "  You speak\nlike a pirate. \n"),
        ("user", "Who are you?"),
        ("assistant", "<think>\nA pirate, say so.\n</think>\n\nArr, a pirate!"),
        ("user", "And what do you want?"),
        ("assistant", "<think>gold</think>Gold."),
        ("user", "Have some: 🦙 é \u00a0\u3000 'quotes' \"double\" <b>&amp;</b> \\ \t end"),
    ],
    [("user", "")],
    [("user", "Hello"), ("assistant", "")],
    [("assistant", "I start."), ("user", "Why?")],
    [("user", "one"), ("user", "two"), ("assistant", "three")],
    [("system", ""), ("user", "{{ bos_token }} {% raw %} {# no template here #}")],
    [("user", "你好，世界！\u2028ſﬁ"), ("assistant", "\u0000\u0007 control")],
    [("tool", '{"temperature": 21.5}'), ("user", "So?")],
    [("user", "word " * 100), ("assistant", "ok"), ("user", "again " * 80)],
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def escape(text):
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")


def render(template, messages, generation):
    messages = [{"role": role, "content": content} for role, content in messages]
    try:
        text = template.render(
            messages=messages,
            add_generation_prompt=generation,
            bos_token="<s>",
            eos_token="</s>",
            tools=None,
            documents=None,
        )
        return "= " + escape(text)
    except jinja2.exceptions.TemplateError as error:
        return ("! " + escape(str(error))) if type(error) is jinja2.exceptions.TemplateError else "?"


def main():
    target = HERE / "data" / "rendered"
    target.mkdir(parents=True, exist_ok=True)
    sources = [*(HERE.parent / "src" / "templates").glob("*.jinja"), *(HERE / "data" / "templates").glob("*.jinja")]
    for path in sorted(sources):
        template = environment().from_string(path.read_text(encoding="utf-8"))
        lines = []
        for messages in [[], *CONVERSATIONS]:
            for generation in [False, True]:
                lines += [f"{role}: {escape(content)}" for role, content in messages]
                lines += [f"> {generation}".lower(), render(template, messages, generation)]
        (target / f"{path.stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        print(path.stem, sum(line.startswith("> ") for line in lines), "cases")


main()
