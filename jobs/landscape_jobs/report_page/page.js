"use strict";
// The theme, sorting of tables, and the pictures: values come as JSON, plotly draws them.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");

  // -- light and dark -----------------------------------------------------------------------------------------------

  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // by the reader; otherwise the system's
  function setTheme() {
    const theme = chosen || (preferred.matches ? "dark" : "light");
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
  }
  setTheme();
  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    setTheme();
    drawAgain();
  });
  preferred.addEventListener("change", () => { setTheme(); drawAgain(); });

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  }

  // "@blue" anywhere in traces and layouts becomes the theme's blue
  function coloured(value) {
    if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, held]) => [key, coloured(held)]));
    }
    return value;
  }

  // -- tables -------------------------------------------------------------------------------------------------------

  for (const table of document.querySelectorAll(".sortable table")) {
    table.querySelectorAll("thead th").forEach((heading, column) => {
      const sort = document.createElement("button");
      sort.type = "button";
      sort.append(...heading.childNodes);
      heading.append(sort);
      sort.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(a.cells[column], b.cells[column]));
        body.append(...rows);
      });
    });
  }

  // Numbers by size, before texts; NaN last of the numbers
  function compare(a, b) {
    const [x, y] = [a, b].map((cell) => (cell.dataset.value === undefined ? null : parseNumber(cell.dataset.value)));
    if (x === null || y === null) {
      if (x === y) return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
      return x === null ? 1 : -1;
    }
    if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y));
    return x < y ? -1 : x > y ? 1 : 0;
  }

  function parseNumber(text) {
    return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number.parseFloat(text);
  }

  // -- pictures -----------------------------------------------------------------------------------------------------

  const pictures = JSON.parse(document.getElementById("pictures").textContent);
  // plotly's own button that uploads a picture is left out: nothing leaves the page
  const config = { displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const drawn = [];

  function made(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  class Drawing {
    constructor(figure) {
      this.figure = figure;
      this.views = pictures[Number(figure.dataset.picture)].views;
      this.shown = Object.keys(this.views)[0];
      this.flat = figure.querySelector(".plot");
      this.solid = null; // where 3-D is drawn, once it is asked for
      this.turned = false;
      this.addTools();
      this.settle();
      this.draw();
    }

    get view() { return this.views[this.shown]; }

    addTools() {
      const tools = this.figure.querySelector(".tools");
      const title = this.figure.querySelector("h3").textContent;
      const names = Object.keys(this.views);
      if (names.length > 1) {
        const label = made("label", "Shown ");
        const select = made("select", "");
        for (const name of names) select.append(made("option", name));
        select.addEventListener("change", () => { this.shown = select.value; this.settle(); this.draw(); });
        label.append(select);
        tools.append(label);
      }
      if (names.some((name) => this.views[name].surface)) {
        this.turn = made("button", "3-D", { type: "button", "aria-pressed": "false", "aria-label": `3-D view of ${title}` });
        this.turn.addEventListener("click", () => { this.turned = !this.turned; this.draw(); });
        tools.append(this.turn);
      }
      this.scale = made("button", "Log scale", { type: "button", "aria-label": `Log scale of ${title}` });
      this.scale.addEventListener("click", () => { this.log = !this.log; this.draw(); });
      tools.append(this.scale);
    }

    // Of a view that was chosen: whether its scale can be a log, and is at first
    settle() {
      const range = this.view.surface ? surfaceRange(this.view.surface) : null;
      const can = range ? range.any && 0 < range.low && range.low < range.high : Boolean(this.view.log);
      this.log = range ? can && range.high > 100 * range.low : Boolean(this.view.logFirst);
      this.scale.hidden = !can;
    }

    draw() {
      const reason = this.turned && this.view.surface ? flatBecause(this.view.surface) : "";
      const turned = this.turned && Boolean(this.view.surface) && !reason;
      this.figure.querySelector(".said").textContent = reason;
      this.scale.setAttribute("aria-pressed", String(this.log));
      if (this.turn) this.turn.setAttribute("aria-pressed", String(this.turned));
      this.flat.classList.toggle("turned", turned);
      if (turned) {
        if (!this.solid) {
          this.solid = made("div", "", { class: "plot solid", role: "img", "aria-label": this.flat.getAttribute("aria-label") });
          this.flat.after(this.solid);
        }
        this.plot(this.solid, solidFigure(this.view.surface, this.log));
        return;
      }
      if (this.solid) { // browsers keep few 3-D pictures at a time
        Plotly.purge(this.solid);
        this.solid.remove();
        this.solid = null;
      }
      this.drawFlat();
    }

    drawFlat(width) {
      const wide = width || this.flat.clientWidth || 600;
      const made = this.view.surface ? flatFigure(this.view.surface, this.log, wide) : lineFigure(this.view, this.log, wide);
      this.plot(this.flat, made, wide);
    }

    plot(place, { data, layout, height }, wide = place.clientWidth || 600) {
      const tall = height || Math.round(Math.min(580, Math.max(340, 0.68 * wide)));
      const text = { color: colour("ink"), size: wide < 520 ? 11 : 13, family: getComputedStyle(document.body).fontFamily };
      place.style.minHeight = `${tall}px`;
      Plotly.react(place, coloured(data), coloured({
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: text,
        margin: { l: wide < 520 ? 52 : 70, r: 16, t: 16, b: 54 },
        hoverlabel: { bgcolor: colour("card"), bordercolor: colour("quiet"), font: text, align: "left" },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
        showlegend: true,
        dragmode: wide < 520 ? false : "zoom",
        ...layout,
        width: wide,
        height: tall,
      }), config);
    }
  }

  function axis(given, extra = {}) {
    return {
      gridcolor: "@grid", linecolor: "@quiet", zerolinecolor: "@rule", ticks: "outside", tickcolor: "@quiet",
      showline: true, exponentformat: "power", automargin: true, ...extra, ...given,
      title: { standoff: 8, ...(extra.title || {}), ...((given || {}).title || {}) },
    };
  }

  // -- lines, bars and matrices ----------------------------------------------------------------------------------------

  function lineFigure(view, log, wide) {
    const logAxis = view.logAxis || "yaxis";
    const layout = { ...view.layout };
    for (const name of ["xaxis", "yaxis", "yaxis2"]) {
      if (layout[name]) layout[name] = axis(layout[name], name === logAxis && log ? { type: "log", dtick: view.logTick } : {});
    }
    if (log && view.logRange) layout[logAxis].range = view.logRange;
    if (view.data.some((trace) => trace.yaxis === "y9")) {
      layout.yaxis9 = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };
    }
    const data = view.data.map(({ ylog, ...trace }) => (log && ylog ? { ...trace, y: ylog } : trace));
    if (data.some((trace) => trace.type === "heatmap")) {
      data[0].colorbar = bar(wide);
      if (wide < 520) layout.margin = { l: 60, r: 8, t: 16, b: 110 };
    }
    const named = data.filter((trace) => trace.name && trace.showlegend !== false);
    return { data, layout: { showlegend: named.length > 1, ...layout }, height: view.height };
  }

  function bar(wide, extra = {}) {
    const placed = wide < 520
      ? { orientation: "h", y: -0.3, yanchor: "top", thickness: 12, len: 1 }
      : { thickness: 16, len: 1 };
    return { outlinewidth: 0, ...placed, ...extra };
  }

  // -- surfaces --------------------------------------------------------------------------------------------------------

  function surfaceRange(s) {
    if (!s.range) {
      let [low, high] = [Infinity, -Infinity];
      for (const row of s.z) for (const v of row) if (v !== null) { if (v < low) low = v; if (v > high) high = v; }
      s.range = { low, high, any: low <= high };
    }
    return s.range;
  }

  // How values become heights: log10, or a division by a power of ten that keeps extreme numbers drawable
  function scaleOf(s, log) {
    const { low, high, any } = surfaceRange(s);
    const largest = Math.max(Math.abs(low), Math.abs(high));
    const far = any && largest > 0 && (largest > 1e30 || largest < 1e-30);
    const power = far ? Math.max(-300, Math.floor(Math.log10(largest))) : 0;
    const drawn = log ? (v) => Math.log10(v) : (v) => v / 10 ** power;
    const [from, to] = any ? [drawn(low), drawn(high)] : [0, 1];
    const constant = !(to - from > 1e-12 * Math.max(Math.abs(from), Math.abs(to), 1e-300));
    let step = niceStep((to - from) / 18, log);
    if (constant) step = 1;
    const start = Math.ceil(from / step - 1e-9) * step;
    const levels = [];
    for (let k = 0; start + k * step <= to + 1e-9 * step && k < 60; k += 1) levels.push(start + k * step);
    const marks = log && to - from > 0.8 ? roundDecades(from, to) : levels;
    const every = Math.max(1, Math.ceil(marks.length / 8));
    const ticks = constant ? [from] : marks.filter((_, k) => k % every === 0);
    const said = (level) => (log ? numberText(10 ** level) : numberText(level * 10 ** power));
    return { drawn, from, to, constant, step, start, levels, ticks, texts: ticks.map(said), any };
  }

  // 1, 2 and 5 times powers of ten, or the powers alone, as log10
  function roundDecades(from, to) {
    const mantissas = to - from < 3 ? [1, 2, 5] : [1];
    const marks = [];
    for (let power = Math.floor(from); power <= to; power += 1) marks.push(...mantissas.map((m) => Math.log10(m) + power));
    return marks.filter((mark) => from - 1e-9 <= mark && mark <= to + 1e-9);
  }

  function niceStep(step, log) {
    const power = 10 ** Math.floor(Math.log10(step));
    const nice = [1, 2, 5, 10].find((m) => m * power >= step * 0.999) * power;
    return log ? Math.max(nice, 0.1) : nice;
  }

  function numberText(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(3)));
    const [mantissa, power] = value.toExponential(2).split("e");
    const front = Number(mantissa);
    return `${front === 1 ? "" : `${front}×`}10<sup>${Number(power)}</sup>`;
  }

  function valueText(value) {
    return value === null ? "" : String(Number(value.toPrecision(5)));
  }

  const WORDS = { m: "not computed", n: "NaN", i: "Inf", j: "-Inf" };

  function texts(s) {
    return s.z.map((row, j) => row.map((v, i) => {
      const where = `${s.names[0]} = ${valueText(s.x[i])}, ${s.names[1]} = ${valueText(s.y[j])}`;
      const state = s.state ? s.state[j][i] : ".";
      const error = s.error && s.error[j][i] !== null ? ` ± ${s.error[j][i]}` : "";
      return `${where}<br>${s.quantity} ${state === "." ? valueText(v) + error : WORDS[state]}`;
    }));
  }

  function heights(s, scale) {
    return s.z.map((row) => row.map((v) => (v === null ? null : scale.drawn(v))));
  }

  function flatFigure(s, log, wide) {
    const scale = scaleOf(s, log);
    const z = heights(s, scale);
    const grid = s.x.length > 1 && s.y.length > 1;
    const whole = !s.state && grid && !scale.constant && scale.any;
    const limits = scale.constant ? [scale.from - 0.5, scale.from + 0.5] : [scale.from, scale.to];
    const shared = { x: s.x, y: s.y, hoverinfo: "text" };
    const values = {
      ...shared, z, text: texts(s), colorscale: "Viridis", zmin: limits[0], zmax: limits[1], showscale: scale.any,
      colorbar: bar(wide, { tickvals: scale.ticks, ticktext: scale.texts, title: { text: s.quantity, side: "top" } }),
    };
    const data = [];
    const contours = { start: scale.start, end: scale.levels[scale.levels.length - 1], size: scale.step };
    if (whole) {
      data.push({ ...values, type: "contour", autocontour: false, contours, line: { width: 0.7, color: "rgba(255,255,255,0.7)" } });
    } else { // contours need four finite corners; coloured cells show single values, too
      data.push({ ...values, type: "heatmap", hoverongaps: false });
      if (grid && !scale.constant && scale.any && scale.levels.length) {
        data.push({ ...values, type: "contour", autocontour: false, contours, line: { width: 0.7, color: "rgba(255,255,255,0.7)" }, showscale: false });
      }
    }
    if (s.state) data.push(...withoutValue(s, values.text));
    if (inside(0, s.x) && inside(0, s.y)) {
      data.push({ type: "scatter", mode: "markers", x: [0], y: [0], name: "centre", hoverinfo: "skip",
        marker: { symbol: "cross", size: 11, color: "white", line: { color: "black", width: 1.2 } } });
    }
    if (s.points) data.push(...placed(s.points));
    const borders = [s.x, s.y].map(cellBorders);
    const ends = (k) => (whole ? [[s.x, s.y][k][0], [s.x, s.y][k].at(-1)] : [borders[k][0], borders[k].at(-1)]);
    const layout = {
      xaxis: axis({ title: { text: folded(s.labels[0], wide) }, range: reach(ends(0), s.points && s.points.x), showgrid: false, zeroline: false }),
      yaxis: axis({ title: { text: folded(s.labels[1], wide) }, range: reach(ends(1), s.points && s.points.y), showgrid: false, zeroline: false }),
      showlegend: data.some((trace) => trace.type === "scatter"),
    };
    if (wide < 520) layout.margin = { l: 52, r: 10, t: 16, b: 120 };
    return { data, layout, height: wide < 520 ? Math.round(1.25 * wide) : undefined };
  }

  function folded(label, wide) { return wide < 520 ? label.replace(" (", "<br>(") : label; }

  function inside(value, axis_) { return axis_[0] <= value && value <= axis_.at(-1); }

  // Points beyond the grid stay in the picture
  function reach([low, high], known) {
    const all = (known || []).filter((v) => v !== null);
    const [least, most] = [Math.min(low, ...all), Math.max(high, ...all)];
    const margin = 0.05 * (most - least);
    return [least < low ? least - margin : low, most > high ? most + margin : high];
  }

  function cellBorders(values) {
    if (values.length === 1) return [values[0] - 0.5, values[0] + 0.5];
    const middle = values.slice(1).map((v, k) => (v + values[k]) / 2);
    return [2 * values[0] - middle[0], ...middle, 2 * values.at(-1) - middle.at(-1)];
  }

  // Cells without a value are hatched, a rectangle for each run of them in a row; hovering tells why
  function withoutValue(s, text) {
    const [across, up] = [cellBorders(s.x), cellBorders(s.y)];
    const kinds = [["m", "not computed", "/", "hatch"], ["nij", "NaN or Inf", "x", "red"]];
    return kinds.flatMap(([letters, name, shape, look]) => {
      const [x, y] = [[], []];
      let count = 0;
      s.state.forEach((row, j) => {
        for (let i = 0; i < row.length; i += 1) {
          if (!letters.includes(row[i])) continue;
          const first = i;
          while (i + 1 < row.length && letters.includes(row[i + 1])) i += 1;
          count += i + 1 - first;
          x.push(across[first], across[i + 1], across[i + 1], across[first], across[first], null);
          y.push(up[j], up[j], up[j + 1], up[j + 1], up[j], null);
        }
      });
      if (!count) return [];
      const cells = s.state.map((row) => [...row].map((letter) => (letters.includes(letter) ? 0 : null)));
      return [
        { type: "heatmap", x: s.x, y: s.y, z: cells, text, hoverinfo: "text", hoverongaps: false, showscale: false,
          showlegend: false, zmin: 0, zmax: 1, colorscale: [[0, colour("missing")], [1, colour("missing")]] },
        { type: "scatter", mode: "lines", x, y, fill: "toself", line: { width: 0 }, hoverinfo: "skip",
          fillcolor: colour("missing"), name: `${name} (${count.toLocaleString("en")})`,
          fillpattern: { shape, fgcolor: colour(look), bgcolor: colour("missing"), size: 7, solidity: 0.25 } },
      ];
    });
  }

  function placed(points) {
    const last = points.labels.length - 1;
    const some = points.joined || points.labels.length > 12;
    const labels = points.labels.map((label, k) => (!some || k === 0 || k === last ? label : ""));
    return [{
      type: "scatter", mode: `${points.joined ? "lines+" : ""}markers+text`, x: points.x, y: points.y, name: points.kind,
      text: labels, textposition: "top right", textfont: { color: "white", shadow: "1px 1px 2px black, -1px -1px 2px black, 1px -1px 2px black, -1px 1px 2px black" },
      hovertext: points.texts, hoverinfo: "text", line: { color: "#e69f00", width: 2 }, cliponaxis: false,
      marker: { color: "#e69f00", size: 8, line: { color: "black", width: 1 } },
    }];
  }

  function flatBecause(s) {
    if (s.x.length < 2 || s.y.length < 2) return "A 3-D view needs two points or more along each axis; these are the values as cells.";
    if (!surfaceRange(s).any) return "There is no finite value to draw in 3-D.";
    if (!hasWebGL()) return "A 3-D view needs WebGL, which this browser does not have or has switched off; the contours show the same values.";
    return "";
  }

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    try { return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl")); } catch { return false; }
  }

  function solidFigure(s, log) {
    const scale = scaleOf(s, log);
    const z = heights(s, scale);
    const limits = scale.constant ? [scale.from - 0.5, scale.from + 0.5] : [scale.from, scale.to];
    const data = [{
      type: "surface", x: s.x, y: s.y, z, text: texts(s), hoverinfo: "text", colorscale: "Viridis", cmin: limits[0],
      cmax: limits[1], showscale: false, connectgaps: false,
      contours: { z: { show: !scale.constant, start: scale.start, end: scale.to, size: scale.step, color: "rgba(255,255,255,0.6)", width: 1 } },
    }];
    if (s.points && s.points.z) {
      const lift = 0.01 * (limits[1] - limits[0]);
      data.push({
        type: "scatter3d", mode: s.points.joined ? "lines+markers" : "markers", x: s.points.x, y: s.points.y,
        z: s.points.z.map((v) => (v === null || (log && v <= 0) ? null : scale.drawn(v) + lift)), name: s.points.kind, hovertext: s.points.texts,
        hoverinfo: "text", line: { color: "#e69f00", width: 5 }, marker: { color: "#e69f00", size: 4 },
      });
    }
    const side = (text) => ({ title: { text }, gridcolor: "@grid", backgroundcolor: "rgba(0,0,0,0)", color: "@ink", nticks: 6 });
    const scene = {
      xaxis: side(s.labels[0]), yaxis: side(s.labels[1]),
      zaxis: { ...side(s.quantity), tickvals: scale.ticks, ticktext: scale.texts, range: scale.constant ? limits : undefined },
      aspectmode: "manual", aspectratio: { x: 1.1, y: 1.1, z: 0.75 }, camera: { eye: { x: -1.4, y: -1.55, z: 1.0 }, center: { x: 0, y: 0, z: -0.2 } },
    };
    return { data, layout: { scene, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, dragmode: "turntable" } };
  }

  // -- when pictures are drawn -----------------------------------------------------------------------------------------

  const waiting = new Set(document.querySelectorAll("figure.picture"));

  function begin(figure) {
    if (!waiting.delete(figure)) return;
    seen.unobserve(figure);
    drawn.push(new Drawing(figure));
  }

  function drawAgain() { for (const drawing of drawn) drawing.draw(); }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) begin(entry.target);
  }, { rootMargin: "800px" });
  for (const figure of waiting) seen.observe(figure);

  let width = window.innerWidth;
  let soon = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar
    width = window.innerWidth;
    clearTimeout(soon);
    soon = setTimeout(drawAgain, 120);
  });

  // Paper is white, narrower than a screen, and shows contours and all that is folded
  const PAPER = 640;
  let opened = [];
  window.addEventListener("beforeprint", () => {
    for (const figure of [...waiting]) begin(figure);
    root.dataset.theme = "light";
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
    for (const drawing of drawn) drawing.drawFlat(PAPER);
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
    setTheme();
    drawAgain();
  });
})();
