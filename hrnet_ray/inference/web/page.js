"use strict";
// One picture, the boxes drawn on it, and the poses that /predict found in them.
const at = (id) => document.getElementById(id);
const canvas = at("canvas"), paper = canvas.getContext("2d");
let model, file, bitmap, boxes = [], poses = [], drag = null, asked = 0;

fetch("model").then((answer) => answer.json()).then((found) => {
  model = found;
  at("name").textContent = model.name;
  const [height, width] = model.input_hw;
  const parts = [model.net, `${model.keypoints.length} keypoints (${model.skeleton})`, `crops of ${width} x ${height}`];
  if (model.trained_on) parts.push(`trained on ${model.trained_on}`);
  at("about").textContent = parts.join(" · ");
  document.title = `${model.name} · hrnet-ray`;
  list();
});

function say(text, look = false) {
  at("said").textContent = text;
  at("said").className = look ? "look" : "soft";
}

async function open(chosen) {
  let opened;
  try {  // as stored, not as EXIF asks: the model was taught so
    opened = await createImageBitmap(chosen, { imageOrientation: "none" });
  } catch {
    return say(`${chosen.name || "that"} is no picture that this browser can show`, true);
  }
  [file, bitmap, boxes, poses] = [chosen, opened, [], []];
  at("hint").style.display = "none";
  fit();
  at("whole").disabled = false;
  ask();
}

async function ask() {
  const mine = ++asked;
  say("looking …");
  draw();
  const where = boxes.length ? `predict?boxes=${encodeURIComponent(JSON.stringify(boxes))}` : "predict";
  let answer, found;
  try {
    answer = await fetch(where, { method: "POST", body: file });
    found = await answer.json();
  } catch {
    return mine === asked && say("the server does not answer", true);
  }
  if (mine !== asked) return;  // another question has been asked since
  if (!answer.ok) return say(`${found.error}: ${found.where} (${found.fix})`, true);
  poses = found.poses;
  const many = `${poses.length} ${poses.length === 1 ? "pose" : "poses"}`;
  say(boxes.length ? many : `${many}, the whole picture as its box`);
  at("json").href = URL.createObjectURL(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }));
  at("json").hidden = at("drawn").hidden = false;
  draw();
  list();
  canvas.toBlob((blob) => { at("drawn").href = URL.createObjectURL(blob); });
}

// As large as there is room, and at least as fine as the screen: a small picture gets sharp lines.
function fit() {
  if (!bitmap) return;
  const zoom = Math.min(at("stage").clientWidth / bitmap.width, 0.78 * innerHeight / bitmap.height, 4);
  const fine = Math.max(1, Math.ceil(zoom * devicePixelRatio));
  [canvas.width, canvas.height] = [bitmap.width * fine, bitmap.height * fine];
  canvas.style.width = `${bitmap.width * zoom}px`;
  paper.scale(fine, fine);
  draw();
}

function draw() {
  if (!bitmap) return;
  paper.drawImage(bitmap, 0, 0);
  const thick = 2.5 * bitmap.width / canvas.getBoundingClientRect().width;
  const above = Number(at("above").value);
  paper.lineCap = "round";
  for (const box of drag ? [...boxes, drag] : boxes) {
    paper.lineWidth = thick / 1.5;
    paper.strokeStyle = "rgba(255, 255, 255, .9)";
    paper.strokeRect(...box);
    paper.strokeStyle = "rgba(91, 111, 196, .9)";
    paper.setLineDash([4 * thick, 4 * thick]);
    paper.strokeRect(...box);
    paper.setLineDash([]);
  }
  for (const { points } of poses) {
    paper.lineWidth = thick;
    for (const [one, other] of model.bones) {
      if (points[one][2] <= above || points[other][2] <= above) continue;
      const middle = model.colours[one] === "#ffd640";
      paper.strokeStyle = model.colours[middle ? other : one];
      paper.beginPath();
      paper.moveTo(points[one][0], points[one][1]);
      paper.lineTo(points[other][0], points[other][1]);
      paper.stroke();
    }
    points.forEach(([x, y, score], k) => {
      if (score <= above) return;
      paper.beginPath();
      paper.arc(x, y, 1.6 * thick, 0, 2 * Math.PI);
      paper.fillStyle = model.colours[k];
      paper.fill();
      paper.lineWidth = thick / 2.5;
      paper.strokeStyle = "#fff";
      paper.stroke();
    });
  }
}

function list() {
  const above = Number(at("above").value), latest = poses.at(-1);
  at("points").tBodies[0].replaceChildren(...model.keypoints.map((name, k) => {
    const row = document.createElement("tr"), dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = model.colours[k];
    row.insertCell().append(dot, name);
    if (latest) {
      const [x, y, score] = latest.points[k];
      row.className = score > above ? "" : "faint";
      for (const text of [x.toFixed(0), y.toFixed(0), score.toFixed(2)]) {
        const cell = row.insertCell();
        cell.className = "number";
        cell.textContent = text;
      }
    }
    return row;
  }));
}

function place(event) {
  const frame = canvas.getBoundingClientRect(), zoom = bitmap.width / frame.width;
  const within = (value, end) => Math.min(Math.max(value, 0), end);
  return [within((event.clientX - frame.left) * zoom, bitmap.width - 1),
          within((event.clientY - frame.top) * zoom, bitmap.height - 1)];
}

let start = null;
canvas.addEventListener("pointerdown", (event) => {
  if (!bitmap || event.button) return;
  start = place(event);
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!start) return;
  const [x, y] = place(event);
  drag = [Math.min(x, start[0]), Math.min(y, start[1]), Math.abs(x - start[0]), Math.abs(y - start[1])];
  draw();
});
canvas.addEventListener("pointerup", () => {
  const drawn = drag;
  start = drag = null;
  if (!drawn || drawn[2] < 4 || drawn[3] < 4) return draw();  // a click is no box
  boxes.push(drawn.map(Math.round));
  ask();
});
canvas.addEventListener("pointercancel", () => { start = drag = null; draw(); });

at("file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
at("whole").addEventListener("click", () => { boxes = []; poses = []; ask(); });
at("above").addEventListener("input", () => {
  at("value").textContent = Number(at("above").value).toFixed(2);
  draw();
  if (model) list();
});
at("stage").addEventListener("dragover", (event) => { event.preventDefault(); at("stage").classList.add("over"); });
at("stage").addEventListener("dragleave", () => at("stage").classList.remove("over"));
at("stage").addEventListener("drop", (event) => {
  event.preventDefault();
  at("stage").classList.remove("over");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const pasted = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (pasted) open(pasted);
});
window.addEventListener("resize", fit);
