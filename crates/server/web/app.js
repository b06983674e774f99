// The page: what is shown, what is asked, and who does what. `keeper.js` knows where conversations are, `thread.js` shows
// one, `sidebar.js` the list, `composer.js` takes what is written, `choices.js` models and settings.

import { json, key, ServiceError, Unreachable } from "./api.js";
import { Choices } from "./choices.js";
import { Composer } from "./composer.js";
import { $, announce, ask, save } from "./dom.js";
import { ServiceKeeper, TabKeeper } from "./keeper.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";
import { theme } from "./theme.js";
import { leafBelow, pathTo } from "./tree.js";

/** How often the service is looked for while it does not answer. */
const RETRY_MS = 2000;

const blank = () => ({ id: null, title: "", model: "", settings: {}, messages: [], active: null });

class App {
  keeper = new ServiceKeeper();
  conversation = blank();
  live = new Map(); // answers that are being written, by conversation
  limits = { message_bytes: 1 << 20, attachments: 16 };

  constructor() {
    theme($("theme"));
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
    window.addEventListener("hashchange", () => this.guard(() => this.openFromAddress()));
  }

  /** Asks the service what it is, then shows what it has. */
  async start() {
    await this.guard(async () => {
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
    });
  }

  // ---- what is shown ----

  async openFromAddress() {
    const id = /^#([0-9a-f]{32})$/.exec(location.hash)?.[1];
    if (!id) {
      if (this.conversation.id || !this.shown) this.show(blank());
    } else if (id !== this.conversation.id || !this.shown) {
      try {
        this.show(await this.keeper.get(id));
      } catch (error) {
        if (error instanceof Unreachable || error.status === 401) throw error;
        this.show(blank());
        this.fail(error);
      }
    }
  }

  show(conversation) {
    this.shown = true;
    this.conversation = conversation;
    const hash = conversation.id ? `#${conversation.id}` : "";
    if (location.hash !== hash) history.replaceState(null, "", hash || location.pathname);
    this.head();
    this.choices.show();
    this.thread.show();
    this.sidebar.mark();
    this.composer.refresh();
    if (!this.banner?.sticky) this.clearBanner();
  }

  /** Title and menu of the conversation. */
  head() {
    const title = this.conversation.title || "New conversation";
    $("title").textContent = title;
    document.title = this.conversation.id ? `${title} · HubLab` : "HubLab";
    $("more").hidden = !this.conversation.id;
  }

  async open(id) {
    this.show(await this.keeper.get(id));
    this.sidebar.close();
  }

