// The page: what is shown, what is asked, and who does what. `keeper.js` knows where conversations are, `thread.js` shows
// one, `sidebar.js` the list, `composer.js` takes what is written, `choices.js` models and settings.

import { json, key, ServiceError, Unreachable } from "./api.js";
import { Choices } from "./choices.js";
import { Composer, size } from "./composer.js";
import { $, announce, ask, save } from "./dom.js";
import { ServiceKeeper, TabKeeper } from "./keeper.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";
import { leafBelow, pathTo } from "./tree.js";

/** How often the service is looked for while it does not answer. */
const RETRY_MS = 2000;
/** How often a conversation is looked at in which somebody else has an answer written. */
const WATCH_MS = 1000;
/** How long the end of an answer that was stopped is waited for. */
const STOP_MS = 3000;

const blank = () => ({ id: null, title: "", model: "", settings: {}, messages: [], active: null });

class App {
  keeper = new ServiceKeeper();
  conversation = blank();
  live = new Map(); // answers that are being written, by conversation
  limits = { message_bytes: 1 << 20, attachments: 16 };
  turn = 0; // counts what was asked to be shown, so that the latest wins

  constructor() {
    this.sidebar = new Sidebar(this);
    this.thread = new Thread(this);
    this.composer = new Composer(this);
    this.choices = new Choices(this);
    for (const [id, action] of Object.entries({
      "new": () => this.begin(),
      "rename": () => this.rename(),
      "delete": () => this.remove(this.conversation),
      "export-json": () => this.export("json"),
      "export-markdown": () => this.export("markdown"),
      "export-all": () => this.exportAll(),
      "delete-all": () => this.removeAll(),
      "import": () => $("import-file").click(),
      "stop": () => this.stop(),
    })) {
      $(id).addEventListener("click", () => {
        $("more").open = false;
        this.guard(action);
      });
    }
    $("import-file").addEventListener("change", () => this.guard(() => this.import()));
    document.addEventListener("keydown", (event) => this.shortcut(event));
    document.addEventListener("click", (event) => {
      if (!$("more").contains(event.target)) $("more").open = false;
    });
    $("more").addEventListener("focusout", (event) => {
      if (event.relatedTarget && !$("more").contains(event.relatedTarget)) $("more").open = false;
    });
    window.addEventListener("hashchange", () => this.guard(() => this.openFromAddress()));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.guard(() => this.catchUp());
    });
    window.addEventListener("beforeunload", (event) => {
      if (this.keeper.isLossy()) event.preventDefault();
    });
  }

  /** The answer that is being written in the conversation that is shown. */
  get writing() {
    return this.live.get(this.conversation);
  }

  /** Asks the service what it is, then shows what it has. */
  async start() {
    try {
      const service = await json("api/web");
      this.service = service;
      this.limits = service.limits;
      const kept = service.storage.state === "on";
      if (kept !== this.keeper.kept) this.keeper = kept ? new ServiceKeeper() : new TabKeeper();
      this.notKept = kept ? "" : service.storage.reason;
      await this.choices.load();
      this.clearBanner();
      await this.sidebar.refresh();
      await this.openFromAddress();
      document.documentElement.dataset.ready = "yes";
    } catch (error) {
      this.fail(error, { button: ["Try again", () => this.start()] });
    }
  }

  // ---- what is shown ----

  async openFromAddress() {
    const id = /^#([0-9a-f]{32})$/.exec(location.hash)?.[1] ?? null;
    // A first question that the service has not taken yet has no address.
    if (id === null && this.writing && this.conversation.messages.length === 0) return;
    if (!this.shown || id !== this.conversation.id) await this.open(id, { push: false });
  }

  /** Shows a conversation, or with `null` an empty one; where a message was looked for, its branch and its place. */
  async open(id, { push = true, message } = {}) {
    const turn = ++this.turn;
    const written = () => [...this.live.keys()].find((other) => id !== null && other.id === id);
    let conversation;
    try {
      conversation = id === null ? blank() : written() ?? (await this.keeper.get(id));
    } catch (error) {
      // What is gone is not looked for again; what cannot be had now is.
      if (turn === this.turn && !(error instanceof Unreachable) && error.status !== 401) this.show(blank());
      throw error;
    }
    if (turn !== this.turn) return;
    // An answer that has begun meanwhile goes on in the conversation that it was asked in.
    conversation = written() ?? conversation;
    this.show(conversation, { push });
    this.sidebar.close();
    if (message === undefined) return;
    if (!pathTo(conversation.messages, conversation.active).some((other) => other.id === message)) await this.choose(message);
    this.thread.reveal(message);
  }

  show(conversation, { push = false } = {}) {
    this.shown = true;
    this.conversation = conversation;
    this.putAddress(push);
    this.head();
    this.choices.show();
    this.thread.show();
    this.sidebar.mark();
    this.composer.refresh();
    this.watch();
    if (!this.banner?.sticky) this.clearBanner();
  }

  /** The address names what is shown; the browser's way back leads through what was opened. */
  putAddress(push) {
    const hash = this.conversation.id ? `#${this.conversation.id}` : "";
    if (location.hash === hash) return;
    history[push ? "pushState" : "replaceState"](null, "", hash || location.pathname);
  }

  /** Title and menu of the conversation. */
  head() {
    const title = this.conversation.title || "New conversation";
    $("title").textContent = title;
    document.title = this.conversation.id ? `${title} · HubLab` : "HubLab";
    $("more").hidden = !this.conversation.id;
  }

  begin() {
    const { model, settings } = this.conversation;
    const { expert } = settings;
    this.turn++;
    this.show({ ...blank(), model, settings: !this.conversation.id ? settings : expert ? { expert } : {} }, { push: true });
    this.sidebar.close();
    this.composer.focus();
  }

  /** What happened in other tabs, or before this page was loaded anew. */
  async catchUp() {
    if (!this.service || this.offline || !this.keeper.kept) return;
    await this.sidebar.refresh();
    await this.follow();
  }

  /** Looks again at the conversation that is shown; where it has changed, it is shown anew. */
  async follow() {
    const { conversation } = this;
    if (!conversation.id || this.live.has(conversation)) return;
    let now;
    try {
      now = await this.keeper.get(conversation.id);
    } catch (error) {
      if (error.status === 404 && this.conversation === conversation) {
        this.show(blank());
        this.note("The conversation was deleted elsewhere.");
        return;
      }
      throw error;
    }
    if (this.conversation !== conversation || this.live.has(conversation)) return;
    const changed = now.updated !== conversation.updated || now.active !== conversation.active;
    if (changed || now.writing !== Boolean(conversation.writing)) this.show(now);
    else this.watch();
  }

  /** An answer that somebody else has written is looked for until it is there. */
  watch() {
    clearTimeout(this.watching);
    if (!this.conversation.writing || this.writing) return;
    this.watching = setTimeout(() => this.guard(() => this.follow()), WATCH_MS);
  }

  // ---- asking ----

  /** Sends what was written, after the last message shown. */
  send(text, attachments) {
    const parent = pathTo(this.conversation.messages, this.conversation.active).at(-1);
    // A question that was never answered is followed by another branch beside it.
    const after = parent?.role === "user" ? parent.parent : parent?.id;
    return this.answer({ parent: after ?? null, text, attachments });
  }

  /** The same question in other words: a branch beside it. */
  async edit(message, text) {
    const { parent = null, attachments = [] } = message;
    if (!(await this.answer({ parent, text, attachments, isEdit: true }))) this.thread.focusEdit();
  }

  /** Another answer to the same question. */
  again = (message) => this.answer({ parent: message.role === "user" ? message.id : message.parent });

  /** Asks, and shows the answer as it comes. Gives whether the question was taken. */
  async answer(question) {
    const { conversation } = this;
    if (this.live.has(conversation)) return false;
    const live = { question, taken: false, ended: false, kept: false, text: "", reasoning: "", experts: [], progress: null,
      controller: new AbortController() };
    const isNew = !conversation.id;
    let failure = null;
    conversation.lost = null;
    this.live.set(conversation, live);
    this.composer.refresh();
    this.thread.show(true);
    try {
      if (isNew) await this.keeper.create(conversation);
      for await (const event of this.keeper.answer(conversation, question, live.controller.signal)) {
        this.take(conversation, live, event);
      }
      if (!live.ended && !live.controller.signal.aborted) throw new Unreachable();
    } catch (error) {
      failure = error;
      if (error.name !== "AbortError") this.fail(error);
    }
    if (!live.kept) await this.keepLost(conversation, live);
    // What was begun for a question that nobody took goes with it.
    const isEmpty = isNew && conversation.id && conversation.messages.length === 0;
    if (isEmpty && !live.taken && !(failure instanceof Unreachable)) await this.forget(conversation);
    this.live.delete(conversation);
    if (this.conversation === conversation) {
      this.putAddress(false);
      this.head();
      this.thread.show();
      this.composer.refresh();
      this.choices.meter();
      this.watch();
    }
    await this.sidebar.refresh().catch(() => {});
    return live.taken;
  }

  /** One event of an answer. */
  take(conversation, live, event) {
    const shown = this.conversation === conversation;
    const add = (message) => {
      if (message && !conversation.messages.some((other) => other.id === message.id)) conversation.messages.push(message);
      if (message) conversation.active = message.id;
    };
    live.taken = true;
    if (event.conversation) {
      const { title, updated } = event.conversation;
      Object.assign(conversation, { title, updated });
    }
    switch (event.event) {
      case "start":
        add(event.user);
        conversation.active = event.parent;
        live.parent = event.parent;
        if (live.question.isEdit) this.thread.endEdit();
        if (shown) {
          this.putAddress(false);
          this.head();
          this.thread.show(true);
        }
        this.sidebar.refresh().catch(() => {});
        return;
      case "progress":
        live.progress = { read: event.read, total: event.total };
        break;
      case "experts":
        live.experts = event.names;
        break;
      case "reasoning":
        live.reasoning += event.text;
        break;
      case "delta":
        live.text += event.text;
        break;
      case "done":
        Object.assign(live, { ended: true, kept: true });
        add(event.message);
        announce(event.message?.finish === "stopped" ? "Stopped." : `Answer: ${event.message?.text ?? ""}`);
        return;
      case "error":
        Object.assign(live, { ended: true, kept: Boolean(event.message) });
        add(event.message);
        this.fail(new ServiceError(0, event.error.message, event.error.code ?? event.error.type));
        return;
      default:
        return;
    }
    if (shown) this.thread.grow();
  }

  /** An answer whose end was not told: shown as the service has kept it, or else marked, as far as it had arrived. */
  async keepLost(conversation, live) {
    if (live.controller.signal.aborted && conversation.id && this.keeper.kept) {
      try {
        Object.assign(conversation, await this.keeper.get(conversation.id));
        return;
      } catch {
        // What is here is all there is.
      }
    }
    const { parent, text, reasoning } = live;
    if (text || reasoning) conversation.lost = { parent, role: "assistant", text, reasoning, model: conversation.model };
  }

  async forget(conversation) {
    const { id } = conversation;
    conversation.id = null;
    await this.keeper.remove(id).catch(() => {});
  }

  async stop() {
    const { conversation, writing: live } = this;
    if (!live) return;
    if (this.keeper.kept && live.taken) {
      // The last event says what was kept. If it does not come, the connection is closed, which stops the service too.
      setTimeout(() => live.controller.abort(), STOP_MS);
      await this.keeper.stop(conversation.id).catch(() => live.controller.abort());
    } else {
      live.controller.abort();
    }
    this.composer.focus();
  }

  /** Shows another branch. */
  async choose(id) {
    const { conversation } = this;
    conversation.active = leafBelow(conversation.messages, id);
    this.thread.show();
    this.choices.meter();
    await this.keeper.update(conversation.id, { active: conversation.active });
  }

  /** Changes model or settings of what is shown, now or when it begins. */
  async change(change) {
    Object.assign(this.conversation, change);
    if (this.conversation.id) await this.keeper.update(this.conversation.id, change);
  }

  // ---- keeping ----

  async rename() {
    const { conversation } = this;
    const fields = [{ name: "title", label: "Title", value: conversation.title, maxlength: 200 }];
    const values = await ask({ title: "Rename this conversation", fields });
    const title = values?.title.trim();
    if (!title) return;
    const { updated } = await this.keeper.update(conversation.id, { title });
    Object.assign(conversation, { title, updated });
    this.head();
    await this.sidebar.refresh();
  }

  async remove(conversation) {
    const title = `Delete “${conversation.title || "this conversation"}”?`;
    if (!(await ask({ title, text: "It cannot be brought back.", confirm: "Delete", danger: true }))) return;
    this.giveUp(({ id }) => id === conversation.id);
    await this.keeper.remove(conversation.id);
    const next = this.sidebar.neighbour(conversation.id);
    if (conversation.id === this.conversation.id) this.show(blank());
    announce("Deleted.");
    await this.sidebar.refresh();
    if (!this.sidebar.focusOn(next)) this.composer.focus();
  }

  /** Nobody waits any more for answers in these conversations. */
  giveUp(isMeant) {
    for (const [conversation, live] of this.live) {
      if (isMeant(conversation)) live.controller.abort();
    }
  }

  async removeAll() {
    const text = "Every conversation in the list is deleted. It cannot be undone; exporting them first keeps a copy.";
    if (!(await ask({ title: "Delete all conversations?", text, confirm: "Delete all", danger: true }))) return;
    this.giveUp(() => true);
    await this.keeper.removeAll();
    this.show(blank());
    announce("All conversations are deleted.");
    await this.sidebar.refresh();
  }

  async export(format) {
    const { id, title } = this.conversation;
    const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "conversation";
    save(await this.keeper.export(id, format), `${name}.${format === "json" ? "json" : "md"}`);
  }

  async exportAll() {
    save(await this.keeper.exportAll(), "conversations.json");
  }

  async import() {
    const [file] = $("import-file").files;
    $("import-file").value = "";
    if (!file) return;
    if (file.size > 8 << 20) this.note(`Importing “${file.name}”, ${size(file.size)}…`);
    const count = await this.keeper.import(file, this.service.import_bytes);
    this.note(`${count} ${count === 1 ? "conversation was" : "conversations were"} imported.`);
    await this.sidebar.refresh();
  }

  // ---- when something is wrong ----

  async guard(action) {
    try {
      return await action();
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
      return undefined;
    }
  }

  /** Says what is wrong, and what to do. */
  fail(error, { button } = {}) {
    if (error instanceof Unreachable) {
      this.setBanner("The service does not answer. Is `hublab serve` still running? This page looks for it again every two seconds; " +
        "what you have written stays here.", { kind: "error", sticky: true, button: ["Try now", () => this.retry()] });
      this.offline ??= setTimeout(() => this.retry(), RETRY_MS);
      return;
    }
    if (error.status === 401) {
      this.askForKey(error);
      return;
    }
    this.setBanner(advise(error), { kind: "error", button });
  }

  async retry() {
    clearTimeout(this.offline);
    this.offline = undefined;
    try {
      await json("api/web");
    } catch (error) {
      if (error instanceof Unreachable) {
        this.offline = setTimeout(() => this.retry(), RETRY_MS);
        return;
      }
    }
    this.clearBanner();
    announce("The service answers again.");
    // What the service has kept is the truth; a tab that keeps its own has nothing to ask.
    if (this.keeper.kept) this.shown = false;
    await this.start();
  }

  async askForKey(error) {
    if (this.asking) return;
    this.asking = true;
    const text = [key.get() ? `The service did not accept the key: ${error.message}` : "This service wants an API key.",
      "It is kept until this tab is closed, and sent to this service only."];
    const fields = [{ name: "key", label: "API key", type: "password" }];
    const values = await ask({ title: "API key", text, fields, confirm: "Use it" });
    this.asking = false;
    if (values) {
      key.set(values.key.trim());
      await this.start();
    } else {
      this.setBanner("Without a key this service does not answer.", { sticky: true, button: ["Enter the key", () => this.askForKey(error)] });
    }
  }

  note = (text) => this.setBanner(text, { kind: "note" });

  setBanner(text, { kind = "note", sticky = false, button } = {}) {
    const close = document.createElement("button");
    close.type = "button";
    close.className = "quiet small";
    close.textContent = button ? button[0] : "Close";
    close.addEventListener("click", () => (button ? this.guard(button[1]) : this.clearBanner()));
    const words = document.createElement("p");
    // Words between backticks are commands.
    text.split("`").forEach((part, index) => {
      const piece = document.createElement(index % 2 ? "code" : "span");
      piece.textContent = part;
      words.append(piece);
    });
    this.banner = { sticky };
    $("banner").className = `banner ${kind}`;
    $("banner").replaceChildren(words, close);
    $("banner").hidden = false;
  }

  clearBanner() {
    this.banner = null;
    $("banner").hidden = true;
  }

  shortcut(event) {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      this.sidebar.focusSearch();
    } else if (event.key === "Escape") {
      if ($("more").open) {
        $("more").open = false;
        $("more").querySelector("summary").focus();
      } else if (this.sidebar.isOpen()) {
        this.sidebar.close();
      } else if (this.writing) {
        event.preventDefault();
        this.guard(() => this.stop());
      }
    }
  }
}

/** The service's own words, and where the page knows more, what to do. */
function advise(error) {
  const about = `${error.code ?? ""} ${error.message ?? ""}`;
  if (/context/i.test(about) && /(full|length|fit|exceed|long)/i.test(about)) {
    return `${error.message} Begin a new conversation, or edit an earlier message to go on from there.`;
  }
  if (/\bmemory\b/i.test(about)) return `${error.message} Choose a smaller model above, or one in a smaller quantization.`;
  return error.message || String(error);
}

const app = new App();
app.start();
