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
      if (heading.textContent.length > 24) heading.style.minWidth = "11rem"; // or it grows tall out of sight
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

  // A hint below tables that are wider than the page, until their end is reached
  function hint(wide) {
    wide.classList.toggle("goes-on", wide.scrollLeft + wide.clientWidth < wide.scrollWidth - 2);
  }
  const hints = () => document.querySelectorAll(".wide").forEach(hint);
  document.addEventListener("scroll", (event) => { if (event.target.classList?.contains("wide")) hint(event.target); }, true);
  document.addEventListener("toggle", hints, true);
  window.addEventListener("resize", hints);
  hints();

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
  const SHOWN = 300; // rows of a picture's values; their CSV has all
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
      this.logs = {}; // what the reader chose for a quantity
      this.slice = Object.values(this.views)[0].slice;
      this.addTools();
      addValues(figure, pictures[Number(figure.dataset.picture)].values);
      this.settle();
      this.draw();
    }

    get view() {
      const view = this.views[this.shown];
      return view.slices ? { surface: view.slices[this.slice] } : view;
    }

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
      const sliced = this.views[this.shown];
      if (sliced.slices) {
        const label = made("label", `${sliced.along} = `);
        const select = made("select", "");
        for (const place of Object.keys(sliced.slices).sort((a, b) => a - b)) select.append(made("option", place));
        select.value = this.slice;
        select.addEventListener("change", () => { this.slice = select.value; this.settle(); this.draw(); });
        label.append(select);
        tools.append(label);
      }
      if (this.view.surface) {
        this.turn = made("button", "3-D", { type: "button", "aria-pressed": "false", "aria-label": `3-D view of ${title}` });
        this.turn.addEventListener("click", () => { this.turned = !this.turned; this.draw(); });
        tools.append(this.turn);
      }
      this.scale = made("button", "Log scale", { type: "button", "aria-label": `Log scale of ${title}` });
      this.scale.addEventListener("click", () => { this.log = this.logs[this.shown] = !this.log; this.draw(); });
      tools.append(this.scale);
    }

    // Of a view that was chosen: whether its scale can be a log, and is as the reader chose, or at first
    settle() {
      const s = this.view.surface;
      const can = Boolean(s ? s.scales.log : this.view.log);
      this.log = can && (this.logs[this.shown] ?? Boolean(s ? s.logFirst : this.view.logFirst));
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
        this.plot(this.solid, solidFigure(this.view.surface, this.log, this.solid.clientWidth || 600));
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
      const bar_ = { ...config, displayModeBar: wide < 520 ? false : "hover" };
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
      }), bar_).then(() => { // for a pointer; the keyboard has the values below
        for (const one of place.querySelectorAll(".modebar-btn")) one.tabIndex = -1;
      });
    }
  }

  // -- the values of a picture -----------------------------------------------------------------------------------------

  function addValues(figure, values) {
    const details = figure.querySelector(".values");
    details.hidden = !values.columns.length;
    details.querySelector("button").addEventListener("click", () => {
      const link = made("a", "", { download: values.file });
      link.href = URL.createObjectURL(new Blob([csvOf(values)], { type: "text/csv" }));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
    details.addEventListener("toggle", () => {
      if (details.open && !details.querySelector("table")) addTable(details.querySelector(".wide"), values);
      hints();
    });
  }

  function csvOf({ columns, data }) {
    const entry = (value) => (typeof value === "string" ? `"${value.replaceAll('"', '""')}"` : value === null ? "" : value);
    const rows = (data[0] || []).map((_, k) => data.map((column) => entry(column[k])).join(","));
    return `${[columns.map(entry).join(","), ...rows].join("\n")}\n`;
  }

  function addTable(place, { columns, data }) {
    const count = data[0].length;
    const table = made("table", "");
    const head = table.createTHead().insertRow();
    for (const name of columns) head.append(made("th", name, { scope: "col" }));
    const body = table.createTBody();
    for (let k = 0; k < Math.min(count, SHOWN); k += 1) {
      const row = body.insertRow();
      for (const column of data) row.insertCell().textContent = column[k] === null ? "" : String(column[k]);
    }
    place.append(table);
    if (count > SHOWN) place.parentElement.append(made("p", `The first ${SHOWN} of ${count.toLocaleString("en")} rows.`));
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

  // How values become heights (log10, or a division by a power of ten that keeps extreme numbers drawable), and heights
  // bands between levels, which are those of the static pictures: band k lies between levels k and k + 1
  function scaleOf(s, log) {
    const { low, high, any } = surfaceRange(s);
    const { exponent, constant, levels, texts: said } = log ? s.scales.log : s.scales.linear;
    const drawn = log ? (v) => Math.log10(v) : (v) => v / 10 ** exponent;
    const last = levels.length - 1;
    const band = (height) => {
      let k = 0;
      while (k < last - 1 && height >= levels[k + 1]) k += 1;
      return k + (height - levels[k]) / (levels[k + 1] - levels[k]);
    };
    const every = Math.max(1, Math.ceil(levels.length / 8));
    const named = constant ? [0] : levels.map((_, k) => k).filter((k) => k % every === 0);
    return {
      drawn, band, constant, any, levels, last, from: any ? drawn(low) : 0, to: any ? drawn(high) : 1,
      ticks: constant ? [0.5] : named, heights: named.map((k) => levels[k]),
      texts: constant && any ? [valueText(low)] : named.map((k) => said[k]),
    };
  }

  // Five digits, and as many more as give a value to a step
  function valueText(value, step = 0) {
    if (value === null) return "";
    const place = (v) => Math.floor(Math.log10(v) + 1e-9);
    const digits = step > 0 && value !== 0 ? Math.max(5, place(Math.abs(value)) - place(step) + 1) : 5;
    return digits > 15 ? String(value) : String(Number(value.toPrecision(digits)));
  }

  // A tenth of the smallest distance of two neighbours
  function fineStep(values) {
    let least = Infinity;
    for (let k = 1; k < values.length; k += 1) least = Math.min(least, Math.abs(values[k] - values[k - 1]) || Infinity);
    return least < Infinity ? least / 10 : 0;
  }

  const WORDS = { m: "not computed", n: "NaN", i: "Inf", j: "-Inf" };

  function texts(s) {
    const { low, high, any } = surfaceRange(s);
    const [across, up, fine] = [fineStep(s.x), fineStep(s.y), any ? high / 1e4 - low / 1e4 : 0];
    return s.z.map((row, j) => row.map((v, i) => {
      const where = `${s.names[0]} = ${valueText(s.x[i], across)}, ${s.names[1]} = ${valueText(s.y[j], up)}`;
      const state = s.state ? s.state[j][i] : ".";
      const stderr = s.error ? s.error[j][i] : null;
      const error = stderr === null ? "" : ` ± ${stderr}`;
      const step = stderr > 0 && !(fine > 0 && fine < stderr / 10) ? stderr / 10 : fine;
      return `${where}<br>${s.name} ${state === "." ? valueText(v, step) + error : WORDS[state]}`;
    }));
  }

  function heights(s, scale) {
    return s.z.map((row) => row.map((v) => (v === null ? null : scale.drawn(v))));
  }

  function flatFigure(s, log, wide) {
    const scale = scaleOf(s, log);
    const bands = heights(s, scale).map((row) => row.map((v) => (v === null ? null : scale.band(v))));
    const grid = s.x.length > 1 && s.y.length > 1;
    const lined = grid && !scale.constant && scale.any;
    const whole = !s.state && lined;
    const shared = { x: s.x, y: s.y, text: texts(s), hoverinfo: "text", colorscale: "Viridis" };
    const colorbar = bar(wide, { tickvals: scale.ticks, ticktext: scale.texts, title: { text: s.quantity, side: wide < 520 ? "top" : "right" } });
    const data = [];
    if (!whole) { // contours need four finite corners; coloured cells show single values, too
      const z = bands.map((row) => row.map((v) => (v === null ? null : Math.max(0, Math.min(Math.floor(v), scale.last - 1)) + 0.5)));
      data.push({ ...shared, z, type: "heatmap", hoverongaps: false, zmin: 0.5, zmax: Math.max(1.5, scale.last - 0.5), showscale: scale.any && !lined, colorbar });
    }
    if (lined) {
      const contours = { start: 1, end: Math.max(1, scale.last - 1), size: 1 };
      data.push({ ...shared, z: bands, type: "contour", autocontour: false, contours, colorbar,
        line: { width: 0.7, color: "rgba(255,255,255,0.7)", smoothing: 0 } });
    }
    if (s.state) data.push(...withoutValue(s, shared.text));
    if (inside(0, s.x) && inside(0, s.y)) {
      data.push({ type: "scatter", mode: "markers", x: [0], y: [0], name: "centre", hoverinfo: "skip",
        marker: { symbol: "cross", size: 11, color: "white", line: { color: "black", width: 1.2 } } });
    }
    if (s.points) data.push(...placed(s.points));
    const borders = [s.x, s.y].map(cellBorders);
    const ends = (k) => (whole ? [[s.x, s.y][k][0], [s.x, s.y][k].at(-1)] : [borders[k][0], borders[k].at(-1)]);
    const layout = {
      xaxis: axis({ title: { text: folded(s.labels[0], wide) }, range: reach(ends(0), s.points && s.points.x), showgrid: false, zeroline: false,
        ...(s.toScale ? { constrain: "domain" } : {}) }),
      yaxis: axis({ title: { text: folded(s.labels[1], wide) }, range: reach(ends(1), s.points && s.points.y), showgrid: false, zeroline: false,
        ...(s.toScale ? { scaleanchor: "x", constrain: "domain" } : {}) }),
      showlegend: data.some((trace) => trace.type === "scatter"),
    };
    if (wide < 520) layout.margin = { l: 52, r: 10, t: 16, b: 120 };
    return { data, layout, height: s.toScale ? heightToScale(layout, wide) : wide < 520 ? Math.round(1.25 * wide) : undefined };
  }

  // As high as the plane drawn to scale needs, from a strip to a tall picture
  function heightToScale({ xaxis, yaxis }, wide) {
    const [across, up] = [xaxis, yaxis].map(({ range }) => range[1] - range[0]);
    const [beside, above] = wide < 520 ? [62, 200] : [200, 130];
    return Math.round(Math.min(wide < 520 ? 1.6 * wide : 720, Math.max(260, ((wide - beside) * up) / across + above)));
  }

  function folded(label, wide) { return wide < 520 ? label.replace(" (", "<br>(").replace(", ", ",<br>") : label; }

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
    return kinds.flatMap(([letters, name, shape, look], kind) => {
      const [x, y] = [[], []];
      const count = s.counts[kind]; // those of a thinned picture, too
      s.state.forEach((row, j) => {
        for (let i = 0; i < row.length; i += 1) {
          if (!letters.includes(row[i])) continue;
          const first = i;
          while (i + 1 < row.length && letters.includes(row[i + 1])) i += 1;
          x.push(across[first], across[i + 1], across[i + 1], across[first], across[first], null);
          y.push(up[j], up[j], up[j + 1], up[j + 1], up[j], null);
        }
      });
      if (!x.length) return [];
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

  // The height of the drawn surface at any place, between its four neighbours; null beyond the grid and at gaps
  function heightAt(s, z, x, y) {
    const cell = (axis_, v) => {
      if (!inside(v, axis_)) return null;
      let k = 0;
      while (k < axis_.length - 2 && v > axis_[k + 1]) k += 1;
      return [k, (v - axis_[k]) / (axis_[k + 1] - axis_[k])];
    };
    const [across, up] = [cell(s.x, x), cell(s.y, y)];
    if (!across || !up) return null;
    const [[i, a], [j, b]] = [across, up];
    const corners = [z[j][i], z[j][i + 1], z[j + 1][i], z[j + 1][i + 1]];
    if (corners.includes(null)) return null;
    return (1 - b) * ((1 - a) * corners[0] + a * corners[1]) + b * ((1 - a) * corners[2] + a * corners[3]);
  }

  // Points with their own heights, lifted over the surface; between two of them, where they are joined, along the surface
  function over(s, z, scale, log, lift) {
    const own = (s.points.z || s.points.x.map(() => null)).map((v) => (v === null || (log && v <= 0) ? null : scale.drawn(v)));
    const above = (x, y, height) => {
      const ground = heightAt(s, z, x, y);
      return ground === null && height === null ? null : Math.max(ground ?? -Infinity, height ?? -Infinity) + lift;
    };
    const [px, py] = [s.points.x, s.points.y];
    const places = { x: px, y: py, z: px.map((x, k) => above(x, py[k], own[k])) };
    const line = { x: [], y: [], z: [] };
    const STEPS = 24;
    for (let k = 0; s.points.joined && k + 1 < px.length; k += 1) {
      for (let step = 0; step <= STEPS; step += 1) {
        const share = step / STEPS;
        const [x, y] = [px, py].map((p) => (1 - share) * p[k] + share * p[k + 1]);
        const end = step === 0 ? places.z[k] : step === STEPS ? places.z[k + 1] : above(x, y, null);
        line.x.push(x); line.y.push(y); line.z.push(end);
      }
    }
    return [places, line];
  }

  function solidFigure(s, log, wide) {
    const scale = scaleOf(s, log);
    const z = heights(s, scale);
    const limits = scale.constant ? [scale.from - 0.5, scale.from + 0.5] : [scale.from, scale.to];
    const colours = z.map((row) => row.map((v) => (v === null ? null : scale.band(v))));
    const steps = scale.levels.slice(1).map((v, k) => v - scale.levels[k]);
    const even = Math.max(...steps) < 1.001 * Math.min(...steps);
    const data = [{
      type: "surface", x: s.x, y: s.y, z, text: texts(s), hoverinfo: "text", colorscale: "Viridis", surfacecolor: colours,
      cmin: 0.5, cmax: Math.max(1.5, scale.last - 0.5), connectgaps: false,
      colorbar: { ...bar(wide, { tickvals: scale.ticks, ticktext: scale.texts, title: { text: s.quantity, side: wide < 520 ? "top" : "right" } }), ...(wide < 520 ? { y: -0.02 } : { len: 0.7 }) },
      contours: { z: { show: even && !scale.constant, start: scale.levels[0], end: scale.to, size: steps[0], color: "rgba(255,255,255,0.6)", width: 1 } },
    }];
    const lift = 0.015 * (limits[1] - limits[0]);
    const centre = heightAt(s, z, 0, 0);
    if (centre !== null) {
      data.push({ type: "scatter3d", mode: "markers", x: [0], y: [0], z: [centre + 2 * lift], name: "centre", hoverinfo: "name",
        marker: { symbol: "cross", size: 5, color: "white", line: { color: "black", width: 1 } } });
    }
    if (s.points) {
      const [places, line] = over(s, z, scale, log, lift);
      if (s.points.joined) {
        data.push({ type: "scatter3d", mode: "lines", ...line, hoverinfo: "skip", showlegend: false, line: { color: "#e69f00", width: 6 } });
      }
      data.push({ type: "scatter3d", mode: "markers", ...places, name: s.points.kind, hovertext: s.points.texts, hoverinfo: "text",
        marker: { color: "#e69f00", size: 4, line: { color: "black", width: 1 } } });
    }
    const lettered = (text) => ({ text: wide < 520 ? text.split(" (")[0] : text.replace(" (", "<br>(").replaceAll(", ", ",<br>"), font: { size: 11 } });
    const side = (text) => ({ title: lettered(text), gridcolor: "@grid", backgroundcolor: "rgba(0,0,0,0)", color: "@ink", nticks: 6 });
    const scene = {
      xaxis: side(s.labels[0]), yaxis: side(s.labels[1]),
      zaxis: { ...side(s.quantity), tickvals: scale.constant ? [scale.from] : scale.heights, ticktext: scale.texts, range: scale.constant ? limits : undefined },
      aspectmode: "manual", aspectratio: aspect(s), camera: { eye: { x: -1.4, y: -1.55, z: 1.0 }, center: { x: 0, y: 0, z: -0.2 } },
    };
    return { data, layout: { scene, margin: { l: 0, r: 0, t: 0, b: wide < 520 ? 70 : 0 }, showlegend: data.length > 1, dragmode: "turntable" } };
  }

  function aspect(s) {
    if (!s.toScale) return { x: 1.1, y: 1.1, z: 0.75 };
    const [across, up] = [s.x, s.y].map((axis_) => axis_.at(-1) - axis_[0]);
    const longest = Math.max(across, up);
    return { x: 1.1 * Math.max(0.2, across / longest), y: 1.1 * Math.max(0.2, up / longest), z: 0.75 };
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
    opened = [...document.querySelectorAll("details:not([open], .values)")];
    for (const one of opened) one.open = true;
    for (const drawing of drawn) drawing.drawFlat(PAPER);
  });
  window.addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
    setTheme();
    drawAgain();
  });
})();
