"use strict";
// Draws the charts, and keeps them in step with the page: cells switched off, site, choices, theme, print.
(async () => {
  const data = JSON.parse(document.getElementById("drawings").textContent);
  const views = new Map();
  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));

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

  async function draw(name, chart) {
    const own = Object.entries(chart.selects).map(([name, value]) => ({ name, value }));
    const narrow = innerWidth < 640;
    const spec = {
      ...unpacked(chart.spec), params: [...data.params, ...own], width: "container", padding: { left: 0, right: 4, top: 4, bottom: 4 },
      autosize: { type: "fit-x", contains: "padding" },
      config: narrow ? { ...data.config, legend: { ...data.config.legend, columns: 4 } } : data.config,
    };
    if (narrow) thin(spec);
    const container = document.getElementById("chart-" + name);
    // `ast`: expressions are interpreted, so the page's policy can forbid eval
    const { view } = await vegaEmbed(container, spec, { mode: "vega-lite", renderer: "svg", actions: false, tooltip, ast: true, logLevel: 1 });
    container.ondblclick = () => redraw(name);
    views.set(name, view);
  }

  // Long names would leave a phone no room for the chart.
  function thin(node) {
    if (Array.isArray(node)) { node.forEach(thin); return; }
    if (!node || typeof node !== "object" || Array.isArray(node.values)) return;
    if (node.labelLimit) node.labelLimit = 84;
    if (node.columns) node.columns = Math.min(node.columns, 4);
    Object.entries(node).forEach(([key, child]) => { if (key !== "data") thin(child); });
  }

  // A double click takes the zoom back; choices stay.
  async function redraw(name) {
    const before = views.get(name), chart = data.charts[name];
    const kept = ["site", "hidden", ...Object.keys(chart.selects)].map((signal) => [signal, before.signal(signal)]);
    before.finalize();
    await draw(name, chart);
    await set(name, kept);
  }

  async function set(name, signals) {
    const view = views.get(name);
    for (const [signal, value] of signals) view.signal(signal, value);
    await view.runAsync();
  }
  const everywhere = (signals) => Promise.all([...views.keys()].map((name) => set(name, signals)));

  const boxes = [...document.querySelectorAll(".chip input")];
  const toggled = () => everywhere([["hidden", boxes.filter((b) => !b.checked).map((b) => b.value)]]);
  boxes.forEach((box) => box.addEventListener("change", toggled));
  document.querySelectorAll("[data-all]").forEach((button) => button.addEventListener("click", () => {
    boxes.forEach((box) => { box.checked = Boolean(button.dataset.all); });
    toggled();
  }));
  document.getElementById("site")?.addEventListener("change", (e) => everywhere([["site", e.target.value]]));
  document.querySelectorAll("[data-param]").forEach((select) => select.addEventListener("change", () =>
    set(select.dataset.chart, [[select.dataset.param, JSON.parse(select.value)]])));

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((d) => { d.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((d) => { d.open = false; }));

  let width = innerWidth;
  addEventListener("resize", () => {
    if ((width < 640) !== (innerWidth < 640)) [...views.keys()].forEach(redraw);
    width = innerWidth;
  });

  for (const [name, chart] of Object.entries(data.charts)) await draw(name, chart);
  document.body.dataset.ready = "yes";
})();
