// Where conversations are: on the service, or, when it keeps none, in this tab only. Both have the same methods, so the
// page asks no further.

import { json, request, stream } from "./api.js";
import { pathTo } from "./tree.js";

const BASE = "api/conversations";

/** The service keeps them. */
export class ServiceKeeper {
  kept = true;

  async list(cursor) {
    const page = await json(`${BASE}?limit=50${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
    return { items: page.conversations, next: page.next };
  }

  async search(text) {
    const found = await json(`${BASE}?search=${encodeURIComponent(text)}&limit=50`);
    return { items: found.hits, incomplete: !found.complete };
  }

  get = (id) => json(`${BASE}/${id}`);

  async create(fields) {
    return { ...(await json(BASE, { method: "POST", body: fields })), messages: [] };
  }

  update = (id, change) => json(`${BASE}/${id}`, { method: "PATCH", body: change });
  remove = (id) => request(`${BASE}/${id}`, { method: "DELETE" });
  removeAll = () => request(`${BASE}?all=true`, { method: "DELETE" });
  export = async (id, format) => (await request(`${BASE}/${id}/export?format=${format}`)).blob();
  exportAll = async () => (await request(`${BASE}/export`)).blob();
  import = (blob) => json(`${BASE}/import`, { method: "POST", body: blob });

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

  #byTime = () => [...this.conversations.values()].sort((a, b) => b.updated - a.updated);

  async list() {
    return { items: this.#byTime(), next: null };
  }

  async search(text) {
    const needle = text.toLowerCase();
    const holds = (part) => part.toLowerCase().includes(needle);
    const hit = (c) => holds(c.title) || c.messages.some((m) => holds(m.text) || (m.attachments ?? []).some((f) => holds(f.text)));
    return { items: this.#byTime().filter(hit).map((c) => ({ ...c, excerpt: c.title })), incomplete: false };
  }

  async get(id) {
    const found = this.conversations.get(id);
    if (!found) throw new Error("This conversation was in a tab that is closed.");
    return found;
  }

  async create(fields) {
    const now = Date.now();
    const id = crypto.getRandomValues(new Uint8Array(16)).reduce((text, byte) => text + byte.toString(16).padStart(2, "0"), "");
    const conversation = { title: "", model: "", settings: {}, ...fields, id, created: now, updated: now, active: null, messages: [] };
    this.conversations.set(id, conversation);
    return conversation;
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
    if (format === "json") return this.#file([conversation]);
    const turns = pathTo(conversation.messages, conversation.active).map((message) => {
      const files = (message.attachments ?? []).map((file) => `\n\nFile \`${file.name}\`:\n\n~~~~\n${file.text}\n~~~~`).join("");
      return `## ${message.role === "user" ? "You" : message.model || "Model"}\n\n${message.text}${files}\n`;
    });
    return new Blob([`# ${conversation.title}\n\n`, turns.join("\n")], { type: "text/markdown" });
  }

  exportAll = async () => this.#file(this.#byTime());

  #file(conversations) {
    const file = { format: "hublab-conversations", version: 1, conversations };
    return new Blob([JSON.stringify(file)], { type: "application/json" });
  }

  async import(blob) {
    let file;
    try {
      file = JSON.parse(await blob.text());
    } catch {
      throw new Error("This is not a file of exported conversations.");
    }
    const turns = (c) => Array.isArray(c?.messages) && c.messages.every((m) => Number.isInteger(m?.id) && typeof m.text === "string");
    if (file?.format !== "hublab-conversations" || !Array.isArray(file.conversations) || !file.conversations.every(turns)) {
      throw new Error("This is not a file of exported conversations.");
    }
    for (const { title, model, settings, messages, active } of file.conversations) {
      const copy = await this.create({ title: String(title ?? ""), model: String(model ?? ""), settings: settings ?? {} });
      copy.messages = messages;
      copy.active = active ?? messages.at(-1)?.id ?? null;
    }
    return { ids: file.conversations.map(() => "") };
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
      conversation.title ||= (text.trim() || attachments?.[0]?.name || "").split("\n")[0].slice(0, 60);
    }
    yield { event: "start", user: text === undefined ? null : question, conversation };
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
        if (event.event === "experts") written.experts = event.experts;
        if (event.event === "done" || event.event === "error") {
          const { id: _, parent: __, created: ___, ...told } = event.message ?? {};
          const message = event.message ? add({ ...told, parent: question.id }) : null;
          yield { ...event, message, conversation };
          return;
        }
        yield event;
      }
    } catch (error) {
      if (written.text) yield { event: "done", message: add(written), conversation };
      if (error.name !== "AbortError") throw error;
    }
  }

  /** There is nothing to tell the service: it notices that the connection is closed. */
  async stop() {
    return null;
  }
}
