// The list of conversations: by day, searchable, with the arrow keys.

import { $, h } from "./dom.js";

const DAY_MS = 86_400_000;
/** Where the list lies over the conversation; the same width stands in `style.css`. */
const PHONE = matchMedia("(max-width: 760px)");
/** Conversations that are listed at first, and that each *Show more* adds; and how many the service gives at once. */
const PAGE = 50;
const PAGE_MAX = 200;
/** A pause in typing after which the service is asked. */
const SEARCH_MS = 150;

export class Sidebar {
  constructor(app) {
    this.app = app;
    this.items = [];
    this.next = null;
    this.wanted = PAGE;
    $("search").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => app.guard(() => this.refresh()), SEARCH_MS);
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.move(event, -1, 1);
      if (event.key === "Escape" && $("search").value) {
        event.stopPropagation();
        $("search").value = "";
        app.guard(() => this.refresh());
      }
    });
    $("list").addEventListener("keydown", (event) => this.keys(event));
    $("side-open").addEventListener("click", () => this.open());
    $("side-close").addEventListener("click", () => this.close());
    $("veil").addEventListener("click", () => this.close());
    PHONE.addEventListener("change", () => {
      this.close();
      this.fit();
    });
    this.fit();
  }

  /** Off the screen it must be out of the way of the keyboard as well. */
  fit() {
    $("side").inert = PHONE.matches && !this.isOpen();
  }

  /** Shows what is there now. One question at a time; what is wanted meanwhile is asked after it, once. */
  refresh() {
    this.stale = true;
    this.loading ??= this.load().finally(() => {
      this.loading = null;
      // What was wanted after the last look, before anybody could see that it had ended.
      return this.stale ? this.refresh() : undefined;
    });
    return this.loading;
  }

  async load() {
    while (this.stale) {
      this.stale = false;
      const query = $("search").value.trim();
      const page = query ? await this.app.keeper.search(query) : await this.pages();
      Object.assign(this, { items: page.items, next: page.next, incomplete: page.incomplete, query });
    }
    this.render();
  }

  /** As much of the list as is wanted. */
  async pages() {
    const items = [];
    let next = null;
    do {
      const page = await this.app.keeper.list(next, Math.min(this.wanted - items.length, PAGE_MAX));
      items.push(...page.items);
      next = page.next;
    } while (next && items.length < this.wanted);
    return { items, next };
  }

  async more() {
    const count = this.items.length;
    this.wanted = count + PAGE;
    await this.refresh();
    this.buttons()[count]?.focus();
  }

  render() {
    const held = document.activeElement?.dataset?.id;
    const list = $("list");
    list.replaceChildren();
    let day = null;
    let group = null;
    for (const item of this.items) {
      const name = this.query ? "Found" : dayOf(item.updated);
      if (name !== day) {
        day = name;
        group = h("ul", { "aria-label": name });
        list.append(h("h2", { class: "day" }, name), group);
      }
      const excerpt = this.query && item.excerpt && item.excerpt !== item.title ? h("span", { class: "excerpt" }, item.excerpt) : null;
      const button = h("button", { type: "button", class: "item", "data-id": item.id,
        onclick: () => this.app.guard(() => this.app.open(item.id, { message: item.message })) },
      h("span", { class: "item-title", dir: "auto" }, item.title || "Untitled"), excerpt);
      group.append(h("li", {}, button));
    }
    if (this.items.length === 0) {
      list.append(h("p", { class: "hint" }, this.query ? "Nothing was found." : "No conversations yet."));
    }
    if (this.incomplete) list.append(h("p", { class: "hint" }, "There may be more: write a longer word."));
    if (this.next && !this.query) {
      list.append(h("button", { type: "button", class: "quiet", onclick: () => this.app.guard(() => this.more()) }, "Show more"));
    }
    if (this.app.notKept) list.prepend(h("p", { class: "hint warn" }, `Not kept: ${this.app.notKept}`));
    this.mark();
    if (held) this.focusOn(held);
  }

  mark() {
    for (const button of this.buttons()) {
      if (button.dataset.id === this.app.conversation.id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /** The conversation beside one whose button has the keyboard; it gets it when that one is gone. */
  neighbour(id) {
    const buttons = this.buttons();
    const at = buttons.findIndex((button) => button.dataset.id === id);
    if (at < 0 || buttons[at] !== document.activeElement) return null;
    return (buttons[at + 1] ?? buttons[at - 1])?.dataset.id;
  }

  /** Puts the keyboard on a conversation of the list; gives whether it is there. */
  focusOn(id) {
    const button = this.buttons().find((other) => other.dataset.id === id);
    button?.focus();
    return Boolean(button);
  }

  buttons = () => [...$("list").querySelectorAll(".item")];

  keys(event) {
    const buttons = this.buttons();
    const at = buttons.indexOf(document.activeElement);
    if (at < 0) return;
    if (event.key === "ArrowDown") this.move(event, at, 1);
    else if (event.key === "ArrowUp" && at === 0) {
      event.preventDefault();
      $("search").focus();
    } else if (event.key === "ArrowUp") this.move(event, at, -1);
    else if (event.key === "Home") this.move(event, 0, 0);
    else if (event.key === "End") this.move(event, buttons.length - 1, 0);
    else if (event.key === "Delete") {
      event.preventDefault();
      const item = this.items.find(({ id }) => id === buttons[at].dataset.id);
      if (item) this.app.guard(() => this.app.remove(item));
    }
  }

  move(event, at, by) {
    const button = this.buttons()[at + by];
    if (!button) return;
    event.preventDefault();
    button.focus();
  }

  focusSearch() {
    this.open();
    $("search").focus();
    $("search").select();
  }

  isOpen = () => document.body.classList.contains("side-is-open");

  open() {
    if (!PHONE.matches) return;
    document.body.classList.add("side-is-open");
    $("veil").hidden = false;
    $("side-open").setAttribute("aria-expanded", "true");
    this.fit();
    $("side-close").focus();
  }

  close() {
    if (!this.isOpen()) return;
    document.body.classList.remove("side-is-open");
    $("veil").hidden = true;
    $("side-open").setAttribute("aria-expanded", "false");
    $("side-open").focus();
    this.fit();
  }
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  if (time >= midnight - 6 * DAY_MS) return "This week";
  return new Date(time).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}
