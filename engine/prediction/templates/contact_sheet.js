"use strict";
const byId = (name) => document.getElementById(name);
const list = byId("tiles");
const tiles = Array.from(list.children, (element, index) => {
  const labels = Array.from(element.querySelectorAll("ol li[data-label]"));
  return {
    element, index, labels,
    text: element.textContent.toLowerCase(),
    scores: new Map(labels.map((one) => [one.dataset.label, Number(one.dataset.score)])),
    best: labels.length ? Number(labels[0].dataset.score) : 0,
  };
});
function update() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const label = byId("label").value, least = Number(byId("least").value), order = byId("order").value;
  byId("shown").value = least.toFixed(2);
  const score = (tile) => label ? tile.scores.get(label) ?? -1 : tile.best;
  let shown = 0;
  for (const tile of tiles) {
    const fits = words.every((word) => tile.text.includes(word)) && (label ? score(tile) >= 0 : true);
    tile.element.hidden = !(fits && Math.max(score(tile), 0) >= least);
    shown += tile.element.hidden ? 0 : 1;
    for (const one of tile.labels) one.classList.toggle("chosen", label !== "" && one.dataset.label === label);
  }
  byId("status").textContent = `${shown.toLocaleString("en")} of ${tiles.length.toLocaleString("en")} images`;
  if (order !== update.order || (order !== "given" && label !== update.label)) {
    const sign = order === "high" ? -1 : 1;
    const apart = (a, b) => (order === "given" ? 0 : sign * (score(a) - score(b))) || a.index - b.index;
    const sorted = tiles.slice().sort(apart);
    sorted.forEach((tile, index) => { tile.element.style.order = index; });  // moving thousands would take seconds
  }
  update.order = order;
  update.label = label;
}
update.order = "given";
byId("controls").hidden = false;
byId("controls").addEventListener("input", update);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").reset();
