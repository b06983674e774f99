// Where conversations are: on the service, or, when it keeps none, in this tab only. Both have the same methods, so the
// page asks no further.

import { file, json, request, stream } from "./api.js";
import { conversationsIn, fileOf, parts } from "./transfer.js";
import { pathTo } from "./tree.js";

const BASE = "api/conversations";

/** The service keeps them. */
export class ServiceKeeper {
  kept = true;

  /** Whether something is lost with this tab. */
  isLossy = () => false;

  async list(cursor, limit) {
    const page = await json(`${BASE}?limit=${limit}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    return { items: page.conversations, next: page.next };
  }

  async search(text) {
    const found = await json(`${BASE}?search=${encodeURIComponent(text)}&limit=50`);
    return { items: found.hits, incomplete: !found.complete };
  }

  get = (id) => json(`${BASE}/${id}`);

  /** Begins a conversation: it gets its id. */
  async create(conversation) {
    const { model, settings } = conversation;
    const { id, created, updated } = await json(BASE, { method: "POST", body: { model, settings } });
    Object.assign(conversation, { id, created, updated });
  }

  update = (id, change) => json(`${BASE}/${id}`, { method: "PATCH", body: change });
  remove = (id) => request(`${BASE}/${id}`, { method: "DELETE" });
  removeAll = () => request(`${BASE}?all=true`, { method: "DELETE" });
  export = (id, format) => file(`${BASE}/${id}/export?format=${format}`);
  exportAll = () => file(`${BASE}/export`);

  /** Takes a file whole or not at all, also one that has to be sent in parts; gives how many conversations it held. */
  async import(blob, bytesMax) {
    const taken = [];
    try {
      for await (const part of parts(blob, bytesMax)) taken.push(...(await json(`${BASE}/import`, { method: "POST", body: part })).ids);
    } catch (error) {
      for (const id of taken) await this.remove(id);
      throw error;
    }
    return taken.length;
  }

  /** Events of an answer; the service keeps the question before and the answer after. */
  answer(conversation, { parent, text, attachments }, signal) {
    const { model, settings } = conversation;
    const body = { parent, text, attachments, model, settings };
    return stream(`${BASE}/${conversation.id}/answer`, { body, signal });
  }

  /** Ends the answer; its last event still comes. */
  stop = (id) => request(`${BASE}/${id}/stop`, { method: "POST" });
}

/** Nobody keeps them: they are gone with this tab. */
export class TabKeeper {
  kept = false;
  conversations = new Map();

  isLossy = () => this.conversations.size > 0;

  #byTime = () => [...this.conversations.values()].sort((a, b) => b.updated - a.updated);

  async list() {
    return { items: this.#byTime(), next: null };
  }

  async search(text) {
    const needle = text.toLowerCase();
    const holds = (part) => part.toLowerCase().includes(needle);
    const hit = (c) => holds(c.title) || c.messages.some((m) => holds(m.text) || (m.attachments ?? []).some((f) => holds(f.text)));
    return { items: this.#byTime().filter(hit), incomplete: false };
  }

  async get(id) {
    const found = this.conversations.get(id);
    if (!found) throw new Error("This conversation was in a tab that is closed.");
    return found;
  }

  async create(conversation) {
    const id = crypto.getRandomValues(new Uint8Array(16)).reduce((text, byte) => text + byte.toString(16).padStart(2, "0"), "");
    const now = Date.now();
    Object.assign(conversation, { id, created: conversation.created || now, updated: conversation.updated || now });
    this.conversations.set(id, conversation);
  }

  async update(id, change) {
    return Object.assign(await this.get(id), change);
  }

  async remove(id) {
    this.conversations.delete(id);
  }

  async removeAll() {
    this.conversations.clear();
  }

  async export(id, format) {
    const conversation = await this.get(id);
    if (format === "json") return fileOf([conversation]);
    const turns = pathTo(conversation.messages, conversation.active).map((message) => {
      const files = (message.attachments ?? []).map(({ name, text }) => `\n\nFile \`${name}\`:\n\n${fenced(text)}`).join("");
      return `## ${message.role === "user" ? "You" : message.model || "Model"}\n\n${message.text}${files}\n`;
    });
    return new Blob([`# ${conversation.title}\n\n`, turns.join("\n")], { type: "text/markdown" });
  }

  exportAll = async () => fileOf(this.#byTime());

  async import(blob) {
    const conversations = await conversationsIn(blob);
    for (const conversation of conversations) await this.create(conversation);
    return conversations.length;
  }

  async *answer(conversation, { parent, text, attachments }, signal) {
    const add = (message) => {
      const id = conversation.messages.reduce((last, other) => Math.max(last, other.id), -1) + 1;
      const kept = { id, created: Date.now(), ...message };
      conversation.messages.push(kept);
      conversation.active = id;
      conversation.updated = kept.created;
      return kept;
    };
    let question = conversation.messages.find((message) => message.id === parent);
    if (text !== undefined) {
      question = add({ role: "user", parent: parent ?? undefined, text, attachments });
      conversation.title ||= [...(text.trim() || attachments?.[0]?.name || "").split("\n")[0]].slice(0, 60).join("");
    }
    yield { event: "start", user: text === undefined ? null : question, parent: question.id, conversation };
    const written = { role: "assistant", parent: question.id, text: "", model: conversation.model, finish: "stopped" };
    const body = {
      model: conversation.model,
      settings: conversation.settings,
      messages: pathTo(conversation.messages, question.id).map(({ role, text: said, attachments: files }) => ({
        role, text: said, attachments: files ?? [],
      })),
    };
    try {
      for await (const event of stream("api/answer", { body, signal })) {
        if (event.event === "delta") written.text += event.text;
        if (event.event === "reasoning") written.reasoning = (written.reasoning ?? "") + event.text;
        if (event.event === "done" || event.event === "error") {
          const { id: _, parent: __, created: ___, ...told } = event.message ?? {};
          const message = event.message ? add({ ...told, parent: question.id }) : null;
          yield { ...event, message, conversation };
          return;
        }
        yield event;
      }
    } catch (error) {
      if (written.text || written.reasoning) yield { event: "done", message: add(written), conversation };
      if (error.name !== "AbortError") throw error;
    }
  }

  /** There is nothing to tell the service: it notices that the connection is closed. */
  async stop() {
    return null;
  }
}

/** A text between more backticks than stand together in it. */
function fenced(text) {
  const longest = (text.match(/`+/g) ?? []).reduce((most, run) => Math.max(most, run.length), 2);
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
}
