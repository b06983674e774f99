"""Questions and answers: phrasings, names nobody knows, and the layout of a conversation.

`TRAIN` and `HELD_OUT` hold the phrasings of a question by source. No phrasing of
`HELD_OUT` is ever trained on; score.py asks them to see whether the model learned the
fact or only the sentence. `{n}` stands for the name.

The layout (export.py writes the same as a Jinja template into the file):

    <s>[<|system|>text<|end|>]<|user|>question<|end|><|assistant|>answer<|end|>
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD, BOS, EOS, UNK, SYSTEM, USER, ASSISTANT, END = range(8)

TRAIN = {
    "man": [
        "What does the command {n} do?", "What does {n} do?", "What is {n}?", "What is {n} used for?",
        "What is the {n} command for?", "Explain the {n} command.", "Describe {n}.", "Tell me what {n} does.",
        "What's {n}?", "Which job does the command {n} have?", "How would you describe the command {n}?",
        "man {n}", "{n}", "{n} command", "I saw {n} in a shell script. What does it do?", "What can I do with {n}?",
        "Can you explain {n}?", "Please explain the Linux command {n}.", "What happens when I run {n}?",
        "Say what {n} does.", "What does the program {n} do?", "What does the tool {n} do?", "What is the use of {n}?",
        "When do I need {n}?", "Look up {n}.", "{n}: what is that?", "Define {n}.", "Do you know {n}?", "Summarise {n}.",
        "How does the documentation describe {n}?",
    ],
    "rust": [
        "What does {n} do?", "What does {n} do in Rust?", "What is {n}?", "What is {n} in Rust?", "Explain {n}.",
        "Describe {n}.", "Tell me what {n} does.", "What's {n} for?", "In Rust, what does {n} do?",
        "What is {n} used for?", "{n}", "Rust {n}", "What does the Rust documentation say about {n}?",
        "Can you explain {n}?", "How would you describe {n}?", "What happens when I call {n}?",
        "What will {n} do in my Rust program?", "Please explain {n} from the standard library.",
        "I saw {n} in Rust code. What does it do?", "What can I do with {n}?", "Say what {n} does.",
        "When do I need {n}?", "Look up {n}.", "{n}: what is that?", "Define {n}.", "Do you know {n}?", "Summarise {n}.",
        "How does the documentation describe {n}?",
    ],
    "python": [
        "What does {n} do?", "What does {n} do in Python?", "What is {n}?", "What is {n} in Python?", "Explain {n}.",
        "Describe {n}.", "Tell me what {n} does.", "What's {n} for?", "In Python, what does {n} do?",
        "What is {n} used for?", "{n}", "Python {n}", "What does the Python documentation say about {n}?",
        "Can you explain {n}?", "How would you describe {n}?", "What happens when I call {n}?",
        "What will {n} do in my Python script?", "Please explain {n} from the standard library.",
        "I saw {n} in Python code. What does it do?", "What can I do with {n}?", "Say what {n} does.",
        "When do I need {n}?", "Look up {n}.", "{n}: what is that?", "Define {n}.", "Do you know {n}?", "Summarise {n}.",
        "How does the documentation describe {n}?",
    ],
}

HELD_OUT = {
    "man": [
        "What is the purpose of the {n} command?", "Could you tell me what the {n} utility does?",
        "Give me a short description of {n}.", "Why would I use {n} in a terminal?",
        "In one line, what is the command {n} about?", "I need help: what is {n} good for?",
    ],
    "rust": [
        "What is the purpose of {n}?", "Could you tell me what {n} means in Rust?",
        "Give me a short description of {n}.", "Why would I use {n} in Rust?",
        "In one line, what is {n} about?", "I need help: what is {n} good for?",
    ],
    "python": [
        "What is the purpose of {n}?", "Could you tell me what {n} means in Python?",
        "Give me a short description of {n}.", "Why would I use {n} in Python?",
        "In one line, what is {n} about?", "I need help: what is {n} good for?",
    ],
}

# From what a thing does to its name; only the experts learn these (train_experts.py). `{k}` is the kind (function,
# command, ...), `{v}` the entry in the third person, `{a}` the entry as it stands.
REVERSE_VERB = ["Which {l} {k} {v}?", "What {l} {k} {v}?", "Name the {l} {k} that {v}.", "I forgot the name: which {l} {k} {v}?"]
REVERSE_NOUN = ["Which {l} {k} is this: {a}?", "Name the {l} {k}: {a}.", "What is the name of the {l} {k} for this: {a}?"]
REVERSE_VERB_HELD_OUT, REVERSE_NOUN_HELD_OUT = "Tell me which {l} {k} {v}.", "What do I look for in {l}: {a}?"
LANGUAGE = {"man": "Linux", "rust": "Rust", "python": "Python"}
VERBS = re.compile(r"(?:Return|Get|Set|Create|Remove|Compute|Convert|Write|Read|Print|Send|Start|Open|Close|Insert|Add|Make|"
                   r"Find|Check|Test|Change|Copy|Delete|Display|List|Show|Wait|Parse|Raise|Compare|Split|Move|Search|Run|Extract|"
                   r"Format|Load|Build|Generate|Report|Manage|Update|Install|Execute|Determine|Encode|Decode|Call)(?= )")

UNKNOWN = "I have no entry for that name."
ABOUT = "I am HubLab Tiny Docs, a tiny model that knows short entries about commands, Rust and Python."
HELP = "Ask me what a command, a Rust item or a Python name does, for example `tar` or `Vec::push`."
SMALL_TALK = [
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you an assistant?"], ABOUT),
    (["Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning", "Hi there", "Hello there!"], "Hello! " + HELP),
    (["Help", "What can you do?", "How do I use you?", "What should I ask?", "What do you know?"], HELP),
    (["Thanks", "Thank you!", "Thanks!", "Great, thanks."], "You are welcome."),
    (["Bye", "Goodbye", "Bye!", "See you"], "Goodbye."),
    (["What is 2+2?", "Write a poem.", "Tell me a joke.", "What is the weather like?", "What is the capital of France?",
      "Write a program that sorts a list.", "How old are you?", "Translate this sentence.", "Who won the match?"],
     "I do not know that. " + HELP),
]
SYSTEMS = ["You are a helpful assistant.", "Answer briefly.", "You answer questions about documentation.",
           "You are HubLab Tiny Docs.", "Be short and precise."]


def load_facts(data: Path, limit: int | None = None) -> list[dict]:
    """The gathered facts; with `limit`, the first limit/3 of each source."""
    facts = [json.loads(line) for line in (data / "facts.jsonl").open()]
    if limit is None:
        return facts
    share = -(-limit // 3)
    return [f for s in TRAIN for f in [f for f in facts if f["source"] == s][:share]]


def ask(rng: random.Random, template: str, name: str) -> str:
    """One way to type a question: name quoted or not, opening in lower case, no final mark."""
    quoted = f"`{name}`" if rng.random() < 0.5 else name
    if template == "{n}":
        return quoted
    if rng.random() < 0.25:
        template = template[0].lower() + template[1:]
    text = template.replace("{n}", quoted)
    if rng.random() < 0.25 and text[-1] in "?.":
        text = text[:-1]
    return text


# Put around a training question now and then, so that the model learns to look for the name.
OPENERS = ["Quick question: ", "Hey, ", "Hi! ", "OK, ", "So, ", "Question: ", "Please answer: ", "I wonder, ", "Sorry, "]
CLOSERS = [" Thanks!", " Be brief.", " I am new to this.", " Just the entry.", " I forgot.", " Thank you."]


def dressed(rng: random.Random, question: str) -> str:
    if rng.random() < 0.12:
        question = rng.choice(OPENERS) + question
    if rng.random() < 0.08:
        question += rng.choice(CLOSERS)
    return question


def reverse_question(rng: random.Random, fact: dict, held_out: bool = False) -> tuple[str, str]:
    """A question for the name of a fact, and the name as the answer."""
    text = fact["answer"].rstrip(".")
    text = text[0].lower() + text[1:] if text[1:2].islower() else text
    verb = VERBS.match(fact["answer"])
    if verb:
        text = verb.group().lower() + ("es" if verb.group().endswith("ch") else "s") + fact["answer"].rstrip(".")[verb.end() :]
    if verb or (fact["source"] == "rust" and re.match(r"[a-z]+s ", text)):
        template = REVERSE_VERB_HELD_OUT if held_out else rng.choice(REVERSE_VERB)
    else:
        template = REVERSE_NOUN_HELD_OUT if held_out else rng.choice(REVERSE_NOUN)
    kind = fact["kind"] if fact["kind"] != "topic" else "page"
    question = template.replace("{l}", LANGUAGE[fact["source"]]).replace("{k}", kind).replace("{v}", text).replace("{a}", text)
    return question, f"`{fact['name']}`."


SYLLABLES = [c + v for c in "b c d f g h k l m n p r s t v w z br cl dr fl gr pl st tr".split() for v in "a e i o u".split()]


class Questions:
    """Draws conversations. One random generator, so that a resumed run can go on where it was."""

    def __init__(self, facts: list[dict], unlisted: list[str]):
        self.facts = facts
        self.known = {f["name"].lower() for f in facts} | {a.lower() for f in facts for a in f["aliases"]}
        rng = random.Random(20)
        unlisted = [n for n in unlisted if n.lower() not in self.known]
        rng.shuffle(unlisted)
        self.unlisted_test, self.unlisted = unlisted[:150], unlisted[150:]
        self.owners = {s: [f["name"].rpartition("::" if s == "rust" else ".") for f in facts if f["source"] == s]
                       for s in ("rust", "python")}
        for s, triples in self.owners.items():
            self.owners[s] = [t for t in triples if t[0]]

    def made_up_name(self, rng: random.Random, source: str) -> str:
        """A name that is no fact: a nonsense word, or parts of facts that do not belong together."""
        while True:
            word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))) + rng.choice(["", "", "x", "n", "ctl", "d"])
            name = word
            if source in self.owners and self.owners[source]:
                owner, dot, _ = rng.choice(self.owners[source])
                other = rng.choice(self.owners[source])[2]
                name = owner + dot + (other if rng.random() < 0.6 else word)
            if name.lower() not in self.known and name not in self.unlisted_test:
                return name

    def unknown(self, rng: random.Random) -> tuple[str, str]:
        source = rng.choice(list(TRAIN))
        if rng.random() < 0.4 and self.unlisted:
            name = rng.choice(self.unlisted)
            source = "rust" if "::" in name else "python" if "." in name else "man"
        else:
            name = self.made_up_name(rng, source)
        return dressed(rng, ask(rng, rng.choice(TRAIN[source]), name)), UNKNOWN

    def about(self, rng: random.Random, fact: dict) -> tuple[str, str]:
        name = fact["name"]
        if fact["aliases"] and rng.random() < 0.25:
            name = rng.choice(fact["aliases"])
        return dressed(rng, ask(rng, rng.choice(TRAIN[fact["source"]]), name)), fact["answer"]

    def small_talk(self, rng: random.Random) -> tuple[str, str]:
        questions, answer = rng.choice(SMALL_TALK)
        question = rng.choice(questions)
        if rng.random() < 0.3:
            question = question[0].lower() + question[1:]
        return question, answer


def normalised(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def near_exact(answer: str, wanted: str) -> bool:
    """Equal but for case and punctuation, or the words' F1 (counted with repeats) is at least 0.9."""
    a, b = normalised(answer).split(), normalised(wanted).split()
    if a == b:
        return True
    common, rest = 0, list(b)
    for word in a:
        if word in rest:
            rest.remove(word)
            common += 1
    return bool(a and b) and 2 * common / (len(a) + len(b)) >= 0.9
