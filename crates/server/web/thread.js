// One conversation: its messages on the branch that is shown, and the answer that is being written.

import { $, copyButton, h } from "./dom.js";
import { MarkdownView, parse, toDom } from "./markdown.js";
import { pathTo, siblings } from "./tree.js";

const codeCopy = (text) => copyButton(() => text, "Copy", "Copy the code");

const EXAMPLES = ["What does tar do?", "How do I reverse a list in Python?", "What is a Vec in Rust?"];

export class Thread {
  constructor(app) {
    this.app = app;
    this.place = $("thread");
  }

  /** Shows the conversation; at its end if `toEnd` or if the end was in sight. */
  show(toEnd = false) {
    const { conversation, live } = this.app;
    const follow = toEnd || this.shownId !== conversation.id || this.atEnd();
    this.shownId = conversation.id;
    this.growing = null;
    const path = pathTo(conversation.messages, conversation.active);
    const writing = live.get(conversation.id);
    this.place.replaceChildren(...path.map((message, index) => this.message(message, index === path.length - 1 && !writing)));
    if (path.length === 0 && !writing) this.place.append(this.empty());
    if (writing && path.length > 0) this.grow(writing);
    if (follow) this.toEnd();
  }

  atEnd() {
    const area = $("scroll");
    return area.scrollHeight - area.scrollTop - area.clientHeight < 80;
  }

  toEnd() {
    $("scroll").scrollTop = $("scroll").scrollHeight;
  }

  // ---- finished messages ----

  message(message, last) {
    const user = message.role === "user";
    const body = h("div", { class: "body" });
    const article = h("article", { class: `message ${message.role}`, "aria-label": user ? "You" : "Answer", "data-id": message.id });
    if (!user) article.append(h("p", { class: "who" }, message.model || "Model"));
    if (message.reasoning) article.append(reasoning(message.reasoning));
    if (user) {
      body.textContent = message.text;
      if (message.attachments?.length) body.append(this.attachments(message.attachments));
    } else {
      for (const node of parse(message.text)) body.append(toDom(node, document, codeCopy));
    }
    article.append(body);
    if (message.experts?.length) article.append(experts(message.experts));
    for (const note of message.notes ?? []) article.append(h("p", { class: "hint" }, note));
    const ended = { stopped: "Stopped.", length: "Cut: the limit of tokens was reached.", failed: "An error ended this answer." }[message.finish];
    if (message.lost) article.append(h("p", { class: "hint warn" }, "The connection broke; this is what had arrived."));
    else if (ended) article.append(h("p", { class: "hint warn" }, ended));
    article.append(this.foot(message, user));
    if (user && last) article.append(this.unanswered(message));
    return article;
  }

  attachments(files) {
    return h("div", { class: "files" }, files.map((file) => h("details", {}, h("summary", {}, file.name),
      h("pre", { tabindex: 0, role: "group", "aria-label": file.name }, file.text))));
  }

  foot(message, user) {
    const busy = this.app.live.has(this.app.conversation.id);
    const foot = h("div", { class: "foot" });
    const branch = this.branches(message, busy);
    if (branch) foot.append(branch);
    foot.append(copyButton(() => message.text, "Copy", user ? "Copy the message" : "Copy the answer"));
    const button = (name, label, action) => h("button", { type: "button", class: "quiet small", "aria-label": label, disabled: busy,
      onclick: () => this.app.guard(action) }, name);
    if (user) foot.append(button("Edit", "Edit and send again", () => this.edit(message)));
    else if (!message.lost) foot.append(button("Again", "Answer again", () => this.app.again(message)));
    if (message.usage) foot.append(h("span", { class: "hint numbers" }, numbers(message.usage)));
    return foot;
  }

  branches(message, busy) {
    const all = siblings(this.app.conversation.messages, message);
    if (all.length < 2) return null;
    const at = all.indexOf(message.id);
    const step = (by, name, label) => h("button", { type: "button", class: "quiet small", "aria-label": label,
      disabled: busy || all[at + by] === undefined, onclick: () => this.app.guard(async () => {
        await this.app.choose(all[at + by]);
        const there = this.place.querySelector(`[data-id="${all[at + by]}"] .branches`);
        (there?.querySelector(`[aria-label="${label}"]:not(:disabled)`) ?? there?.querySelector("button:not(:disabled)"))?.focus();
      }) }, name);
    return h("div", { class: "branches", role: "group", "aria-label": "Versions" }, step(-1, "‹", "Version before"),
      h("span", {}, `${at + 1}/${all.length}`), step(1, "›", "Version after"));
  }