  begin() {
    const { model, settings } = this.conversation;
    const { expert } = settings;
    this.show({ ...blank(), model, settings: !this.conversation.id ? settings : expert ? { expert } : {} });
    this.sidebar.close();
    this.composer.focus();
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
  edit = (message, text) => this.answer({ parent: message.parent ?? null, text, attachments: message.attachments ?? [] });

  /** Another answer to the same question. */
  again = (message) => this.answer({ parent: message.role === "user" ? message.id : message.parent });

  /** Asks, and shows the answer as it comes. Gives whether the question was taken. */
  async answer(question) {
    let conversation = this.conversation;
    if (conversation.id && this.live.has(conversation.id)) return false;
    const live = { text: "", reasoning: "", experts: [], notes: [], progress: null, controller: new AbortController() };
    let taken = false;
    try {
      if (!conversation.id) {
        const { model, settings } = conversation;
        conversation = await this.keeper.create({ model, settings });
        this.conversation = conversation;
      }
      this.live.set(conversation.id, live);
      this.composer.refresh();
      for await (const event of this.keeper.answer(conversation, question, live.controller.signal)) {
        taken = true;
        this.take(conversation, live, event);
      }
      if (!live.done && !live.controller.signal.aborted) throw new Unreachable();
    } catch (error) {
      if (error.name !== "AbortError") await this.broken(conversation, live, error);
    } finally {
      this.live.delete(conversation.id);
      if (this.conversation === conversation) {
        this.thread.show();
        this.head();
        if (location.hash !== `#${conversation.id}`) history.replaceState(null, "", `#${conversation.id}`);
      }
      this.composer.refresh();
      this.choices.meter();
      await this.sidebar.refresh().catch(() => {});
    }
    return taken;
  }

  /** One event of an answer. */
  take(conversation, live, event) {
    const shown = this.conversation === conversation;
    const add = (message) => {
      if (message && !conversation.messages.some((other) => other.id === message.id)) conversation.messages.push(message);
      if (message) conversation.active = message.id;
    };
    switch (event.event) {
      case "start":
        add(event.user);
        live.parent = event.user?.id ?? event.parent;
        if (event.user === null && live.parent !== undefined) conversation.active = live.parent;
        Object.assign(conversation, { title: event.conversation.title });
        if (shown) {
          this.head();
          this.thread.show(true);
          history.replaceState(null, "", `#${conversation.id}`);
        }
        this.sidebar.refresh().catch(() => {});
        return;
      case "progress":
        live.progress = { read: event.read, total: event.total };
        break;
      case "experts":
        live.experts = event.experts;
        break;
      case "note":
        live.notes.push(event.text);
        break;
      case "reasoning":
        live.reasoning += event.text;
        break;
      case "delta":
        live.text += event.text;
        break;
      case "done":
      case "error":
        live.done = true;
        add(event.message);
        if (event.event === "error" && !event.message && live.text) this.keepLost(conversation, live);
        if (event.event === "error") this.fail(new ServiceError(0, event.error.message, event.error.code ?? event.error.type));
        else announce(event.message?.finish === "stopped" ? "Stopped." : `Answer: ${event.message?.text ?? ""}`);
        return;
      default:
        return;
    }
    if (shown) this.thread.grow(live);
  }

  /** The connection ended before the answer did. */
  async broken(conversation, live, error) {
    if (live.text) this.keepLost(conversation, live);
    this.fail(error);
  }

  /** What had arrived stays to be read, marked; what the service kept is shown after the next loading. */
  keepLost(conversation, live) {
    const id = conversation.messages.reduce((last, message) => Math.max(last, message.id), 0) + 1;
    const parent = live.parent ?? conversation.active;
    conversation.messages.push({ id, parent, role: "assistant", text: live.text, finish: "failed", lost: true });
    conversation.active = id;
  }

  async stop() {
    const { id } = this.conversation;
    const live = this.live.get(id);
    if (!live) return;
    live.stopping = true;
    if (this.keeper.kept) {
      // The last event says what was kept. If it does not come, the connection is closed, which stops the service too.
      setTimeout(() => this.live.get(id) === live && live.controller.abort(), 3000);
      await this.keeper.stop(id).catch(() => live.controller.abort());
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
    await this.keeper.update(conversation.id, { title });
    conversation.title = title;
    this.head();
    await this.sidebar.refresh();
  }

  async remove(conversation) {
    const title = `Delete “${conversation.title || "this conversation"}”?`;
    if (!(await ask({ title, text: "It cannot be brought back.", confirm: "Delete", danger: true }))) return;
    this.live.get(conversation.id)?.controller.abort();
    await this.keeper.remove(conversation.id);
    if (conversation.id === this.conversation.id) this.show(blank());
    announce("Deleted.");
    await this.sidebar.refresh();
    this.composer.focus();
  }

  async removeAll() {
    const text = "Every conversation in the list is deleted. It cannot be undone; exporting them first keeps a copy.";
    if (!(await ask({ title: "Delete all conversations?", text, confirm: "Delete all", danger: true }))) return;
    for (const live of this.live.values()) live.controller.abort();
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
    const { ids } = await this.keeper.import(file);
    announce(`${ids.length} imported.`);
    this.note(`${ids.length} ${ids.length === 1 ? "conversation was" : "conversations were"} imported.`);
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
  fail(error) {
    if (error instanceof Unreachable) {
      this.setBanner("The service does not answer. Is `hublab serve` still running? This page looks for it again every two seconds; " +
        "what you have written stays here.", { kind: "error", sticky: true, button: ["Try now", () => this.retry()] });
      this.offline ??= setTimeout(() => this.retry(), RETRY_MS);
      return;
    }
    if (error.status === 401 || error.status === 403) {
      this.askForKey(error);
      return;
    }
    this.setBanner(advise(error), { kind: "error" });
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
      } else if (this.live.has(this.conversation.id)) {
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
  if (/memory/i.test(about)) return `${error.message} Choose a smaller model above, or one in a smaller quantization.`;
  return error.message || String(error);
}

const app = new App();
app.start();
