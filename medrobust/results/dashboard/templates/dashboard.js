"use strict";
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (name, words = "", attributes = {}) => {
  const element = document.createElement(name);
  if (words !== "") element.textContent = words;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
all("[data-script]").forEach(part => { part.hidden = false; });

// sorting, by a button in each heading
for (const table of all("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows];
  if (original.length < 2) continue;
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    const button = make("button", "", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const numeric = head.classList.contains("num");
    button.addEventListener("click", () => {
      const state = head.getAttribute("aria-sort");
      const begin = numeric ? "descending" : "ascending", then = numeric ? "ascending" : "descending";
      const next = state === null ? begin : state === begin ? then : null;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        const [one, other] = [value(a), value(b)];
        if (one === "" || other === "") return (one === "") - (other === "");
        return sign * (numeric ? Number(one.replace("inf", "Infinity")) - Number(other.replace("inf", "Infinity")) : one.localeCompare(other, undefined, { numeric: true }));
      };
      body.append(...(next ? original.slice().sort(compare) : original));
    });
  });
}

// filtering rows and choosing columns of wide tables
for (const table of all("table.wide")) {
  const tools = make("div", "", { class: "tools" }), body = table.tBodies[0], rows = [...body.rows];
  if (rows.length > 1) {
    const label = make("label", "Filter "), input = make("input", "", { type: "search" });
    const told = make("span", "", { class: "note", "aria-live": "polite" });
    label.append(input);
    tools.append(label, told);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
        shown += !row.hidden;
      }
      told.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
  }
  const choose = make("details", "", { class: "choose" }), set = make("fieldset");
  choose.append(make("summary", "Choose columns"), set);
  set.append(make("legend", "Columns that are shown"));
  all("thead th", table).forEach((head, column) => {
    if (all("th.name", body).length && rows[0].cells[column].matches("th.name")) return;
    const label = make("label"), box = make("input", "", { type: "checkbox" });
    box.checked = true;
    label.append(box, head.textContent);
    set.append(label);
    box.addEventListener("change", () => {
      for (const row of table.rows) row.cells[column].hidden = !box.checked;
    });
  });
  tools.append(choose);
  table.closest(".scroll").before(tools);
}

// tables that are wider than their boxes say so, as they do in a report
const measure = () => all(".scroll").forEach(box => {
  const hint = box.nextElementSibling && box.nextElementSibling.matches(".sideways") ? box.nextElementSibling : null;
  const wider = box.scrollWidth > box.clientWidth + 1;
  if (wider && !hint) box.after(make("p", "the table goes on sideways", { class: "sideways" }));
  else if (!wider && hint) hint.remove();
});
addEventListener("resize", measure);
addEventListener("toggle", measure, true);
addEventListener("change", measure);
addEventListener("load", measure);

