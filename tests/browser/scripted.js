// The page's own files before a service that does what a test says, when it says so: for what a real one does too quickly,
// or never.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const FOLDER = new URL("../../crates/server/web/", import.meta.url);
const KINDS = { html: "text/html", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };

const id = (number) => String(number).padStart(32, "0");

export class Scripted {
  constructor() {
    this.reset();
    this.server = createServer((request, response) => this.serve(request, response));
  }

  /** Without conversations, and as a service that answers everything. */
  reset() {
    this.conversations = new Map();
    this.refusals = []; // { method, path: a part of it, status, message }, each used once
    this.held = []; // parts of paths whose requests wait for `release`
    this.waiting = [];
    this.asked = []; // answers that are being written
  }

  async start() {
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/`;
  }

  async end() {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  add(title, messages = []) {
    const conversation = { id: id(this.conversations.size + 1), title, model: "m", settings: {}, created: 1, updated: Date.now(),
      active: messages.at(-1)?.id ?? null, messages };
    this.conversations.set(conversation.id, conversation);
    return conversation;
  }

  /** The answer that is asked for, once it is: events can be sent, and its end. */
  async answer() {
    while (this.asked.length === 0) await once(this.server, "asked");
    return this.asked.shift();
  }

  release() {
    this.held = [];
    for (const go of this.waiting.splice(0)) go();
  }

  async serve(request, response) {
    const { pathname: path, searchParams } = new URL(request.url, this.url);
    let text = "";
    for await (const piece of request) text += piece;
    if (this.held.some((part) => request.url.includes(part))) await new Promise((resolve) => this.waiting.push(resolve));
    const json = (value, status = 200) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    const refusal = this.refusals.findIndex((one) => one.method === request.method && path.includes(one.path));
    if (refusal >= 0) {
      const [{ status, message }] = this.refusals.splice(refusal, 1);
      json({ error: { message } }, status);
      return;
    }
    const [, found, action] = /^\/api\/conversations\/(\d{32})\/?(\w*)$/.exec(path) ?? [];
    const conversation = this.conversations.get(found);
    if (path === "/" || path.startsWith("/assets/")) this.file(path === "/" ? "index.html" : path.slice(8), response);
    else if (path === "/api/web") json({ storage: { state: "on" }, default_model: "m", swarms: [], import_bytes: 1 << 20,
      limits: { message_bytes: 1 << 20, attachments: 16 } });
    else if (path === "/v1/models") json({ data: [{ id: "m", hublab: { kind: "model" } }] });
    else if (path === "/api/conversations" && request.method === "POST") json(this.add(""), 201);
    else if (path === "/api/conversations") this.list(searchParams, json);
    else if (found && !conversation) json({ error: { message: "there is no such conversation" } }, 404);
    else if (action === "answer") this.begin(conversation, JSON.parse(text), response);
    else if (action === "stop") json({ stopped: 0 });
    else if (request.method === "DELETE") {
      this.conversations.delete(found);
      response.writeHead(204).end();
    } else if (conversation) json(Object.assign(conversation, request.method === "PATCH" ? JSON.parse(text) : {}));
    else json({}, 404);
  }

  file(name, response) {
    response.writeHead(200, { "content-type": KINDS[name.split(".").at(-1)] });
    response.end(readFileSync(new URL(name, FOLDER)));
  }

  list(query, json) {
    const all = [...this.conversations.values()].reverse();
    const text = query.get("search");
    const hits = all.map((one) => ({ ...one, message: one.messages.find((message) => message.text.includes(text))?.id, excerpt: text }));
    if (text) json({ hits: hits.filter(({ message }) => message !== undefined), complete: true });
    else json({ conversations: all, next: null });
  }

  begin(conversation, { parent, text }, response) {
    const send = (event, data) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    const keep = (message) => {
      const kept = { id: conversation.messages.length, created: 1, ...message };
      conversation.messages.push(kept);
      Object.assign(conversation, { active: kept.id, updated: conversation.updated + 1 });
      return kept;
    };
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.flushHeaders();
    let question = parent;
    this.asked.push({
      send,
      /** Tells that the question is kept. */
      start() {
        const user = text === undefined ? null : keep({ role: "user", parent: parent ?? undefined, text });
        conversation.title ||= text;
        question = user?.id ?? parent;
        send("start", { user, parent: question, conversation });
      },
      done(answer) {
        send("done", { message: keep({ role: "assistant", parent: question, text: answer, model: "m", finish: "stop" }), conversation });
        response.end();
      },
      fail(message) {
        send("error", { error: { message }, message: null, conversation });
        response.end();
      },
    });
    this.server.emit("asked");
  }
}
