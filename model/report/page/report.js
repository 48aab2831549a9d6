"use strict";
// Draws the data in #data: curves over steps with uPlot, and kernels over time.
// If `alextrain watch` serves the page, it polls data.json for new data.
(() => {
  // Colours of a single run's curves; of several runs, each has a hue, its curves differ by dashes
  const KINDS = ["#2f72d6", "#d2542f", "#2f9e55"];
  const DASHES = [undefined, [9, 4], [2, 3]];
  const $ = (id) => document.getElementById(id);
  let data = JSON.parse($("data").textContent);
  let plots = [];

  // -- the columns: float16 or float32, base64
  const halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 0x8000 ? -1 : 1;
    halves[bits] = sign * (exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15));
  }
  function numbers(text, wide) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const raw = wide ? new Float32Array(bytes.buffer) : Uint16Array.from(new Uint16Array(bytes.buffer));
    return Array.from(raw, (x) => { const y = wide ? x : halves[x]; return Number.isNaN(y) ? null : y; });
  }
  function expanded(runs) {
    const steps = [];
    for (const [first, stride, count] of runs) for (let i = 0; i < count; i++) steps.push(first + stride * i);
    return steps;
  }
  function decoded(run) {
    const columns = {};
    for (const name in run.columns) columns[name] = numbers(run.columns[name], name === "images_per_s");
    return {...run, x: expanded(run.steps), columns};
  }
  let runs = data.runs.map(decoded);

  function smoothed(values, weight) {
    if (!weight) return values;
    let mean = 0, seen = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      seen = weight * seen + (1 - weight);
      return mean / seen;
    });
  }

  // -- plots
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (value) => value === null || value === undefined ? "" : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(4)).toString();
  const named = (run, what) => runs.length > 1 ? `${run.name}: ${what}` : what;

  const hue = (index) => `hsl(${Math.round(215 + 360 * index / runs.length) % 360} 65% 50%)`;

  function wanted() {
    const weight = Number($("smoothing").value);
    const ofEvals = (run, name, scale = 1) => run.evals.map((row) => row[name] === null ? null : scale * row[name]);
    const at = (run) => run.evals.map((row) => row.step);
    const look = (index, kind) => runs.length > 1 ? {colour: hue(index), dash: DASHES[kind]} : {colour: KINDS[kind], dash: kind ? DASHES[1] : undefined};
    const list = (make) => runs.flatMap((run, index) => make(run, index)).filter((one) => one.y.some((value) => value !== null));
    return [
      {title: "Loss", unit: "cross-entropy", log: $("log").checked, lines: list((run, i) => [
        {label: named(run, "training batch"), x: run.x, y: smoothed(run.columns.loss, weight), ...look(i, 0)},
        {label: named(run, "validation"), x: at(run), y: ofEvals(run, "loss"), ...look(i, 1), few: true}])},
      {title: "Error, percent", unit: "%", lines: list((run, i) => [
        {label: named(run, "training batch, top-1"), x: run.x, y: smoothed(run.columns.error.map((v) => v === null ? null : 100 * v), weight), ...look(i, 0), faint: true},
        {label: named(run, "validation, top-1"), x: at(run), y: ofEvals(run, "top1_error", 100), ...look(i, 1), few: true},
        {label: named(run, "validation, top-5"), x: at(run), y: ofEvals(run, "top5_error", 100), ...look(i, 2), few: true}])},
      {title: "Learning rate", unit: "", log: true, lines: list((run, i) => [
        {label: named(run, "learning rate"), x: run.lr.map((pair) => pair[0]), y: run.lr.map((pair) => pair[1]), ...look(i, 0), stepped: true}])},
      {title: "Images a second", unit: "images/s", zero: true, lines: list((run, i) => [
        {label: named(run, "images a second"), x: run.x, y: smoothed(run.columns.images_per_s, weight), ...look(i, 0)}])},
      {title: "Time spent waiting for data, percent", unit: "%", zero: true, lines: list((run, i) => [
        {label: named(run, "waiting"), x: run.x, y: smoothed(run.columns.wait_share.map((v) => v === null ? null : 100 * v), weight), ...look(i, 0)}])},
      {title: "Chroma of the first layer's kernels, percent", unit: "%", zero: true, lines: list((run, i) => (run.kernels[0]?.chroma ?? []).map((_, tower) => (
        {label: named(run, `tower ${tower + 1}`), x: run.kernels.map((frame) => frame.step), y: run.kernels.map((frame) => 100 * frame.chroma[tower]), ...look(i, tower), few: true})))},
    ].filter((one) => one.lines.length);
  }

  let zooming = false;
  function zoomAll(from, min, max) {
    if (zooming) return;
    zooming = true;
    for (const plot of plots) if (plot !== from) plot.setScale("x", {min, max});
    zooming = false;
  }
  function whole() {
    const ends = runs.flatMap((run) => [...(run.x.length ? [run.x[0], run.x[run.x.length - 1]] : []), ...run.evals.map((row) => row.step)]);
    const last = Math.max(1, ...ends);
    for (const plot of plots) plot.setScale("x", {min: 0, max: last});
  }
  function drawMarks(plot) {
    if (!$("marks").checked) return;
    const {ctx, bbox} = plot;
    ctx.save();
    ctx.setLineDash([4, 4]);
    ctx.lineWidth = 1;
    runs.forEach((run, index) => {
      ctx.strokeStyle = runs.length > 1 ? hue(index) : style("--dim");
      for (const [step] of run.marks) {
        const x = Math.round(plot.valToPos(step, "x", true));
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      }
    });
    ctx.restore();
  }
  function read(plot, index) {
    const values = plot.series.slice(1).map((one, i) => [one.label, plot.data[i + 1][index]]).filter(([, value]) => value !== null && value !== undefined);
    $("reading").textContent = `step ${plot.data[0][index]}: ` + values.map(([label, value]) => `${label} ${short(value)}`).join(", ");
  }
  function withKeys(plot, element) {
    element.tabIndex = 0;
    element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return; // shortcuts of the browser
      const {min, max} = plot.scales.x, x = plot.data[0];
      let index = plot.cursor.idx ?? x.findIndex((step) => step >= min);
      const stride = event.shiftKey ? Math.max(1, Math.round(x.length / 20)) : 1;
      if (event.key === "ArrowRight") index = Math.min(x.length - 1, index + stride);
      else if (event.key === "ArrowLeft") index = Math.max(0, index - stride);
      else if (event.key === "Home") index = 0;
      else if (event.key === "End") index = x.length - 1;
      else if (event.key === "Escape") { whole(); return; }
      else if (event.key === "+" || event.key === "-") {
        const middle = x[index] ?? (min + max) / 2, half = (max - min) / (event.key === "+" ? 4 : 1);
        plot.setScale("x", {min: middle - half, max: middle + half});
        return;
      } else return;
      event.preventDefault();
      plot.setCursor({left: plot.valToPos(x[index], "x"), top: plot.over.clientHeight / 2});
      read(plot, index);
    });
  }
  function drawn(one, element) {
    const axis = {stroke: style("--dim"), grid: {stroke: style("--line"), width: 1}, ticks: {stroke: style("--line"), width: 1}};
    const values = (_, ticks) => ticks.map(short);
    const table = one.lines.length ? uPlot.join(one.lines.map((line) => [line.x, line.y])) : [[]];
    const options = {
      width: element.clientWidth || 600, height: 260,
      cursor: {sync: {key: "steps", scales: ["x", null]}, drag: {x: true, y: false}, focus: {prox: 24}},
      scales: {x: {time: false}, y: one.log ? {distr: 3} : one.zero ? {range: (_, low, high) => [0, (high || 1) * 1.08]} : {}},
      axes: [{...axis, values}, {...axis, size: 62, values}],
      series: [{label: "step", value: (_, value) => short(value)}, ...one.lines.map((line) => ({
        label: line.label, stroke: line.colour, width: line.faint ? 1 : 1.5, spanGaps: true, dash: line.dash,
        points: {show: Boolean(line.few), size: 5}, paths: line.stepped ? uPlot.paths.stepped({align: 1}) : undefined, value: (_, value) => short(value),
      }))],
      hooks: {draw: [drawMarks], setScale: [(plot, key) => { if (key === "x") zoomAll(plot, plot.scales.x.min, plot.scales.x.max); }]},
    };
    const plot = new uPlot(options, table, element);
    withKeys(plot, element);
    new ResizeObserver(() => plot.setSize({width: element.clientWidth, height: 260})).observe(element);
    return plot;
  }
  // Updates the data of the existing plots; returns false if the plots or their lines have changed.
  function renewed() {
    const now = wanted();
    const alike = (one, plot) => one.lines.length + 1 === plot.series.length && one.lines.every((line, j) => line.label === plot.series[j + 1].label);
    if (now.length !== plots.length || !now.every((one, i) => alike(one, plots[i]))) return false;
    const {min, max} = plots.length ? plots[0].scales.x : {};
    const all = plots.length && min === 0 && max >= Math.max(...plots.map((plot) => plot.data[0].at(-1) ?? 0));
    now.forEach((one, i) => plots[i].setData(uPlot.join(one.lines.map((line) => [line.x, line.y])), false));
    if (all) whole();
    else for (const plot of plots) plot.setScale("x", {min, max});
    listMarks();
    tabulate();
    return true;
  }
  function drawAll(keep) {
    const view = keep && plots.length ? {min: plots[0].scales.x.min, max: plots[0].scales.x.max} : null;
    for (const plot of plots) plot.destroy();
    plots = [];
    const place = $("plots");
    place.replaceChildren();
    const made = [];
    for (const one of wanted()) {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption"), element = document.createElement("div");
      caption.textContent = one.title;
      element.className = "plot";
      element.setAttribute("role", "group");
      element.setAttribute("aria-label", `${one.title} over steps: ${one.lines.map((line) => line.label).join(", ")}. Arrow keys read values.`);
      figure.append(caption, element);
      place.append(figure);
      made.push(drawn(one, element));
    }
    plots = made;
    if (!plots.length) place.textContent = "Nothing logged yet.";
    else if (view) for (const plot of plots) plot.setScale("x", view);
    else whole();
    listMarks();
    tabulate();
  }
  function listMarks() {
    const thinned = runs.filter((run) => run.averaged > 1).map((run) => named(run, `each point is the mean of ${run.averaged} rows`));
    $("thinned").textContent = thinned.join("; ");
    $("mark-list").replaceChildren(...runs.flatMap((run) => run.marks.map(([step, text]) => {
      const item = document.createElement("li");
      item.textContent = `${runs.length > 1 ? run.name + ", " : ""}step ${step.toLocaleString("en")}: ${text}`;
      return item;
    })));
  }
  function tabulate() {
    const table = $("evaluations");
    while (table.rows.length) table.deleteRow(0);
    const line = (cells, kind) => { const row = table.insertRow(); for (const text of cells) { const cell = document.createElement(kind); cell.textContent = text; if (kind === "th") cell.scope = "col"; row.append(cell); } };
    line(["run", "epoch", "step", "top-1 error, %", "top-5 error, %", "loss", "training error, %"], "th");
    const percent = (value) => value === null ? "" : (100 * value).toFixed(2);
    for (const run of runs) for (const row of run.evals) line([run.name, row.epoch, row.step, percent(row.top1_error), percent(row.top5_error), short(row.loss), percent(row.train_error)], "td");
  }

  // -- kernels over time
  function film(section, index) {
    let run = runs[index], timer = 0;
    const image = section.querySelector(".kernels"), slider = section.querySelector(".frames"), output = section.querySelector(".frame"), button = section.querySelector(".play");
    slider.max = run.kernels.length - 1;
    section.renew = () => {
      const atEnd = Number(slider.value) === run.kernels.length - 1;
      run = runs[index];
      slider.max = run.kernels.length - 1;
      if (atEnd && !timer) { slider.value = slider.max; show(); }
    };
    const show = () => {
      const frame = run.kernels[slider.value];
      image.src = frame.picture;
      const chroma = frame.chroma.map((share, tower) => `${frame.chroma.length > 1 ? `tower ${tower + 1} ` : ""}${(100 * share).toFixed(0)} %`).join(", ");
      output.textContent = `${frame.step.toLocaleString("en")}; chroma ${chroma}`;
      image.alt = `The kernels of the first convolution after ${frame.step} steps; chroma ${chroma}`;
      slider.setAttribute("aria-valuetext", `step ${frame.step}`);
    };
    const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; output.setAttribute("aria-live", "polite"); };
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) >= run.kernels.length - 1) slider.value = 0;
      button.textContent = "Pause";
      output.setAttribute("aria-live", "off");
      timer = setInterval(() => { if (Number(slider.value) >= run.kernels.length - 1) return stop(); slider.value = Number(slider.value) + 1; show(); }, 400);
    });
    slider.addEventListener("input", () => { stop(); show(); });
    slider.value = run.kernels.length - 1;
    show();
  }
  function films() {
    runs.forEach((run, index) => {
      const section = document.querySelector(`[data-run="${index}"] section:has(.kernels)`);
      if (section && run.kernels.length) film(section, index);
    });
  }

  // -- controls
  $("smoothing").addEventListener("input", () => drawAll(true));
  $("log").addEventListener("change", () => drawAll(true));
  $("marks").addEventListener("change", () => plots.forEach((plot) => plot.redraw()));
  $("reset").addEventListener("click", whole);
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    drawAll(true);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
  for (const button of document.querySelectorAll("[data-show]")) button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-show]")) other.setAttribute("aria-pressed", String(other === button));
    for (const part of document.querySelectorAll("[data-run]")) part.hidden = part.dataset.run !== button.dataset.show;
  });
  drawAll(false);
  films();

  // -- live updates
  if (LIVE) {
    let tag = "";
    const ask = async () => {
      const asked = performance.now();
      try {
        const answer = await fetch("data.json", {headers: tag ? {"If-None-Match": tag} : {}, cache: "no-store"});
        if (answer.status === 200) {
          tag = answer.headers.get("ETag") ?? "";
          const fresh = await answer.json();
          const sections = (one) => one.runs.map((run) => `${run.results} ${run.kernels.length > 0}`).join();
          // a section has appeared
          if (sections(fresh) !== sections(data)) return location.reload();
          data = fresh;
          runs = data.runs.map(decoded);
          if (!renewed()) drawAll(true);
          for (const section of document.querySelectorAll("section:has(.kernels)")) section.renew?.();
        }
        $("live").textContent = `live, step ${Math.max(0, ...runs.map((run) => run.x[run.x.length - 1] ?? 0)).toLocaleString("en")}`;
      } catch {
        $("live").textContent = "the server does not answer";
      }
      // polling takes at most a twentieth of the time, because training needs the CPU
      setTimeout(ask, Math.max(2000, 20 * (performance.now() - asked)));
    };
    ask();
  }
})();
