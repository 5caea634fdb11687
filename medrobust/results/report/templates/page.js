"use strict";
document.querySelectorAll("[data-script]").forEach(tools => { tools.hidden = false; });

// the table of results: sorted by a column, filtered by attack and radius
const table = document.getElementById("results"), body = table.tBodies[0], original = [...body.rows];
table.querySelectorAll("thead th").forEach((head, column) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const state = head.getAttribute("aria-sort");
    const next = state === null ? "descending" : state === "descending" ? "ascending" : null;
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    if (next) head.setAttribute("aria-sort", next);
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => column === 0 ? value(a).localeCompare(value(b)) : value(a) - value(b);
    const sorted = next ? original.slice().sort((a, b) => (next === "ascending" ? 1 : -1) * compare(a, b)) : original;
    body.classList.toggle("sorted", next !== null);
    body.append(...sorted);
  });
});
const attack = document.getElementById("pick-attack"), epsilon = document.getElementById("pick-epsilon");
const filter = () => {
  let shown = 0;
  for (const row of original) {
    const clean = row.classList.contains("clean");
    const fits = (!attack.value || row.dataset.attack === attack.value) && (!epsilon || !epsilon.value || row.dataset.epsilon === epsilon.value);
    row.hidden = !(fits || clean);
    shown += fits && !clean;
  }
  document.getElementById("shown").textContent = attack.value || (epsilon && epsilon.value) ? `${shown} of ${original.length - 1} rows` : "";
};
for (const select of [attack, epsilon]) if (select) select.addEventListener("change", filter);

// selects that show one of several parts, or all
const choose = (select, parts, place) => {
  if (!select) return;
  const show = () => { parts.forEach(part => { part.hidden = select.value !== "" && part.dataset[place] !== select.value; }); measure(); };
  select.addEventListener("change", show);
  show();
};

// tables and figures that are wider than their boxes can be scrolled by the keyboard, and say so
function measure() {
  document.querySelectorAll(".scroll, .plot").forEach(box => {
    const wider = box.scrollWidth > box.clientWidth + 1, taller = box.scrollHeight > box.clientHeight + 1;
    const words = box.nextElementSibling && box.nextElementSibling.classList.contains("sideways") ? box.nextElementSibling : null;
    if (wider && !words) {
      const hint = document.createElement("p");
      hint.className = "sideways";
      hint.textContent = box.classList.contains("plot") ? "the figure goes on sideways" : "the table goes on sideways";
      box.after(hint);
    } else if (!wider && words) words.remove();
    if (box.classList.contains("scroll")) {
      if (wider || taller) {
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        const head = box.closest("details, section, [data-fit]");
        const title = head && head.querySelector("summary, h2, h3");
        box.setAttribute("aria-label", `table ${[...document.querySelectorAll(".scroll")].indexOf(box) + 1}: ${title ? title.textContent.trim() : ""}`);
      } else for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  });
}
choose(document.getElementById("pick-fit"), document.querySelectorAll("[data-fit]"), "fit");
choose(document.getElementById("pick-class"), document.querySelectorAll("[data-class]"), "class");
choose(document.getElementById("pick-panels"), document.querySelectorAll("[data-group]"), "group");
document.querySelectorAll("select[data-pick]").forEach(select => choose(select, document.querySelectorAll(`[data-part="${select.dataset.pick}"]`), "place"));
document.querySelectorAll("details").forEach(part => part.addEventListener("toggle", measure));
addEventListener("resize", measure);
measure();

// the numbers of a figure's marks: by pointing at one, or by the arrow keys once the figure has the focus
const tip = document.createElement("div");
tip.className = "tooltip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);
let pointed = null;
const hide = () => { tip.hidden = true; if (pointed) pointed.classList.remove("pointed"); pointed = null; };
const point = mark => {
  hide();
  pointed = mark;
  mark.classList.add("pointed");
  tip.textContent = mark.dataset.told;
  tip.hidden = false;
  const box = mark.getBoundingClientRect(), room = document.documentElement.clientWidth;
  tip.style.left = `${scrollX + Math.max(4, Math.min(box.left + box.width / 2 + 10, room - tip.offsetWidth - 4))}px`;
  tip.style.top = `${scrollY + box.bottom + 8}px`;
};
document.querySelectorAll(".plot").forEach(plot => {
  const marks = [...plot.querySelectorAll(".mark")].filter(mark => mark.querySelector("title"));
  if (!marks.length) return;
  marks.forEach(mark => {
    const title = mark.querySelector("title");
    mark.dataset.told = title.textContent;
    title.remove();
    mark.addEventListener("pointerenter", () => point(mark));
    mark.addEventListener("pointerleave", hide);
  });
  const svg = plot.querySelector("svg");
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", `${svg.getAttribute("aria-label")}. The arrow keys move from mark to mark.`);
  let place = -1;
  plot.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    else if (event.key === "Home" || event.key === "End") place = event.key === "Home" ? 0 : marks.length - 1;
    else if (step) place = place < 0 ? 0 : (place + step + marks.length) % marks.length;
    else return;
    event.preventDefault();
    if (event.key !== "Escape") { marks[place].scrollIntoView({ block: "nearest", inline: "nearest" }); point(marks[place]); }
  });
  plot.addEventListener("blur", hide);
});

// everything is printed: what is folded, and what a select hides
let folded = [];
addEventListener("beforeprint", () => { hide(); folded = [...document.querySelectorAll("details:not([open])")]; folded.forEach(part => { part.open = true; }); });
addEventListener("afterprint", () => { folded.forEach(part => { part.open = false; }); folded = []; });

// a link to something that is folded opens it
const unfold = () => { const part = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1))); for (let one = part; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true; if (part) part.scrollIntoView(); };
addEventListener("hashchange", unfold);
unfold();
