// a key is sent with the version of the page on which it was pressed
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey || e.repeat && !/^(j|k|Arrow)/.test(e.key)) return;
  if (e.target.tagName === "BUTTON" && (e.key === "Enter" || e.key === " ")) return;
  const desk = document.querySelector("[data-version]");
  if (!desk || !/^([a-z0-9]|Arrow\w+|Enter|Escape)$/.test(e.key)) return;
  if (e.key.startsWith("Arrow") && !desk.dataset.panel) e.preventDefault();
  emitEvent("pressed", {key: e.key, version: Number(desk.dataset.version)});
});
