// Exported files: what they look like, a large one in parts that the service takes, and what of a foreign one may be shown.

const FORMAT = { format: "hublab-conversations", version: 1 };
/** How a file begins and ends; each line between is a conversation. */
const HEAD = `{"format":"${FORMAT.format}","version":${FORMAT.version},"conversations":[`;
const TAIL = "]}";
const [NEWLINE, COMMA] = [10, 44];

/** A file of conversations. */
export function fileOf(conversations) {
  const lines = conversations.map(({ title, created, updated, model, settings, active, messages }) =>
    JSON.stringify({ title, created, updated, model, settings, active, messages }));
  return new Blob([`${HEAD}\n${lines.join(",\n")}\n${TAIL}\n`], { type: "application/json" });
}

/** The file as files of `bytesMax` at most, each with whole conversations; nothing of it is held in memory. */
export async function* parts(file, bytesMax) {
  if (file.size <= bytesMax) {
    yield file;
    return;
  }
  const room = bytesMax - HEAD.length - TAIL.length - 2;
  const part = (begin, end) => new Blob([HEAD, "\n", file.slice(begin, end), "\n", TAIL]);
  const tooLarge = () => new Error(`“${file.name}” is too large: ${bytesMax} bytes of a file are taken at once, and it cannot be ` +
    "divided, because it is not as a service wrote it.");
  if ((await file.slice(0, HEAD.length + 1).text()) !== `${HEAD}\n`) throw tooLarge();
  let from = HEAD.length + 1;
  let to = from;
  for await (const { begin, end } of conversationsOf(file, from)) {
    if (end - begin > room) throw tooLarge();
    if (end - from > room) {
      yield part(from, to);
      from = begin;
    }
    to = end;
  }
  if (to > from) yield part(from, to);
}

/** Where each line with a conversation begins and ends, its comma left out. */
async function* conversationsOf(file, from) {
  let at = from;
  let begin = from;
  let last = 0; // the byte before
  for await (const bytes of file.slice(from).stream()) {
    for (const byte of bytes) {
      if (byte === NEWLINE) {
        const end = last === COMMA ? at - 1 : at;
        if (end - begin > TAIL.length) yield { begin, end };
        begin = at + 1;
      }
      last = byte;
      at++;
    }
  }
}

/** The conversations of a file that no service has looked at: what is not as it must be is refused, what is unknown left out. */
export async function conversationsIn(blob) {
  const refuse = () => {
    throw new Error("This is not a file of exported conversations.");
  };
  let file;
  try {
    file = JSON.parse(await blob.text());
  } catch {
    refuse();
  }
  if (file?.format !== FORMAT.format || file.version !== FORMAT.version || !Array.isArray(file.conversations)) refuse();
  return file.conversations.map((conversation) => {
    if (!Array.isArray(conversation?.messages)) refuse();
    const messages = conversation.messages.map((message) => messageOf(message) ?? refuse());
    const active = messages.some(({ id }) => id === conversation.active) ? conversation.active : messages.at(-1)?.id ?? null;
    const { title, model, settings, created, updated } = conversation;
    return { title: text(title), model: text(model), settings: object(settings) ?? {}, created: number(created) ?? 0,
      updated: number(updated) ?? 0, messages, active };
  });
}

const text = (value) => (typeof value === "string" ? value : "");
const number = (value) => (Number.isFinite(value) ? value : undefined);
const object = (value) => (value !== null && typeof value === "object" && !Array.isArray(value) ? value : undefined);
const list = (value) => (Array.isArray(value) ? value : []);

function messageOf(value) {
  const { id, parent, role, created, usage } = object(value) ?? {};
  const isId = (one) => Number.isInteger(one) && one >= 0;
  if (!isId(id) || !(role === "user" || role === "assistant") || typeof value.text !== "string") return null;
  if (parent !== undefined && parent !== null && !isId(parent)) return null;
  return {
    id, parent, role, text: value.text, created: number(created) ?? 0, reasoning: text(value.reasoning), model: text(value.model),
    finish: ["stop", "length", "stopped", "failed"].find((finish) => finish === value.finish),
    attachments: list(value.attachments).map((file) => ({ name: text(file?.name), text: text(file?.text) })),
    usage: Number.isFinite(usage?.completion_tokens) && Number.isFinite(usage.prompt_tokens) ? usage : undefined,
    experts: list(value.experts).map((by) => ({ name: text(by?.name), weight: number(by?.weight) ?? 0, reason: text(by?.reason) })),
    notes: list(value.notes).map(text),
  };
}
