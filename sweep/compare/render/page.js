"use strict";
// Draws the charts, and keeps them in step with the page: what is switched off, site, choices, theme, print.
// What is shown is in the address's fragment, so that a view can be sent: #site=…&off=format:int4&cost.context=…
(async () => {
  const data = JSON.parse(document.getElementById("drawings").textContent);
  const views = new Map();
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  const site = document.getElementById("site");
  const boxes = [...document.querySelectorAll(".chip input")];
  const selects = [...document.querySelectorAll("[data-param]")];

  // --- the charts ---------------------------------------------------------------------------------
  // The file holds columns, with words numbered; Vega wants rows.
  function rows({ columns, length }) {
    const cells = Object.entries(columns).map(([name, c]) => [name, c.words ? (i) => c.words[c.at[i]] : (i) => c.numbers[i]]);
    return Array.from({ length }, (_, i) => Object.fromEntries(cells.map(([name, at]) => [name, at(i)])));
  }

  function unpacked(spec) {
    if (Array.isArray(spec)) return spec.map(unpacked);
    if (!spec || typeof spec !== "object") return spec;
    return Object.fromEntries(Object.entries(spec).map(([key, part]) => [key, key === "data" ? { values: rows(part) } : unpacked(part)]));
  }

  // What runs are called is shown as text and never as markup.
  function tooltip(_, event, __, value) {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.replaceChildren(...Object.entries(value).map(([name, shown]) => {
      const row = document.createElement("div");
      for (const [tag, text] of [["span", name], ["strong", shown]]) {
        row.appendChild(document.createElement(tag)).textContent = text;
      }
      return row;
    }));
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(event.clientX + 14, innerWidth - box.width - 6)) + "px";
    tip.style.top = Math.max(6, event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18) + "px";
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const narrow = () => innerWidth < 640;
  // A facet cannot fit itself into its container: each panel is given its part of the width, less its axis.
  function paneled(spec, chart, width) {
    if (!spec.facet) return { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" } };
    const columns = width < 420 ? 1 : Math.min(chart.panels, Math.max(1, Math.floor(width / 170)));
    const room = Math.floor((width - (chart.margin ?? 50)) / columns) - spec.spacing;
    return { ...spec, columns, spec: { ...spec.spec, width: Math.max(90, room), height: columns > 1 ? spec.spec.height : 170 } };
  }

  // Long names and many columns would leave a phone no room for the chart.
  function thin(node) {
    if (Array.isArray(node)) { node.forEach(thin); return; }
    if (!node || typeof node !== "object" || Array.isArray(node.values)) return;
    if (node.labelLimit && !node.symbolSize) {
      const long = node.labelLimit > 300;
      Object.assign(node, { labelLimit: 112, labelFontSize: 10, titlePadding: 2 });
      // a row that names its baseline, over two lines
      if (long) Object.assign(node, { labelExpr: "split(datum.label, ' − ')", labelFontSize: 8.5, labelLineHeight: 9.5, labelLimit: 150 });
    }
    if (node.columns && node.orient) node.columns = node.symbolType === "square" && node.columns > 5 ? 3 : 2;
    if (node.gradientLength) node.gradientLength = 180;
    Object.entries(node).forEach(([key, child]) => { if (key !== "data") thin(child); });
  }

  const own = (name) => Object.entries(data.charts[name].selects).map(([signal, first]) => [signal, chosen(name, signal) ?? first]);
  const hidden = () => Object.entries(data.cells).filter(([, of]) => boxes.some((b) => !b.checked && of[b.dataset.key] === b.value)).map(([label]) => label);
  function chosen(name, signal) {
    const select = selects.find((s) => s.dataset.chart === name && s.dataset.param === signal);
    return select && JSON.parse(select.value);
  }

  async function draw(name) {
    const chart = data.charts[name], container = document.getElementById("chart-" + name);
    if (!container) return;
    const values = { site: site?.value, hidden: hidden() };
    const params = [...data.params.map((p) => ({ ...p, value: values[p.name] ?? p.value })), ...own(name).map(([signal, value]) => ({ name: signal, value }))];
    const bare = unpacked(chart.spec);
    const spec = { ...paneled(bare, chart, container.clientWidth), params, padding: { left: 0, right: 4, top: 4, bottom: 4 }, config: data.config };
    if (narrow()) thin(spec);
    // `ast`: expressions are interpreted, so the page's policy can forbid eval
    const { view } = await vegaEmbed(container, spec, { mode: "vega-lite", renderer: "svg", actions: false, tooltip, ast: true, logLevel: 1 });
    container.ondblclick = () => redraw(name);
    if (chart.opens) view.addEventListener("click", (_, item) => { if (item?.datum?.site) opened(item.datum); });
    views.set(name, view);
  }

  // A double click takes the zoom back; choices stay, since they are read off the page.
  async function redraw(name) {
    views.get(name)?.finalize();
    await draw(name);
  }

  async function set(name, signals) {
    const view = views.get(name);
    if (!view) return;
    for (const [signal, value] of signals) view.signal(signal, value);
    await view.runAsync();
  }
  const named = () => document.querySelectorAll("[data-site]").forEach((span) => { span.textContent = site?.value ?? ""; });
  const everywhere = (signals) => {
    named();
    return Promise.all([...views.keys()].map((name) => set(name, signals)));
  };

  // A place of the map: its site and layer everywhere, and on to the distribution, or where none was kept to the clips.
  function opened({ site: name, layer }) {
    site.value = name;
    for (const select of selects.filter((s) => s.dataset.param === "layer")) {
      const nearest = [...select.options].map((o) => JSON.parse(o.value)).sort((a, b) => Math.abs(a - layer) - Math.abs(b - layer))[0];
      select.value = JSON.stringify(nearest);
      set(select.dataset.chart, [["layer", nearest]]);
    }
    changed([["site", name]]);
    const distribution = name.startsWith("x_") && document.getElementById("figure-histogram");
    (distribution || document.getElementById("figure-scales"))?.scrollIntoView({ block: "start" });
  }

  // --- what is shown, and the address that says so ---------------------------------------------------
  const first = new Map([["site", site?.value], ...selects.map((s) => [`${s.dataset.chart}.${s.dataset.param}`, s.value])]);
  const sorted = new Map(); // name of a table → [column, direction]

  function written() {
    const state = new URLSearchParams();
    if (site && site.value !== first.get("site")) state.set("site", site.value);
    for (const box of boxes.filter((b) => !b.checked)) state.append("off", `${box.dataset.key}:${box.value}`);
    for (const select of selects) {
      const key = `${select.dataset.chart}.${select.dataset.param}`;
      if (select.value !== first.get(key)) state.set(key, select.value);
    }
    for (const [name, [column, direction]] of sorted) state.set(`sort.${name}`, `${column},${direction}`);
    if (document.documentElement.dataset.theme) state.set("theme", document.documentElement.dataset.theme);
    history.replaceState(null, "", state.size ? "#" + state : location.pathname + location.search);
  }

  function readAddress() {
    if (!location.hash.includes("=")) return;
    const state = new URLSearchParams(location.hash.slice(1));
    const off = state.getAll("off");
    for (const box of boxes) box.checked = !off.includes(`${box.dataset.key}:${box.value}`);
    if (site) site.value = [...site.options].some((o) => o.value === state.get("site")) ? state.get("site") : first.get("site");
    for (const select of selects) {
      const key = `${select.dataset.chart}.${select.dataset.param}`, wanted = state.get(key);
      select.value = [...select.options].some((o) => o.value === wanted) ? wanted : first.get(key);
    }
    named();
    if (["light", "dark"].includes(state.get("theme"))) document.documentElement.dataset.theme = state.get("theme");
    for (const table of document.querySelectorAll("details.table")) {
      const [column, direction] = (state.get(`sort.${table.dataset.name}`) ?? "").split(",");
      if (table.querySelectorAll("th")[column] && direction) sort(table, Number(column), direction);
    }
  }
  const changed = (signals) => { written(); return everywhere(signals); };
  const toggled = () => changed([["hidden", hidden()]]);

  boxes.forEach((box) => box.addEventListener("change", toggled));
  document.querySelectorAll("[data-all]").forEach((button) => button.addEventListener("click", () => {
    const mine = boxes.filter((b) => b.dataset.key === button.dataset.all), all = mine.every((b) => b.checked);
    mine.forEach((box) => { box.checked = !all; });
    toggled();
  }));
  site?.addEventListener("change", () => changed([["site", site.value]]));
  selects.forEach((select) => select.addEventListener("change", () => {
    written();
    set(select.dataset.chart, [[select.dataset.param, JSON.parse(select.value)]]);
  }));
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return;
    readAddress();
    [...views.keys()].forEach(redraw);
  });
  // The fragment belongs to what is shown: a link within the page scrolls and leaves it alone.
  document.querySelectorAll('a[href^="#"]').forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById(link.hash.slice(1))?.scrollIntoView();
  }));

  // --- tables -------------------------------------------------------------------------------------
  const raw = (cell) => cell.dataset.v ?? cell.textContent;

  function sort(table, column, direction) {
    const body = table.querySelector("tbody"), sign = direction === "descending" ? -1 : 1;
    const key = (row) => { const text = raw(row.cells[column]), n = Number(text); return text === "" || text === "–" ? null : Number.isNaN(n) ? text : n; };
    const compare = (a, b) => a === null || b === null ? (a === null) - (b === null) // what is unknown comes last
      : sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    body.append(...[...body.rows].map((row) => [key(row), row]).sort(([a], [b]) => compare(a, b)).map(([, row]) => row));
    table.querySelectorAll("th").forEach((th, i) => { i === column ? th.setAttribute("aria-sort", direction) : th.removeAttribute("aria-sort"); });
    sorted.set(table.dataset.name, [column, direction]);
  }

  // A spreadsheet would take a text that begins like a formula for one.
  const quoted = (text) => { const safe = /^[=+@\t\r]|^-(?![\d.])/.test(text) ? "'" + text : text; return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe; };
  const csv = (table) => {
    const errors = [...table.querySelectorAll("th")].map((th) => th.dataset.e); // a column of their own
    const fields = (row) => [...row.cells].flatMap((cell, i) => errors[i] ? [raw(cell), cell.dataset.e ?? ""] : [raw(cell)]);
    return [...table.querySelectorAll("tr")].map((row) => fields(row).map(quoted).join(",")).join("\n") + "\n";
  };

  for (const table of document.querySelectorAll("details.table")) {
    table.querySelectorAll("th").forEach((th, i) => th.querySelector("button").addEventListener("click", () => {
      sort(table, i, th.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
      written();
    }));
    table.querySelector(".csv").addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      link.download = `${table.dataset.name}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  // --- theme, print, size -------------------------------------------------------------------------
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    written();
  });

  // On paper everything is open, and charts are as wide as the page is, lest their letters shrink with them.
  const PAPER = 700;
  const wide = (width) => views.forEach((view, name) => {
    const container = document.getElementById("chart-" + name);
    if (!data.charts[name].spec.facet && container.clientWidth > PAPER) view.signal("width", width ?? container.clientWidth).run();
  });
  let folded = [];
  addEventListener("beforeprint", () => {
    wide(PAPER);
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => {
    folded.forEach((d) => { d.open = false; });
    wide();
  });

  let width = innerWidth;
  addEventListener("resize", () => {
    if (width === innerWidth) return;
    const crossed = (width < 640) !== narrow();
    [...views.keys()].filter((name) => crossed || data.charts[name].spec.facet).forEach(redraw);
    width = innerWidth;
  });

  const links = new Map([...document.querySelectorAll("#contents a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => {
    links.forEach((a, id) => { id === e.target.id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current"); });
  }), { rootMargin: "-60px 0px -75% 0px" });
  document.querySelectorAll("section").forEach((s) => { if (links.has(s.id)) seen.observe(s); });

  // The first screen's chart at once; the others when the page has been painted, in order.
  readAddress();
  const names = Object.keys(data.charts);
  for (const [i, name] of names.entries()) {
    await draw(name);
    if (i === 0) {
      document.body.dataset.first = "yes";
      performance.mark("first-screen");
    }
    await new Promise((go) => setTimeout(go));
  }
  document.body.dataset.ready = "yes";
})();