  unanswered(message) {
    return h("p", { class: "hint" }, "There is no answer. ",
      h("button", { type: "button", class: "quiet small", onclick: () => this.app.guard(() => this.app.again(message)) }, "Ask again"));
  }

  edit(message) {
    const article = this.place.querySelector(`[data-id="${message.id}"]`);
    const area = h("textarea", { "aria-label": "Message", rows: Math.min(12, message.text.split("\n").length + 1) });
    area.value = message.text;
    const form = h("form", { class: "edit" }, area, h("div", { class: "dialog-foot" },
      h("button", { type: "button", class: "plain", onclick: () => this.show() }, "Cancel"),
      h("button", { type: "submit", class: "primary" }, "Send")));
    const submit = () => {
      if (area.value.trim() === "" && !message.attachments?.length) return;
      this.app.guard(() => this.app.edit(message, area.value));
      this.app.composer.focus();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        this.show();
        this.place.querySelector(`[data-id="${message.id}"] [aria-label="Edit and send again"]`)?.focus();
      }
    });
    article.replaceChildren(form);
    area.focus();
  }

  // ---- the answer that is being written ----

  grow(live) {
    if (this.growing?.live !== live) this.begin(live);
    const { growing } = this;
    if (growing.timer) return;
    // Showing takes a tenth of the time at most, however long the answer; so the work stays linear.
    growing.timer = setTimeout(() => this.draw(growing), Math.max(30, growing.cost * 9));
  }

  begin(live) {
    const body = h("div", { class: "body" });
    const status = h("p", { class: "hint writing" }, "Waiting");
    const who = h("p", { class: "who" }, this.app.conversation.model || "Model");
    // Busy: a screen reader waits for the end, and is told then.
    const article = h("article", { class: "message assistant", "aria-label": "Answer", "aria-busy": "true" }, who, body, status);
    this.place.append(article);
    this.growing = { live, article, body, status, view: new MarkdownView(body, codeCopy), pushed: 0, cost: 0, timer: null };
    this.draw(this.growing);
  }

  draw(growing) {
    growing.timer = null;
    if (this.growing !== growing) return;
    const { live, view, status } = growing;
    const begun = performance.now();
    const follow = this.atEnd();
    if (live.text.length > growing.pushed) {
      view.push(live.text.slice(growing.pushed));
      growing.pushed = live.text.length;
      view.render();
    }
    const { progress } = live;
    if (live.text) status.textContent = "Writing";
    else if (live.reasoning) status.textContent = "Thinking";
    else if (progress && progress.read < progress.total) status.textContent = `Reading: ${progress.read} of ${progress.total} tokens`;
    if (live.experts.length > 0 && !growing.experts) {
      growing.experts = experts(live.experts);
      status.before(growing.experts);
    }
    if (follow) this.toEnd();
    growing.cost = performance.now() - begun;
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

const isBuiltIn = (model) => model.builtin === true || /^(default|swarm|expert:|builtin)/.test(model.id);

function reasoning(text) {
  return h("details", { class: "reasoning" }, h("summary", {}, "How it got there"), h("p", {}, text));
}

function experts(list) {
  const sorted = [...list].sort((a, b) => b.weight - a.weight);
  const percent = (weight) => `${Math.round(weight * 100)} %`;
  return h("details", { class: "experts" },
    h("summary", {}, h("span", { class: "experts-name" }, "Answered by"), " ", sorted.map((expert) =>
      h("span", { class: "expert" }, `${expert.name} `, h("span", { class: "share" }, percent(expert.weight))))),
    h("ul", {}, sorted.map((expert) => h("li", {}, h("strong", {}, expert.name), ` ${percent(expert.weight)}`, expert.reason ? `: ${expert.reason}` : ""))));
}

function numbers(usage) {
  const parts = [`${usage.completion_tokens} tokens`];
  if (usage.tokens_per_s) parts.push(`${usage.tokens_per_s < 10 ? usage.tokens_per_s.toFixed(1) : Math.round(usage.tokens_per_s)} tokens/s`);
  if (usage.first_token_ms !== undefined && usage.first_token_ms !== null) parts.push(`first after ${usage.first_token_ms} ms`);
  return parts.join(" · ");
}