// curves, drawn from the tables below them; the first one is drawn by the same numbers without script
const WIDTH = 760, TOP = 16, HEIGHT = 320, LEFT = 52, CHARACTER = 7.44, LABEL = 24, DRAWN = 8;
const SHAPES = [null, [[-3.8, -3.8], [3.8, -3.8], [3.8, 3.8], [-3.8, 3.8]], [[0, -5], [4.8, 3.8], [-4.8, 3.8]], [[0, -5.4], [5.4, 0], [0, 5.4], [-5.4, 0]], [[0, 5], [4.8, -3.8], [-4.8, -3.8]]];
const svg = (name, attributes, words = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, typeof value === "number" ? value.toFixed(1) : value);
  if (words) element.textContent = words;
  return element;
};
const shorten = name => {
  if (name.length <= LABEL) return name;
  const head = Math.floor((LABEL - 1) / 2);
  return `${name.slice(0, head)}…${name.slice(head + 1 - LABEL)}`;
};
const spread = (wanted, gap, lower, upper) => {
  const order = wanted.map((_, index) => index).sort((a, b) => wanted[a] - wanted[b]), moved = wanted.slice();
  let previous = lower - gap;
  for (const index of order) previous = moved[index] = Math.max(wanted[index], previous + gap);
  let following = Math.max(upper, lower + gap * (wanted.length - 1)) + gap;
  for (const index of order.slice().reverse()) following = moved[index] = Math.min(moved[index], following - gap);
  return moved;
};
const points = list => list.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
const marker = (x, y, place, words) => {
  const shape = SHAPES[place % 5];
  const mark = shape ? svg("polygon", { class: "mark", points: points(shape.map(([dx, dy]) => [x + dx, y + dy])) }) : svg("circle", { class: "mark", cx: x, cy: y, r: 4.2 });
  mark.append(svg("title", {}, words));
  return mark;
};
const limits = cell => {
  const small = cell.querySelector("small");
  const found = small ? small.textContent.match(/[\d.]+/g) : null;
  return found && found.length === 2 ? found.map(one => Number(one) / 100) : null;
};
const draw = (holder, table, chosen, places) => {
  const old = holder.querySelector("svg"), style = holder.dataset.style || (old && old.querySelector("style").textContent);
  holder.dataset.style = style;
  // a radius of 0 has no place on a logarithmic axis
  const columns = all("thead th", table).map((head, place) => ({ place, words: head.textContent.replace("ε = ", ""), radius: Number(head.dataset.radius) })).filter(one => one.radius > 0);
  const [heads, radii] = [columns.map(one => one.words), columns.map(one => one.radius)];
  const rows = [...table.tBodies[0].rows].map(row => ({
    name: row.cells[0].querySelector("a")?.textContent ?? row.cells[0].firstChild.textContent,
    values: columns.map(one => ({ ...one, cell: row.cells[one.place] })).map(({ radius, words, cell }) => ({ radius, words, value: cell.dataset.value, text: cell.firstChild.textContent, limits: limits(cell) })).filter(one => one.value !== ""),
  })).filter(row => row.values.length && chosen.has(row.name));
  if (!radii.length) { holder.replaceChildren(); return; }
  const label = `Line chart, ${table.caption.textContent}; the table below it has the numbers`;
  const longest = Math.max(4, ...rows.map(row => shorten(row.name).length)), right = WIDTH - 30 - CHARACTER * longest;
  const tall = Math.max(HEIGHT, 15 * rows.length), bottom = TOP + tall;
  const [low, high] = [Math.log(radii[0]), Math.log(radii.at(-1))], [start, end] = [LEFT + 16, right - 14];
  const x = radius => (high === low ? (start + end) / 2 : start + (Math.log(radius) - low) / (high - low) * (end - start));
  const y = value => bottom - Number(value) * tall;
  const figure = svg("svg", { class: "fig", viewBox: `0 0 ${WIDTH} ${bottom + 52}`, role: "img", "aria-label": label });
  figure.append(svg("style", {}, style));
  for (let tick = 0; tick <= 4; tick += 1) {
    figure.append(svg("line", { class: "grid", x1: LEFT, y1: y(tick / 4), x2: right, y2: y(tick / 4) }));
    figure.append(svg("text", { x: LEFT - 8, y: y(tick / 4) + 4, "text-anchor": "end" }, `${25 * tick} %`));
  }
  let taken = 0;
  radii.forEach((radius, index) => {
    figure.append(svg("line", { class: "grid", x1: x(radius), y1: bottom, x2: x(radius), y2: bottom + 5 }));
    const half = CHARACTER * heads[index].length / 2;
    if (x(radius) - half <= taken + 6) return;
    figure.append(svg("text", { x: x(radius), y: bottom + 20, "text-anchor": "middle" }, heads[index]));
    taken = x(radius) + half;
  });
  figure.append(svg("text", { class: "title", x: (LEFT + right) / 2, y: bottom + 40, "text-anchor": "middle" }, radii.length > 1 ? "ε, logarithmic" : "ε"));
  const heights = spread(rows.map(row => y(row.values.at(-1).value)), 15, TOP, bottom);
  rows.forEach((row, index) => {
    const place = places.get(row.name), aside = radii.length === 1 ? 16 * (index - (rows.length - 1) / 2) : 0;
    const at = row.values.map(one => [x(one.radius) + aside, y(one.value)]), last = at.at(-1);
    const group = svg("g", { class: `series s${place % 8} d${(place + Math.floor(place / 8)) % 4}` });
    if (row.values.length > 1 && row.values.every(one => one.limits)) {
      const upper = row.values.map(one => [x(one.radius), y(one.limits[1])]), lower = row.values.map(one => [x(one.radius), y(one.limits[0])]);
      group.append(svg("polyline", { class: "band", points: points([...upper, ...lower.reverse()]) }));
    } else if (row.values[0].limits) {
      const [down, up] = row.values[0].limits;
      group.append(svg("line", { class: "whisker", x1: at[0][0], y1: y(down), x2: at[0][0], y2: y(up) }));
    }
    group.append(svg("polyline", { class: "line", points: points(at) }));
    row.values.forEach((one, number) => {
      const range = one.limits ? ` (${one.limits.map(limit => (100 * limit).toFixed(1)).join("–")})` : "";
      group.append(marker(...at[number], place, `${row.name}, ε = ${one.words}: ${one.text}${range}`));
    });
    group.append(svg("polyline", { class: "leader", points: points([[last[0] + 6, last[1]], [right - 2, last[1]], [right + 8, heights[index]]]) }));
    group.append(svg("text", { class: "name", x: right + 11, y: heights[index] + 4 }, shorten(row.name)));
    figure.append(group);
  });
  holder.replaceChildren(figure);
};
for (const block of all("[data-curves]")) {
  const select = block.querySelector("select"), holder = block.querySelector(".plot"), parts = all("[data-curve]", block);
  const tables = new Map(parts.map(part => [part.dataset.curve, part.querySelector("table")]));
  const names = [...parts[0].querySelector("tbody").rows].map(row => row.cells[0].querySelector("a")?.textContent ?? row.cells[0].firstChild.textContent);
  const places = new Map(names.map((name, place) => [name, place])), chosen = new Set(names.slice(0, DRAWN));
  const show = () => {
    draw(holder, tables.get(select.value), chosen, places);
    parts.forEach(part => { part.hidden = part.dataset.curve !== select.value; });
  };
  select.addEventListener("change", show);
  if (names.length > 1) {
    const choose = make("details", "", { class: "choose" }), set = make("fieldset");
    choose.append(make("summary", "Choose runs"), set);
    set.append(make("legend", "Runs that are drawn"));
    for (const name of names) {
      const label = make("label"), box = make("input", "", { type: "checkbox" });
      box.checked = chosen.has(name);
      label.append(box, name);
      set.append(label);
      box.addEventListener("change", () => { box.checked ? chosen.add(name) : chosen.delete(name); show(); });
    }
    select.closest(".tools").append(choose);
  }
  show();
}

