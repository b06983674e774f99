// Light, dark, or as the system has it; remembered by this browser.

const NAMES = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
const STORED = "hublab-theme";

/** Makes a button the switch. */
export function theme(button) {
  let current = "auto";
  try {
    current = localStorage.getItem(STORED) ?? "auto";
  } catch {
    // A browser that keeps nothing starts with the system's choice.
  }
  const set = (name) => {
    current = Object.hasOwn(NAMES, name) ? name : "auto";
    document.documentElement.dataset.theme = current;
    button.textContent = NAMES[current];
    try {
      localStorage.setItem(STORED, current);
    } catch {
      // As above.
    }
  };
  set(current);
  const order = Object.keys(NAMES);
  button.addEventListener("click", () => set(order[(order.indexOf(current) + 1) % order.length]));
}
