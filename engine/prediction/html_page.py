"""The frame of the contact sheet: its HTML, what it looks like, and its search. `$name` is where text is put in."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Predictions of $source</title>
<style>$style</style>
</head>
<body>
<header>
<h1>Predictions <small>of $source</small></h1>
<form id="controls" hidden>
<label>Search <input id="search" type="search" placeholder="file or label" autocomplete="off"></label>
<label>Label <select id="label"><option value="">any</option>
$choices
</select></label>
<label>Score from <input id="least" type="range" min="0" max="1" step="0.01" value="0"> <output id="shown">0.00</output>
</label>
<label>Order <select id="order"><option value="given">as given</option><option value="high">highest score first</option>
<option value="low">lowest score first</option></select></label>
</form>
<p id="status" role="status">$count</p>
$unreadable
</header>
<main>
<ul id="tiles">
$tiles
</ul>
</main>
<script>$script</script>
</body>
</html>
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --ink: #1c1c1a; --soft: #5c5c57; --line: #dcdcd6; --bar: #bcd7f2; --back: #ecece8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161615; --card: #222220; --ink: #ececea; --soft: #a9a9a3; --line: #3a3a36; --bar: #25507a; --back: #2c2c29;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header { padding: 1rem 1rem .5rem; border-bottom: 1px solid var(--line); background: var(--card); }
h1 { margin: 0 0 .5rem; font-size: 1.25rem; overflow-wrap: anywhere; }
small { color: var(--soft); font-weight: normal; font-size: .85em; }
form { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; align-items: center; }
form[hidden] { display: none; }
label { display: inline-flex; gap: .4rem; align-items: center; max-width: 100%; }
input, select { font: inherit; min-width: 0; max-width: 15rem; padding: .2rem .35rem; }
input[type=range] { width: 8rem; padding: 0; }
#status { margin: .5rem 0; color: var(--soft); }
details { margin: .25rem 0 .5rem; overflow-wrap: anywhere; }
#tiles {
  list-style: none; margin: 0; padding: 1rem; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr));
}
.tile {
  display: block;  /* an item with a number costs a browser seconds when thousands are hidden */
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
  content-visibility: auto; contain-intrinsic-size: auto 26rem;
}
.tile[hidden] { display: none; }
figure { margin: 0; }
.frame { height: 240px; display: grid; place-items: center; background: var(--back); }
img { display: block; width: 100%; height: 240px; object-fit: contain; }
.gone { color: var(--soft); }
figcaption {
  padding: .4rem .6rem 0; font-size: .8rem; line-height: 1.3; color: var(--soft);
  overflow-wrap: anywhere; unicode-bidi: plaintext;
}
.tile ol { list-style: none; margin: 0; padding: .35rem .6rem .6rem; }
.tile ol li {
  display: flex; justify-content: space-between; gap: .5rem;
  margin-top: 3px; padding: .1rem .4rem; border-radius: .2rem;
  background: linear-gradient(90deg, var(--bar) var(--share, 0%), var(--back) var(--share, 0%));
}
.tile ol li.none { background: none; color: var(--soft); padding-left: 0; }
.tile ol span { overflow-wrap: anywhere; unicode-bidi: plaintext; }
.tile ol b { font-weight: 600; font-variant-numeric: tabular-nums; }
.tile ol li.chosen { outline: 2px solid currentColor; }
"""

SCRIPT = """
"use strict";
const byId = (name) => document.getElementById(name);
const list = byId("tiles");
const tiles = Array.from(list.children, (element, place) => {
  const labels = Array.from(element.querySelectorAll("ol li[data-label]"));
  return {
    element, place, labels,
    text: element.textContent.toLowerCase(),
    scores: new Map(labels.map((one) => [one.dataset.label, Number(one.dataset.score)])),
    best: labels.length ? Number(labels[0].dataset.score) : 0,
  };
});
function update() {
  const words = byId("search").value.toLowerCase().split(/\\s+/).filter(Boolean);
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
  byId("status").textContent = `${shown.toLocaleString("en")} of ${tiles.length.toLocaleString("en")} pictures`;
  if (order !== update.order || (order !== "given" && label !== update.label)) {
    const sign = order === "high" ? -1 : 1;
    const apart = (a, b) => (order === "given" ? 0 : sign * (score(a) - score(b))) || a.place - b.place;
    const sorted = tiles.slice().sort(apart);
    sorted.forEach((tile, place) => { tile.element.style.order = place; });  // moving thousands would take seconds
  }
  update.order = order;
  update.label = label;
}
update.order = "given";
byId("controls").hidden = false;
byId("controls").addEventListener("input", update);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("controls").reset();
"""