// pairs
const signed = tenths => (tenths > 0 ? `+${(tenths / 10).toFixed(1)}` : tenths < 0 ? `−${(-tenths / 10).toFixed(1)}` : "0.0");
const chance = p => (p === 0 ? "< 0.0001" : p <= 1000 ? (p / 10000).toFixed(4) : ((p - 1000) / 100).toFixed(2));
// one decimal, ties to the even digit as in the tables that stand here without script
const decimal = value => (value * 4 % 4 === 1 ? value - 0.05 : value).toFixed(1);
const decode = condition => {
  const found = [], { members, n, right, pairs } = condition;
  if (n === null) {
    for (let at = 0; at < pairs.length; at += 11) {
      const [first, second, count, a, b, onlyA, onlyB, low, high, p, holm] = pairs.slice(at, at + 11);
      found.push({ first, second, n: count, a, b, onlyA, onlyB, low, high, p, holm });
    }
    return found;
  }
  let at = 0;
  for (let one = 0; one < members.length; one += 1) {
    for (let other = one + 1; other < members.length; other += 1, at += 6) {
      const [onlyA, onlyB, low, high, p, holm] = pairs.slice(at, at + 6);
      found.push({ first: members[one], second: members[other], n, a: right[one], b: right[other], onlyA, onlyB, low, high, p, holm });
    }
  }
  return found;
};
const turned = pair => ({ ...pair, first: pair.second, second: pair.first, a: pair.b, b: pair.a, onlyA: pair.onlyB, onlyB: pair.onlyA, low: -pair.high, high: -pair.low });
const bit = (bytes, place) => (bytes.charCodeAt(place >> 3) >> (7 - (place & 7))) & 1;
const region = (table, name) => {
  const holder = make("div", "", { class: "scroll", tabindex: "0", role: "group", "aria-label": name });
  holder.append(table);
  return holder;
};
const pairTable = (runs, rows, title) => {
  const table = make("table", "", { class: "plain" }), head = make("tr");
  table.append(make("caption", title, { class: "unseen" }));
  ["A", "B", "n", "A right", "B right", "A − B", "A alone", "B alone", "p", "p, Holm"].forEach((words, place) => head.append(make("th", words, place < 2 ? { scope: "col" } : { scope: "col", class: "num" })));
  const percent = (count, n) => `${decimal(100 * (count / n))}\u00a0%`, body = make("tbody");
  for (const pair of rows) {
    const row = make("tr");
    row.append(make("td", runs[pair.first]), make("td", runs[pair.second]));
    const points = 100 * ((pair.a - pair.b) / pair.n);
    const difference = make("td", signed(Math.sign(points) * Math.round(10 * decimal(Math.abs(points)))), { class: "num" });
    difference.append(make("small", `${signed(pair.low)} to ${signed(pair.high)}`));
    const number = words => make("td", words, { class: "num" });
    row.append(number(pair.n.toLocaleString("en")), number(percent(pair.a, pair.n)), number(percent(pair.b, pair.n)), difference);
    row.append(number(pair.onlyA.toLocaleString("en")), number(pair.onlyB.toLocaleString("en")), number(chance(pair.p)), number(chance(pair.holm)));
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  return region(table, title);
};
const stored = document.getElementById("pictures"), PICTURES = stored ? JSON.parse(stored.textContent) : [];
const LISTED = 100;
const changed = (data, number, first, second) => {
  const condition = data.conditions[number], holder = make("div");
  if (!condition.sides) {
    holder.append(make("p", "Which images changed sides is left out here, to keep the page small; compare.py diff tells it.", { class: "note" }));
    return holder;
  }
  const [ours, theirs] = [first, second].map(run => condition.sides[run].map(part => part && atob(part)));
  const tried = ([, mask], place) => mask === null || bit(mask, place);
  const only = [[], []];
  data.ids.forEach((id, place) => {
    if (!tried(ours, place) || !tried(theirs, place)) return;
    const [a, b] = [bit(ours[0], place), bit(theirs[0], place)];
    if (a !== b) only[a ? 0 : 1].push(id);
  });
  const lists = make("div", "", { class: "sides" });
  [first, second].forEach((run, side) => {
    const part = make("div"), list = make("ul", "", { tabindex: "0", "aria-label": `Images that only ${data.runs[run]} gets right` });
    part.append(make("b", `Only ${data.runs[run]} is right`), ` (${only[side].length})`, list);
    only[side].slice(0, LISTED).forEach(id => list.append(make("li", id)));
    if (only[side].length > LISTED) list.append(make("li", `and ${only[side].length - LISTED} more`));
    lists.append(part);
  });
  holder.append(make("h4", "Images that changed sides"), lists);
  const seen = data.pictures.seen[number] || {}, shots = make("div", "", { class: "shots" });
  for (const id of only.flat()) {
    const kept = [first, second].map(run => (seen[run] || {})[id]);
    if (!kept[0] || !kept[1]) continue;
    const panel = make("div", "", { class: "panel" }), trio = make("div", "", { class: "trio" });
    panel.append(make("p", id, { class: "id" }), trio);
    const shot = (picture, heading, words, right) => {
      const figure = make("figure"), caption = make("figcaption");
      figure.append(make("img", "", { src: PICTURES[picture], alt: `${heading}${words ? `: ${words}` : ""}`, loading: "lazy" }), caption);
      caption.append(make("em", heading));
      if (words) caption.append(make("span", `${right ? "✓" : "✗"} ${words}`, { class: right ? "right" : "wrong" }));
      trio.append(figure);
    };
    shot(data.pictures.clean[id], "clean", "", true);
    [first, second].forEach((run, side) => shot(kept[side][0], data.runs[run], kept[side][1], kept[side][2]));
    shots.append(panel);
  }
  holder.append(shots.childNodes.length ? shots : make("p", only.flat().length ? "Of none of them both runs have kept a picture." : "None.", { class: "note" }));
  return holder;
};
const option = (words, value) => make("option", words, { value });
for (const block of all("[data-pairs]")) {
  const data = JSON.parse(block.querySelector("script").textContent), shown = block.querySelector("[data-shown]");
  const [condition, first, second] = ["condition", "first", "second"].map(name => block.querySelector(`[data-pick=${name}]`));
  if (!data.conditions.length) { block.querySelector(".tools").hidden = true; continue; }
  block.querySelector("[data-static]").hidden = true;
  data.conditions.forEach((one, number) => condition.append(option(one.label, number)));
  const offer = () => {
    const had = [first.value, second.value], members = new Set(data.conditions[condition.value].members.map(String));
    for (const select of [first, second]) {
      select.replaceChildren(...[...members].map(run => option(data.runs[run], run)));
      select.prepend(option("any run", ""));
    }
    const few = members.size <= 10;
    first.value = members.has(had[0]) ? had[0] : few ? "" : [...members][0];
    second.value = members.has(had[1]) ? had[1] : "";
  };
  const show = () => {
    const [a, b] = [first.value, second.value], every = decode(data.conditions[condition.value]), rows = [];
    for (const pair of every) {
      const fits = (one, other) => (a === "" || one === Number(a)) && (b === "" || other === Number(b));
      if (fits(pair.first, pair.second)) rows.push(pair);
      else if (fits(pair.second, pair.first)) rows.push(turned(pair));
    }
    const label = data.conditions[condition.value].label;
    const limited = rows.slice(0, 200);
    shown.replaceChildren(pairTable(data.runs, limited, `Pairs, ${label}`));
    const few = limited.length < every.length ? `${limited.length} of ${every.length} pairs; p is corrected for all ${every.length}.` : "";
    const told = rows.length ? few : "There is no such pair: choose two different runs.";
    if (told) shown.append(make("p", told, { class: "note" }));
    if (rows.length === 1) shown.append(changed(data, Number(condition.value), rows[0].first, rows[0].second));
    else if (rows.length) shown.append(make("p", "Choose both A and B to see the images that changed sides.", { class: "note" }));
  };
  condition.addEventListener("change", () => { offer(); show(); });
  first.addEventListener("change", show);
  second.addEventListener("change", show);
  offer();
  show();
}

// two configurations, key by key
for (const block of all("[data-configurations]")) {
  const data = JSON.parse(block.querySelector("script").textContent), shown = block.querySelector("[data-shown]");
  const [first, second] = ["first", "second"].map(name => block.querySelector(`[data-pick=${name}]`));
  for (const select of [first, second]) {
    select.append(option("all runs", ""));
    data.runs.forEach((name, run) => select.append(option(name, run)));
    select.addEventListener("change", () => {
      const pair = first.value !== "" && second.value !== "";
      block.querySelector("[data-static]").hidden = pair;
      shown.replaceChildren();
      if (!pair) return;
      const table = make("table", "", { class: "plain" }), head = make("tr"), body = make("tbody"), top = make("thead");
      const names = [data.runs[first.value], data.runs[second.value]];
      table.append(make("caption", `Configurations of ${names.join(" and ")}`, { class: "unseen" }));
      ["file", "key", ...names].forEach(words => head.append(make("th", words, { scope: "col" })));
      for (const [key, [values, having]] of Object.entries(data.keys)) {
        const [one, other] = [first, second].map(select => values[having[select.value]]);
        if (one === other || one === null || other === null) continue;
        const row = make("tr"), at = key.indexOf(": ");
        [key.slice(0, at), key.slice(at + 2), one, other].forEach(words => row.append(make("td", words)));
        body.append(row);
      }
      top.append(head);
      table.append(top, body);
      shown.append(body.rows.length ? region(table, "Difference of two configurations") : make("p", "They do not differ.", { class: "note" }));
    });
  }
}
