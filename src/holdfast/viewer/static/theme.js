// Light or dark, before anything is drawn: as it was chosen, else as the machine is set.
"use strict";
const theme = {
  chosen: null,
  stored() { try { return localStorage.getItem("holdfast-theme"); } catch { return null; } },
  now() { return this.chosen ?? this.stored() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"); },
  apply() { document.documentElement.dataset.theme = this.now(); document.dispatchEvent(new Event("theme")); },
  toggle() {
    this.chosen = this.now() === "dark" ? "light" : "dark";
    try { localStorage.setItem("holdfast-theme", this.chosen); } catch { /* it holds for this page */ }
    this.apply();
  },
  listen(button) {
    button.addEventListener("click", () => this.toggle());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.apply());
  },
};
theme.apply();
