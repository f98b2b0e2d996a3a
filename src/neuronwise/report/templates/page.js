"use strict";
(() => {
  // The value of a token for those who cannot hover.
  const tip = document.getElementById("tip");
  if (tip) {
    document.addEventListener("click", (event) => {
      const token = event.target instanceof Element ? event.target.closest(".text i[title]") : null;
      tip.hidden = !token;
      if (!token) return;
      tip.textContent = token.title;
      const box = token.getClientRects()[0];
      tip.style.left = `${Math.min(box.left, window.innerWidth - tip.offsetWidth - 8) + window.scrollX}px`;
      tip.style.top = `${box.top + window.scrollY - tip.offsetHeight - 4}px`;
    });
  }

  const source = document.getElementById("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const number = (value, whole) => {
    if (value === null) return "–";
    if (whole || value === 0) return value.toLocaleString("en");
    const size = Math.abs(value);
    const text = size < 1e-4 || size >= 1e7 ? value.toExponential(2) : size >= 1000 ? value.toFixed(0) : value.toPrecision(4);
    return text.replace("-", "−");
  };
  const site = (row) => data.sites[data.site[row]];

  // One column of the table: its head, what it is sorted by, and how a cell is filled.
  const columns = [
    { label: "Site", word: true, value: (row) => data.site[row], fill: (cell, row) => { cell.textContent = site(row).label; cell.title = site(row).name; } },
    { label: "Neuron", value: (row) => data.neuron[row], fill: fillNeuron },
    ...data.columns.map(({ key, label, whole, values }) => ({ key, label, value: (row) => values[row], fill: (cell, row) => { cell.textContent = number(values[row], whole); } })),
    ...data.words.map(({ label, values }) => ({ label, word: true, value: (row) => values[row].join(" ").trim().toLowerCase() || null, fill: (cell, row) => fillWords(cell, values[row]) })),
  ];

  function fillNeuron(cell, row) {
    const anchor = data.sections[`${data.site[row]}:${data.neuron[row]}`];
    if (!anchor) { cell.textContent = data.neuron[row]; return; }
    const link = document.createElement("a");
    link.href = `#${anchor}`;
    link.textContent = data.neuron[row];
    cell.append(link);
  }

  function fillWords(cell, words) {
    for (const word of words) {
      const code = document.createElement("code");
      code.textContent = word;
      cell.append(code);
    }
    cell.title = words.join("  ");
  }

  const texts = data.neuron.map((_, row) =>
    [site(row).name, site(row).label, ...data.words.map(({ values }) => values[row].join("\n"))].join("\n").toLowerCase());

  function matches(row, word) {
    const address = /^(\d+):(\d*)$/.exec(word);
    if (address) return site(row).layer === Number(address[1]) && (!address[2] || data.neuron[row] === Number(address[2]));
    if (/^\d+$/.test(word)) return data.neuron[row] === Number(word);
    return texts[row].includes(word);
  }

  let sorted = Math.max(columns.findIndex(({ key }) => key === data.by), 0);
  let descending = true;
  let rows = [];
  let start = 0;

  function choose() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = byId("site").value;
    rows = [];
    for (let row = 0; row < data.neuron.length; row += 1) {
      if (wanted !== "" && data.site[row] !== Number(wanted)) continue;
      if (words.every((word) => matches(row, word))) rows.push(row);
    }
    const keys = new Map(rows.map((row) => [row, columns[sorted].value(row)]));
    const sign = descending ? -1 : 1;
    rows.sort((one, two) => {
      const a = keys.get(one), b = keys.get(two);
      if (a === b) return one - two;
      if (a === null) return 1; // what is not defined comes last either way
      if (b === null) return -1;
      return a < b ? -sign : sign;
    });
    start = 0;
    draw();
  }

  function draw() {
    const body = byId("table").tBodies[0];
    body.replaceChildren(...rows.slice(start, start + PAGE).map((row) => {
      const line = document.createElement("tr");
      for (const column of columns) {
        const cell = line.insertCell();
        if (column.word) cell.className = "word";
        column.fill(cell, row);
      }
      return line;
    }));
    const end = Math.min(start + PAGE, rows.length);
    byId("shown").textContent = rows.length ? `${(start + 1).toLocaleString("en")}–${end.toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "No neuron matches.";
    byId("previous").disabled = start === 0;
    byId("next").disabled = end >= rows.length;
  }

  const heads = columns.map((column, place) => {
    const head = document.createElement("th");
    head.scope = "col";
    if (column.word) head.className = "word";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.label;
    button.addEventListener("click", () => {
      // Numbers are first wanted from the top, names and indices from the start.
      descending = sorted === place ? !descending : Boolean(column.key);
      sorted = place;
      mark();
      choose();
    });
    head.append(button);
    return head;
  });

  function mark() {
    heads.forEach((head, place) => head.setAttribute("aria-sort", place !== sorted ? "none" : descending ? "descending" : "ascending"));
  }

  function turn(by) {
    start += by;
    draw();
    byId("neurons").scrollIntoView();
  }

  byId("table").tHead.rows[0].append(...heads);
  data.sites.forEach(({ label }, place) => byId("site").add(new Option(label, place)));
  byId("search").addEventListener("input", choose);
  byId("site").addEventListener("change", choose);
  byId("previous").addEventListener("click", () => turn(-PAGE));
  byId("next").addEventListener("click", () => turn(PAGE));
  mark();
  choose();
  byId("browser").hidden = false;
})();
