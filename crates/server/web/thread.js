// One conversation: its messages on the branch that is shown, and the answer that is being written.

import { $, copyButton, h, sends } from "./dom.js";
import { MarkdownView, parse, toDom } from "./markdown.js";
import { pathTo, siblings } from "./tree.js";

const codeCopy = (text) => copyButton(() => text, "Copy", "Copy the code");

const EXAMPLES = ["What does tar do?", "How do I reverse a list in Python?", "What is a Vec in Rust?"];

/** Pixels from the end within which the end counts as seen. */
const NEAR = 80;

export class Thread {
  bodies = new WeakMap(); // what was made of a message's text is made once
  editing = null; // { conversation, message, text }: a question that is being put in other words

  constructor(app) {
    this.app = app;
    this.place = $("thread");
    $("scroll").addEventListener("scroll", () => this.offerEnd(), { passive: true });
    $("to-end").addEventListener("click", () => this.toEnd());
  }

  /** Shows the conversation; at its end if `toEnd` or if the end was in sight. */
  show(toEnd = false) {
    const { conversation, writing } = this.app;
    const follow = toEnd || this.shownId !== conversation.id || this.atEnd();
    const focus = this.focused();
    this.shownId = conversation.id;
    this.growing = null;
    // A question that the service has not taken yet stands where it will be.
    const asked = writing && !writing.taken ? writing.question : null;
    const path = pathTo(conversation.messages, asked ? asked.parent : conversation.active);
    const last = writing ? null : path.at(-1);
    this.place.replaceChildren(...path.map((message) => this.message(message, message === last)));
    if (asked?.text !== undefined) this.place.append(this.asked(asked));
    if (last && conversation.lost?.parent === last.id) this.place.append(this.lost(conversation.lost));
    const isEmpty = path.length === 0 && !writing;
    if (isEmpty) this.place.append(this.empty());
    if (writing) this.grow();
    if (isEmpty) $("scroll").scrollTop = 0;
    else if (follow) this.toEnd();
    this.offerEnd();
    focus();
  }

  /** Where the keyboard is, to put it there again when all is made anew. */
  focused() {
    const { activeElement } = document;
    if (!this.place.contains(activeElement)) return () => {};
    const id = activeElement.closest("[data-id]")?.dataset.id;
    const name = activeElement.getAttribute("aria-label");
    const { selectionStart, selectionEnd } = activeElement;
    return () => {
      const there = id && name && this.place.querySelector(`[data-id="${id}"] [aria-label="${CSS.escape(name)}"]:not(:disabled)`);
      if (there) {
        there.focus({ preventScroll: true });
        there.setSelectionRange?.(selectionStart, selectionEnd);
      } else if (!$("stop").hidden) $("stop").focus();
      else this.app.composer.focus();
    };
  }

  atEnd() {
    const area = $("scroll");
    return area.scrollHeight - area.scrollTop - area.clientHeight < NEAR;
  }

  toEnd() {
    $("scroll").scrollTop = $("scroll").scrollHeight;
  }

  /** Shows the place of a message, for a moment marked. */
  reveal(id) {
    const article = this.place.querySelector(`[data-id="${id}"]`);
    article?.scrollIntoView();
    article?.classList.add("found");
  }

  offerEnd() {
    $("to-end").hidden = this.atEnd();
  }

  // ---- finished messages ----

  message(message, last) {
    const user = message.role === "user";
    const article = frame(message, message.id);
    const { editing } = this;
    if (editing?.message === message.id && editing.conversation === this.app.conversation.id) {
      article.append(this.form(message));
      return article;
    }
    if (message.experts?.length) article.append(experts(message.experts));
    if (message.reasoning) article.append(reasoning(message.reasoning));
    article.append(this.body(message));
    for (const note of message.notes ?? []) article.append(h("p", { class: "hint" }, note));
    const ended = { stopped: "Stopped.", length: "Cut: the limit of tokens was reached.", failed: "An error ended this answer." }[message.finish];
    if (ended) article.append(h("p", { class: "hint warn" }, ended));
    article.append(this.foot(message, user));
    if (user && last) article.append(this.unanswered(message));
    return article;
  }

  /** A question that is on its way. */
  asked({ text, attachments = [] }) {
    return h("article", { class: "message user", "aria-label": "You" }, this.body({ role: "user", text, attachments }));
  }

  /** What had arrived of an answer when its connection broke. */
  lost(message) {
    const article = frame(message);
    if (message.reasoning) article.append(reasoning(message.reasoning));
    article.append(this.body(message), h("p", { class: "hint warn" }, "The connection broke; this is what had arrived."),
      h("div", { class: "foot" }, copyButton(() => message.text, "Copy", "Copy the answer")));
    return article;
  }

