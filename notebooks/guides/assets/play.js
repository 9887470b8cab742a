// Figures whose path follows the sliders: <div class="play" data-rule="adam"></div>.
"use strict";

const STEPS = 100;
const START = [-4.5, 1];
const RANGE = { x: [-5, 1.5], y: [-1.5, 1.5] };
const loss = ([x, y]) => (x * x + 25 * y * y) / 2;
const gradient = ([x, y]) => [x, 25 * y];

// One step on one coordinate: the gradient g, the state s of that coordinate and the number t of the step; returns Δw.
const RULES = {
  heavy_ball: {
    sliders: { η: 0.02, "β₁": 0.9 },
    step: (g, s, t, { η, "β₁": b }) => -η * (s.v = b * s.v + g),
    text: "v ← β₁·v + g, w ← w − η·v",
  },
  momentum: {
    sliders: { η: 0.2, "β₁": 0.9 },
    step: (g, s, t, { η, "β₁": b }) => -η * (s.m = b * s.m + (1 - b) * g),
    text: "m ← β₁·m + (1 − β₁)·g, w ← w − η·m",
  },
  rmsprop: {
    sliders: { η: 0.1, "β₂": 0.9 },
    step: (g, s, t, { η, "β₂": b }) => (-η * g) / (Math.sqrt((s.s = b * s.s + (1 - b) * g * g)) + 1e-8),
    text: "s ← β₂·s + (1 − β₂)·g², w ← w − η·g/(√s + ε)",
  },
  adam: {
    sliders: { η: 0.1, "β₁": 0.9, "β₂": 0.999 },
    step: (g, s, t, { η, "β₁": b1, "β₂": b2 }) => {
      s.m = b1 * s.m + (1 - b1) * g;
      s.s = b2 * s.s + (1 - b2) * g * g;
      return (-η * (s.m / (1 - b1 ** t))) / (Math.sqrt(s.s / (1 - b2 ** t)) + 1e-8);
    },
    text: "w ← w − η·m̂/(√ŝ + ε), with m and s the averages of g and g², corrected for their start at 0",
  },
};

function path(rule, values) {
  const w = [...START];
  const state = [0, 1].map(() => ({ v: 0, m: 0, s: 0 }));
  const points = [[...w]];
  for (let t = 1; t <= STEPS; t++) {
    const g = gradient(w);
    for (const i of [0, 1]) w[i] += rule.step(g[i], state[i], t, values);
    points.push([...w]);
  }
  return points;
}

// η moves on a logarithmic scale, β on that of 1 − β: from 0 to 0.999.
const toValue = (name, position) => (name === "η" ? 10 ** position : 1 - 10 ** -position);
const toPosition = (name, value) => (name === "η" ? Math.log10(value) : -Math.log10(1 - value));

function controls(root, sliders, changed) {
  const values = {};
  for (const [name, value] of Object.entries(sliders)) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const output = document.createElement("output");
    Object.assign(input, { type: "range", step: "any", min: name === "η" ? -3 : 0, max: name === "η" ? 0.5 : 3 });
    input.value = toPosition(name, value);
    values[name] = value;
    const show = () => (output.textContent = values[name].toPrecision(3));
    input.addEventListener("input", () => {
      values[name] = toValue(name, Number(input.value));
      show();
      changed(values);
    });
    show();
    label.append(name, input, output);
    root.append(label);
  }
  return values;
}

function canvasOf(root, height) {
  const canvas = document.createElement("canvas");
  canvas.width = 1200;
  canvas.height = height;
  canvas.setAttribute("role", "img");
  root.append(canvas);
  return canvas;
}

function line(pen, points, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

function dot(pen, [x, y], radius, fill) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fillStyle = fill;
  pen.fill();
  pen.lineWidth = 2;
  pen.strokeStyle = "black";
  pen.stroke();
}

function playPath(root, rule) {
  const canvas = canvasOf(root, 554);
  const caption = document.createElement("p");
  const at = ([x, y]) => [
    (canvas.width * (x - RANGE.x[0])) / (RANGE.x[1] - RANGE.x[0]),
    canvas.height * (1 - (y - RANGE.y[0]) / (RANGE.y[1] - RANGE.y[0])),
  ];
  const draw = (values) => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let level = -3; level <= 1.5; level += 0.5) {
      const r = Math.sqrt(2 * 10 ** level);
      const ring = Array.from({ length: 121 }, (_, i) => (i * Math.PI) / 60);
      line(pen, ring.map((a) => at([r * Math.cos(a), (r / 5) * Math.sin(a)])), "#9aa7b5", 1.5);
    }
    const points = path(rule, values);
    const shown = points.filter((w) => w.every((x) => Math.abs(x) < 1e6)).map(at);
    line(pen, shown, "#ff4b0f", 3);
    shown.forEach((p) => dot(pen, p, 3, "#ff4b0f"));
    dot(pen, at([0, 0]), 9, "#ffd21f");
    dot(pen, at(START), 9, "white");
    dot(pen, shown[shown.length - 1], 9, "#ff4b0f");
    const end = points[STEPS];
    const value = loss(end);
    root.dataset.end = end.join(",");
    caption.textContent = `${rule.text}. Loss after ${STEPS} steps: ${value < 1e6 ? value.toPrecision(3) : "diverged"}`;
    canvas.setAttribute("aria-label", caption.textContent);
  };
  draw(controls(root, rule.sliders, draw));
  root.append(caption);
}

// An exponential average of a noisy wave, with and without bias correction.
function playAverage(root) {
  const canvas = canvasOf(root, 420);
  const caption = document.createElement("p");
  let seed = 1;
  const uniform = () => (seed = (seed * 16807) % 2147483647) / 2147483647 - 0.5;
  const series = Array.from({ length: 200 }, (_, i) => 2 + Math.sin(i / 25) + 2 * uniform());
  const at = (x, i) => [(canvas.width * i) / (series.length - 1), canvas.height * (1 - x / 4.2)];
  const draw = ({ "β₁": b }) => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    let m = 0;
    const plain = series.map((x) => (m = b * m + (1 - b) * x));
    series.forEach((x, i) => dot(pen, at(x, i), 2, "#9aa7b5"));
    line(pen, plain.map(at), "#0000d2", 4);
    line(pen, plain.map((x, i) => at(x / (1 - b ** (i + 1)), i)), "#ff4b0f", 4);
    root.dataset.end = m;
    caption.textContent =
      `Blue: m ← β₁·m + (1 − β₁)·x, from 0. Red: m/(1 − β₁ᵗ), corrected. ` +
      `The average weighs about the last ${(1 / (1 - b)).toFixed(1)} values.`;
    canvas.setAttribute("aria-label", caption.textContent);
  };
  draw(controls(root, { "β₁": 0.95 }, draw));
  root.append(caption);
}

for (const root of document.querySelectorAll(".play")) {
  if (root.dataset.rule === "average") playAverage(root);
  else playPath(root, RULES[root.dataset.rule]);
}
