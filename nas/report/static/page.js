"use strict";
// Makes the page interactive: a tooltip with an architecture's layers, drawing it on the UNet, sorting the lookup table.
// Without this script the page is complete but static.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const NONE = "none";

  const formatNumber = (value, digits = 3) => {
    if (value === null || value === undefined) return "\u2013";
    if (value === 0) return "0";
    const magnitude = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(digits)))));
    const decimals = Math.max(digits - 1 - magnitude, 0);
    return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: Math.min(decimals, 20) });
  };
  const count = (value) => {
    if (value === null) return "\u2013";
    for (const [factor, suffix] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]]) {
      if (value >= factor * 0.9995) return formatNumber(value / factor) + suffix;
    }
    return String(Math.round(value));
  };
  const milliseconds = (value) => (value === null ? "\u2013" : `${formatNumber(value)} ms`);
  const megabytes = (value) => {
    if (value === null) return "\u2013";
    return value > 0 && value < 0.1 ? `${formatNumber(value * 1e3)} KB` : `${formatNumber(value)} MB`;
  };
  const formatters = { latency_ms: milliseconds, memory_mb: megabytes, params: count, score: (value) => formatNumber(value, 4) };

  // -- drawing an architecture on the UNet --

  const latency = (slot, choice) => (choice === NONE ? undefined : (data.latency_ms[slot] || {})[choice]);

  function drawSlot(svg, slot, choice) {
    const part = (name) => svg.querySelector(`.${name}[data-slot="${CSS.escape(slot)}"]`);
    const ms = latency(slot, choice);
    const bar = part("bar");
    const share = choice === NONE ? 0 : data.longest_ms ? Math.min(Math.max((ms || 0) / data.longest_ms, 0.02), 1) : 1;
    bar.style.transform = `scaleX(${share.toFixed(4)})`;
    bar.style.fill = data.colors[choice] || "none";
    const title = `${slot}: ${choice}` + (ms === undefined ? "" : `, ${formatters.latency_ms(ms)}`);
    for (const name of ["track", "bar"]) part(name).querySelector("title").textContent = title;
    const label = part("choice");
    label.classList.toggle("empty", choice === NONE);
    const name = data.short[choice] || choice;
    const length = Number(label.dataset.length);
    label.querySelector("text").textContent = name.length > length ? name.slice(0, length - 1) + "\u2026" : name;
    const time = part("latency");
    if (time) time.querySelector("text").textContent = ms === undefined ? "\u00a0" : formatNumber(ms);
  }

  function draw(index) {
    const architecture = data.architectures[index];
    if (!architecture) return;
    const choices = Object.fromEntries(data.slots.map((slot, i) => [slot, architecture.choices[i]]));
    all(".unet").forEach((svg) => data.slots.forEach((slot) => drawSlot(svg, slot, choices[slot] || NONE)));
    document.getElementById("drawn").textContent = architecture.label;
    all("[data-total]").forEach((element) => {
      const name = element.dataset.total;
      const noise = name === "score" && architecture.score_std !== null ? ` \u00b1 ${formatNumber(architecture.score_std, 2)}` : "";
      element.textContent = formatters[name](architecture[name]) + noise;
      element.classList.toggle("over", name in data.budget && architecture[name] > data.budget[name]);
    });
    all("[data-point]").forEach((point) => point.classList.toggle("drawn", Number(point.dataset.point) === index));
    document.getElementById("back").hidden = architecture.chosen;
    document.documentElement.dataset.drawn = index;
  }

  // -- the tooltip: an architecture's numbers and its layers, slot by slot --

  const tooltip = document.getElementById("tooltip");

  function line(tag, words) {
    const element = document.createElement(tag);
    element.textContent = words;
    return element;
  }

  function show(point) {
    const architecture = data.architectures[Number(point.dataset.point)];
    const lines = [line("b", architecture.label)];
    lines.push(line("span", [formatters.latency_ms(architecture.latency_ms), formatters.memory_mb(architecture.memory_mb), `${count(architecture.params)} parameters`].join(" \u00b7 ")));
    lines.push(line("span", `score ${formatters.score(architecture.score)}`));
    data.slots.forEach((slot, i) => {
      const choice = architecture.choices[i];
      if (choice === NONE) return;
      const entry = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      swatch.style.background = data.colors[choice] || "transparent";
      entry.append(swatch, `${slot}  ${data.short[choice] || choice}`);
      lines.push(entry);
    });
    tooltip.replaceChildren(...lines);
    tooltip.hidden = false;
    const box = point.querySelector("use").getBoundingClientRect();
    const [width, height] = [tooltip.offsetWidth, tooltip.offsetHeight];
    const left = Math.max(12, Math.min(box.left + box.width / 2 - width / 2, document.documentElement.clientWidth - width - 12));
    const above = box.top - height - 10;
    tooltip.style.left = `${left + scrollX}px`;
    tooltip.style.top = `${(above > 8 ? above : box.bottom + 10) + scrollY}px`;
    all(`[data-point="${point.dataset.point}"]`).forEach((twin) => twin.classList.add("near"));
  }

  function hide() {
    tooltip.hidden = true;
    all(".point.near").forEach((point) => point.classList.remove("near"));
  }

  all("[data-point]").forEach((point) => {
    point.addEventListener("pointerenter", () => show(point));
    point.addEventListener("pointerleave", hide);
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", hide);
    point.addEventListener("click", () => draw(Number(point.dataset.point)));
    point.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        draw(Number(point.dataset.point));
      }
      if (event.key === "Escape") hide();
    });
  });
  all("[data-draw]").forEach((button) =>
    button.addEventListener("click", () => {
      draw(Number(button.dataset.draw));
      document.getElementById("architecture").scrollIntoView();
    })
  );
  const chosen = data.architectures.findIndex((architecture) => architecture.chosen);
  const back = document.getElementById("back");
  if (back) back.addEventListener("click", () => draw(chosen));

  // -- sorting the lookup table --

  all(".sortable").forEach((table) => {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => {
          const cell = row.cells[column];
          if (cell.dataset.value === undefined) return cell.textContent;
          const number = Number(cell.dataset.value.replace("inf", "Infinity"));
          return Number.isNaN(number) ? Infinity : number;
        };
        const rows = all("tbody tr", table).map((row) => [value(row), row]);
        rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  });

  document.documentElement.dataset.ready = "true"; // the last line: nothing above threw
})();
