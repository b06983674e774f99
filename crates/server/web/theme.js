// Light, dark, or as the system has it; remembered by this browser. A script of the old kind, in the head: the page must not
// show itself in the wrong colours first.

(() => {
  const NAMES = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
  const STORED = "hublab-theme";
  let current = "auto";

  const set = (name) => {
    current = Object.hasOwn(NAMES, name) ? name : "auto";
    document.documentElement.dataset.theme = current;
  };

  try {
    set(localStorage.getItem(STORED));
  } catch {
    // A browser that keeps nothing starts with the system's choice.
    set("auto");
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.textContent = NAMES[current];
    button.addEventListener("click", () => {
      const order = Object.keys(NAMES);
      set(order[(order.indexOf(current) + 1) % order.length]);
      button.textContent = NAMES[current];
      try {
        localStorage.setItem(STORED, current);
      } catch {
        // As above.
      }
    });
  });
})();