  body(message) {
    const made = this.bodies.get(message);
    if (made) return made;
    const body = h("div", { class: "body", dir: "auto" });
    this.bodies.set(message, body);
    if (message.role === "user") {
      body.textContent = message.text;
      if (message.attachments?.length) body.append(this.attachments(message.attachments));
    } else {
      for (const node of parse(message.text)) body.append(toDom(node, document, codeCopy));
    }
    return body;
  }

  attachments(files) {
    return h("div", { class: "files" }, files.map((file) => h("details", {}, h("summary", {}, file.name),
      h("pre", { tabindex: 0, role: "group", "aria-label": file.name }, file.text))));
  }

  foot(message, user) {
    const busy = Boolean(this.app.writing);
    const foot = h("div", { class: "foot" });
    const branch = this.branches(message, busy);
    if (branch) foot.append(branch);
    foot.append(copyButton(() => message.text, "Copy", user ? "Copy the message" : "Copy the answer"));
    const button = (name, label, action) => h("button", { type: "button", class: "quiet small", "aria-label": label, disabled: busy,
      onclick: () => this.app.guard(action) }, name);
    if (user) foot.append(button("Edit", "Edit and send again", () => this.edit(message)));
    else foot.append(button("Again", "Answer again", () => this.app.again(message)));
    if (message.usage) foot.append(h("span", { class: "hint numbers" }, numbers(message.usage)));
    return foot;
  }

  branches(message, busy) {
    const all = siblings(this.app.conversation.messages, message);
    if (all.length < 2) return null;
    const at = all.indexOf(message.id);
    const step = (by, name, label) => h("button", { type: "button", class: "quiet small", "aria-label": label,
      disabled: busy || all[at + by] === undefined, onclick: () => this.app.guard(async () => {
        const kept = this.app.choose(all[at + by]);
        // It is shown already: the keyboard goes there before the service has answered.
        const there = this.place.querySelector(`[data-id="${all[at + by]}"] .branches`);
        (there?.querySelector(`[aria-label="${label}"]:not(:disabled)`) ?? there?.querySelector("button:not(:disabled)"))?.focus();
        await kept;
      }) }, name);
    return h("div", { class: "branches", role: "group", "aria-label": "Versions" }, step(-1, "‹", "Version before"),
      h("span", {}, `${at + 1}/${all.length}`), step(1, "›", "Version after"));
  }

  unanswered(message) {
    if (this.app.conversation.writing) return h("p", { class: "hint writing" }, "The answer is being written");
    return h("p", { class: "hint" }, "There is no answer. ",
      h("button", { type: "button", class: "quiet small", onclick: () => this.app.guard(() => this.app.again(message)) }, "Ask again"));
  }

  edit(message) {
    this.editing = { conversation: this.app.conversation.id, message: message.id, text: message.text };
    this.show();
    this.focusEdit();
  }

  focusEdit() {
    this.place.querySelector(".edit textarea")?.focus();
  }

  /** The question was sent, or is not to be. */
  endEdit() {
    this.editing = null;
  }

