"use strict";
const byId = (name) => document.getElementById(name);
const boxes = Array.from(document.querySelectorAll("input[data-key]"));
const tiles = Array.from(byId("tiles").children, (element) => ({
  element,
  text: element.textContent.toLowerCase(),
  labels: Array.from(element.querySelectorAll(".labels li")),
}));
const ticked = new Set();
function tick(box) {
  for (const other of boxes) {  // a label may stand on the page twice
    if (other.dataset.key !== box.dataset.key) continue;
    other.checked = box.checked;
    other.closest("li").classList.toggle("on", box.checked);
  }
  if (box.checked) ticked.add(box.dataset.key); else ticked.delete(box.dataset.key);
  show();
}
function show() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = byId("kind").value, name = byId("class").value;
  let shown = 0;
  for (const tile of tiles) {
    for (const label of tile.labels) {
      label.hidden = !((!kind || label.dataset.kind === kind) && (!name || label.dataset.class === name));
    }
    tile.element.hidden = tile.labels.every((label) => label.hidden) || !words.every((word) => tile.text.includes(word));
    shown += tile.element.hidden ? 0 : 1;
  }
  const number = (count) => count.toLocaleString("en");
  byId("status").textContent = `${number(shown)} of ${number(tiles.length)} images, ${number(ticked.size)} decisions`;
  byId("write").disabled = ticked.size === 0;
}
function decisions() {
  const cell = (text) => `"${text.replaceAll('"', '""')}"`;
  const rows = Array.from(ticked, (key) => JSON.parse(key).map(cell).join(","));
  return ["image,class,given,new", ...rows, ""].join("\n");
}
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([decisions()], { type: "text/csv;charset=utf-8" }));
  link.download = "decisions.csv";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  save.done = ticked.size;
}
byId("controls").reset();
for (const box of boxes) {
  box.checked = false;  // some browsers remember
  box.addEventListener("change", () => tick(box));
}
byId("controls").addEventListener("input", show);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("write").addEventListener("click", save);
window.addEventListener("beforeunload", (event) => { if (ticked.size && save.done !== ticked.size) event.preventDefault(); });
show();
