"use strict";
// Without this script the page shows the values at the last step, and all pictures side by side.
document.documentElement.classList.add("js");

// One step under the pointer, in all charts at once: a line there, and the values in the legends.
const charts = [...document.querySelectorAll(".chart")].map((figure) => {
  const svg = figure.querySelector("svg");
  const values = [...figure.querySelectorAll(".legend b")];
  return {
    svg,
    line: svg.querySelector("line.at"),
    label: svg.querySelector("text.at"),
    scale: ["low", "high", "left", "right"].map((name) => Number(svg.dataset[name])),
    curves: JSON.parse(figure.querySelector("script").textContent),
    values,
    atEnd: values.map((value) => value.textContent),
  };
});

function nearest(steps, step) {
  let best = 0;
  steps.forEach((other, i) => {
    if (Math.abs(other - step) < Math.abs(steps[best] - step)) best = i;
  });
  return best;
}

function showStep(step) {
  for (const { line, label, scale: [low, high, left, right], curves, values } of charts) {
    const x = left + ((step - low) / (high - low)) * (right - left);
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    label.setAttribute("x", x);
    label.textContent = step.toLocaleString("en");
    for (const part of [line, label]) part.classList.add("on");
    curves.forEach(({ steps, texts }, i) => {
      values[i].textContent = texts[nearest(steps, step)];
    });
  }
}

function showEnd() {
  for (const { line, label, values, atEnd } of charts) {
    for (const part of [line, label]) part.classList.remove("on");
    values.forEach((value, i) => (value.textContent = atEnd[i]));
  }
}

for (const { svg, scale: [low, high, left, right] } of charts) {
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const part = Math.min(1, Math.max(0, (x - left) / (right - left)));
    showStep(Math.round(low + part * (high - low)));
  });
  svg.addEventListener("pointerleave", showEnd);
}

// One slider for the pictures of a kernel: each shows its last frame up to that step; the latest frame stands first.
for (const gallery of document.querySelectorAll(".gallery")) {
  const slider = gallery.querySelector(".slider");
  if (!slider) continue;
  const steps = slider.dataset.steps.split(" ").map(Number);
  const input = slider.querySelector("input");
  input.addEventListener("input", () => {
    const step = steps[Number(input.value)];
    slider.querySelector("output").textContent = step.toLocaleString("en");
    for (const frames of gallery.querySelectorAll(".frames")) {
      const images = [...frames.children];
      const on = images.find((image) => Number(image.dataset.step) <= step) ?? images.at(-1);
      images.forEach((image) => image.classList.toggle("on", image === on));
    }
  });
}