  form(message) {
    const { editing } = this;
    const area = h("textarea", { "aria-label": "Message", dir: "auto", rows: Math.min(12, editing.text.split("\n").length + 1) });
    area.value = editing.text;
    area.addEventListener("input", () => (editing.text = area.value));
    const leave = () => {
      this.endEdit();
      this.show();
      this.place.querySelector(`[data-id="${message.id}"] [aria-label="Edit and send again"]`)?.focus();
    };
    const form = h("form", { class: "edit" }, area, h("div", { class: "dialog-foot" },
      h("button", { type: "button", class: "plain", onclick: leave }, "Cancel"),
      h("button", { type: "submit", class: "primary" }, "Send")));
    const submit = () => {
      if (area.value.trim() === "" && !message.attachments?.length) return;
      this.app.guard(() => this.app.edit(message, area.value));
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    area.addEventListener("keydown", (event) => {
      if (sends(event)) {
        event.preventDefault();
        submit();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      }
    });
    return form;
  }

  // ---- the answer that is being written ----

  grow() {
    const live = this.app.writing;
    if (this.growing?.live !== live) this.begin(live);
    const { growing } = this;
    if (growing.timer) return;
    // Showing takes a tenth of the time at most, however long the answer; so the work stays linear.
    growing.timer = setTimeout(() => this.draw(growing), Math.max(30, growing.cost * 9));
  }

  begin(live) {
    const article = frame({ role: "assistant", model: this.app.conversation.model });
    // Busy: a screen reader waits for the end, and is told then.
    article.setAttribute("aria-busy", "true");
    const body = h("div", { class: "body", dir: "auto" });
    const status = h("p", { class: "hint writing" }, "Waiting");
    article.append(body, status);
    this.place.append(article);
    this.growing = { live, body, status, view: new MarkdownView(body, codeCopy), pushed: 0, thought: 0, cost: 0, timer: null };
    this.draw(this.growing);
  }

  draw(growing) {
    growing.timer = null;
    if (this.growing !== growing) return;
    const { live, view, status } = growing;
    const begun = performance.now();
    const follow = this.atEnd();
    this.drawBefore(growing);
    if (live.text.length > growing.pushed) {
      view.push(live.text.slice(growing.pushed));
      growing.pushed = live.text.length;
      view.render();
    }
    const { progress } = live;
    if (live.text) status.textContent = "Writing";
    else if (live.reasoning) status.textContent = "Thinking";
    else if (progress && progress.read < progress.total) status.textContent = `Reading: ${progress.read} of ${progress.total} tokens`;
    if (follow) this.toEnd();
    growing.cost = performance.now() - begun;
  }

  /** What stands above the text: who is at work, and what was thought. */
  drawBefore(growing) {
    const { live, body } = growing;
    if (live.experts !== growing.named && live.experts.length > 0) {
      growing.experts?.remove();
      growing.named = live.experts;
      growing.experts = atWork(live.experts);
      (growing.reasoning ?? body).before(growing.experts);
    }
    if (live.reasoning.length > growing.thought) {
      if (!growing.reasoning) {
        growing.reasoning = reasoning("");
        body.before(growing.reasoning);
      }
      growing.reasoning.lastChild.append(live.reasoning.slice(growing.thought));
      growing.thought = live.reasoning.length;
    }
  }

  // ---- nothing yet ----

  empty() {
    const { choices, notKept } = this.app;
    const own = choices.models.some((model) => !isBuiltIn(model));
    const button = (text) => h("li", {}, h("button", { type: "button", class: "example", onclick: () => this.app.composer.write(text) }, text));
    return h("section", { class: "empty", "aria-labelledby": "empty-title" },
      h("h2", { id: "empty-title" }, "A model on this machine"),
      h("p", {}, "Questions and answers stay here: the page talks to this service and to nobody else."),
      own
        ? h("p", {}, "Choose a model above. ", h("code", {}, "default"), " is a demonstration of five million parameters and no assistant.")
        : [h("p", {}, "The model that is built in has ", h("strong", {}, "five million parameters"), ". It shows the machine at work and is ",
          h("strong", {}, "not an assistant"), ": it knows one-line entries from manual pages and from the Rust and Python documentation, and little else."),
        h("p", {}, "For real work, give the service a model of your own: ", h("code", {}, "hublab pull"), ", then reload this page.")],
      notKept && h("p", { class: "warn" }, `Conversations are not kept: ${notKept} They live in this tab and end with it.`),
      h("h3", {}, "For example"),
      h("ul", { class: "examples" }, EXAMPLES.map(button)));
  }
}

const isBuiltIn = ({ id }) => id === "default" || id === "swarm" || id.startsWith("expert:");

/** The frame of a message, with who wrote it. */
function frame({ role, model }, id) {
  const user = role === "user";
  const article = h("article", { class: `message ${role}`, "aria-label": user ? "You" : "Answer", "data-id": id });
  if (!user) article.append(h("p", { class: "who" }, model || "Model"));
  return article;
}

function reasoning(text) {
  return h("details", { class: "reasoning" }, h("summary", {}, "How it got there"), h("p", { dir: "auto" }, text));
}

/** Who is at work, before it is known what each of them counts. */
function atWork(names) {
  return h("p", { class: "experts" }, h("span", { class: "experts-name" }, "Asked"), names.map((name) => h("span", { class: "expert" }, name)));
}

function experts(list) {
  const sorted = [...list].sort((a, b) => b.weight - a.weight);
  const percent = (weight) => `${Math.round(weight * 100)} %`;
  const chips = sorted.map(({ name, weight }) => h("span", { class: "expert" }, `${name} `, h("span", { class: "share" }, percent(weight))));
  const reasons = sorted.map(({ name, weight, reason }) =>
    h("li", {}, h("strong", {}, name), ` ${percent(weight)}${reason ? `: ${reason}` : ""}`));
  return h("details", { class: "experts" },
    h("summary", {}, h("span", { class: "experts-name" }, "Answered by"), " ", chips), h("ul", {}, reasons));
}

function numbers(usage) {
  const parts = [`${usage.completion_tokens} tokens`];
  if (usage.tokens_per_s) parts.push(`${usage.tokens_per_s < 10 ? usage.tokens_per_s.toFixed(1) : Math.round(usage.tokens_per_s)} tokens/s`);
  if (usage.first_token_ms !== undefined && usage.first_token_ms !== null) parts.push(`first after ${usage.first_token_ms} ms`);
  return parts.join(" · ");
}
