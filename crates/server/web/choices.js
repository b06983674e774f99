// Which model answers, how, and how much of its context is used.

import { json } from "./api.js";
import { $, ask, h } from "./dom.js";
import { pathTo } from "./tree.js";

/** What cannot be in the name of a model parts it from that of an expert. */
const PART = "\n";
const isSwarm = (model) => model.hublab?.kind === "swarm";

export class Choices {
  constructor(app) {
    this.app = app;
    this.models = [];
    $("model").addEventListener("change", () => app.guard(() => {
      const [model, expert] = $("model").value.split(PART);
      const { expert: _, ...settings } = app.conversation.settings;
      return app.change({ model, settings: expert ? { ...settings, expert } : settings });
    }));
    $("settings").addEventListener("click", () => app.guard(() => this.settings()));
  }

  async load() {
    this.models = (await json("v1/models")).data;
    const option = (value, text) => h("option", { value }, text);
    const groups = [["Models", this.models.filter((model) => !isSwarm(model)).map((model) => option(model.id, model.id))]];
    for (const swarm of this.models.filter(isSwarm)) {
      const experts = this.app.service.swarms.find(({ model }) => model === swarm.id)?.experts ?? [];
      const chosen = experts.map(({ name }) => option(swarm.id + PART + name, `${swarm.id}: ${name} only`));
      groups.push([`Experts of ${swarm.id}`, [option(swarm.id, `${swarm.id}: whoever knows`), ...chosen]]);
    }
    const filled = groups.filter(([, options]) => options.length > 0);
    $("model").replaceChildren(...filled.map(([name, options]) => h("optgroup", { label: name }, options)));
  }

  /** The model that is asked when nobody chose. */
  first = () => this.app.service?.default_model || this.models.find((model) => !isSwarm(model))?.id || this.models[0]?.id || "";

  show() {
    const { conversation } = this.app;
    conversation.model ||= this.first();
    const { model, settings } = conversation;
    const value = settings.expert ? model + PART + settings.expert : model;
    for (const option of $("model").querySelectorAll(".gone")) option.remove();
    if (value && ![...$("model").options].some((option) => option.value === value)) {
      $("model").prepend(h("option", { value, class: "gone" }, `${value.replace(PART, ": ")} (not here)`));
    }
    $("model").value = value;
    this.meter();
  }

  /** How full the model's context was after the last answer. */
  meter() {
    const { conversation } = this.app;
    const last = pathTo(conversation.messages, conversation.active).findLast((message) => message.usage);
    const limit = last?.usage.context_tokens;
    $("context").hidden = !limit;
    if (!limit) return;
    const used = last.usage.prompt_tokens + last.usage.completion_tokens;
    $("context-meter").value = used / limit;
    $("context-text").textContent = `${used.toLocaleString()} of ${limit.toLocaleString()} tokens`;
  }

  async settings() {
    const { settings } = this.app.conversation;
    const number = (name, label, hint, range) => ({ name, label, hint, type: "number", value: settings[name], placeholder: "default", ...range });
    const values = await ask({
      title: "Settings of this conversation",
      text: "What is empty is the model's own default.",
      fields: [
        { name: "system", label: "System prompt", value: settings.system, rows: 4, hint: "What the model is told before everything else." },
        number("temperature", "Temperature", "0 takes the likeliest word each time.", { min: 0, max: 5, step: "any" }),
        number("top_p", "Top-p", "The share of probability that is drawn from.", { min: 0.01, max: 1, step: "any" }),
        number("top_k", "Top-k", "How many words are drawn from; 0 for all.", { min: 0, max: 1000000, step: 1 }),
        number("seed", "Seed", "The same seed gives the same answer.", { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 }),
        number("max_tokens", "Longest answer", "In tokens.", { min: 1, max: 1000000, step: 1 }),
      ],
    });
    if (!values) return;
    const changed = settings.expert ? { expert: settings.expert } : {};
    for (const [name, value] of Object.entries(values)) {
      if (value.trim() !== "") changed[name] = name === "system" ? value : Number(value);
    }
    await this.app.change({ settings: changed });
  }
}
