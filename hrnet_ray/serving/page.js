"use strict";
// One image, its boxes, and the poses that /predict returned for them.
const MIN_BOX = 6, MIN_SHOWN = 48;  // screen pixels
const MAX_CANVAS_SIDE = 16000;
const at = (id) => document.getElementById(id);
const canvas = at("canvas");
let model, file, bitmap, boxes = [], found = null;
let opened = 0, request = new AbortController(), drag = null;

fetch("model").then((answer) => answer.json()).then((info) => {
  model = info;
  at("name").textContent = document.title = model.name;
  const [height, width] = model.input_hw;
  const parts = [model.net, `${model.keypoints.length} keypoints (${model.skeleton})`, `crops of ${width} x ${height}`];
  if (model.trained_on) parts.push(`trained on ${model.trained_on}`);
  at("about").textContent = parts.join(" · ");
  at("above").value = model.confident;
  showThreshold();
});

function showStatus(text, look = false) {
  at("status").textContent = text;
  at("status").className = look ? "look" : "soft";
}

// Send the image; return the response, or show the error and return null.
async function post(where, signal) {
  let answer;
  try {
    answer = await fetch(where, { method: "POST", body: file, signal });
    if (answer.ok) return answer;
  } catch (error) {
    if (error.name !== "AbortError") showStatus("the server does not answer", true);
    return null;
  }
  const refused = await answer.json().catch(() => null);
  showStatus(refused ? `${refused.error}: ${refused.where} (${refused.fix})` : `the server failed (${answer.status})`, true);
  return null;
}

async function open(chosen) {
  const mine = ++opened;
  request.abort();
  [file, bitmap, boxes, found] = [chosen, null, [], null];
  canvas.width = canvas.height = 0;
  canvas.style.width = "0";
  show();
  showStatus("opening …");
  // Show the image as the model receives it: as stored, without EXIF rotation.
  const response = await post("picture");
  const decoded = response && await createImageBitmap(await response.blob());
  if (mine !== opened || !decoded) return;  // another image has been opened meanwhile
  bitmap = decoded;
  at("hint").style.display = "none";
  fit();
  ask();
}

async function ask() {
  request.abort();  // for the previous boxes
  request = new AbortController();
  const { signal } = request;
  showStatus("looking …");
  show();
  const where = boxes.length ? `predict?boxes=${encodeURIComponent(JSON.stringify(boxes))}` : "predict";
  const answer = await post(where, signal);
  const result = answer && await answer.json().catch(() => null);
  if (!result || signal.aborted) return;
  found = result;
  const many = `${found.poses.length} ${found.poses.length === 1 ? "pose" : "poses"}`;
  showStatus(boxes.length ? many : `${many}, the whole image as its box`);
  show();
}

function show() {
  if (bitmap) paint(canvas.getContext("2d"), bitmap.width / canvas.getBoundingClientRect().width, drag && drag.box);
  at("undo").disabled = !boxes.length;
  at("whole").disabled = !bitmap;
  at("json").disabled = at("drawn").disabled = !found;
  if (model) list();
}

// Scale the canvas to the available room, at the resolution of the screen.
function fit() {
  if (!bitmap) return;
  const { width, height } = bitmap;
  let zoom = Math.min(at("stage").clientWidth / width, 0.78 * innerHeight / height, 4);
  zoom = Math.max(zoom, MIN_SHOWN / Math.min(width, height));  // a narrow image is scrolled
  const most = Math.max(1, Math.floor(MAX_CANVAS_SIDE / Math.max(width, height)));
  const fine = Math.min(Math.max(1, Math.ceil(zoom * devicePixelRatio)), most);
  [canvas.width, canvas.height] = [width * fine, height * fine];
  canvas.style.width = `${width * zoom}px`;
  canvas.getContext("2d").scale(fine, fine);
  show();
}

// `unit`: image pixels per screen pixel.
function paint(paper, unit, dragged) {
  const thick = 2.5 * unit, above = Number(at("above").value);
  paper.drawImage(bitmap, 0, 0);
  paper.lineCap = "round";
  for (const box of dragged ? [...boxes, dragged] : boxes) {
    paper.lineWidth = thick / 1.5;
    paper.strokeStyle = "rgba(255, 255, 255, .9)";
    paper.strokeRect(...box);
    paper.strokeStyle = "rgba(91, 111, 196, .9)";
    paper.setLineDash([4 * thick, 4 * thick]);
    paper.strokeRect(...box);
    paper.setLineDash([]);
  }
  for (const { points } of found ? found.poses : []) {
    paper.lineWidth = thick;
    model.bones.forEach(([one, other], bone) => {
      if (points[one][2] <= above || points[other][2] <= above) return;
      paper.strokeStyle = model.bone_colours[bone];
      paper.beginPath();
      paper.moveTo(points[one][0], points[one][1]);
      paper.lineTo(points[other][0], points[other][1]);
      paper.stroke();
    });
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

// List the keypoints of the last pose.
function list() {
  const above = Number(at("above").value), latest = found && found.poses.at(-1);
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

function endDrag(keep) {
  const ended = drag;
  drag = null;
  const least = bitmap && MIN_BOX * bitmap.width / canvas.getBoundingClientRect().width;
  if (!keep || !ended || !ended.box || Math.min(ended.box[2], ended.box[3]) < least) return show();  // ignore clicks
  boxes.push(ended.box.map((value) => Math.round(value * 10) / 10));
  ask();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!bitmap || event.button || drag) return;
  drag = { pointer: event.pointerId, start: place(event), box: null };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag || drag.pointer !== event.pointerId) return;
  const [x, y] = place(event), [left, top] = drag.start;
  drag.box = [Math.min(x, left), Math.min(y, top), Math.abs(x - left), Math.abs(y - top)];
  show();
});
canvas.addEventListener("pointerup", (event) => drag && drag.pointer === event.pointerId && endDrag(true));
canvas.addEventListener("pointercancel", () => endDrag(false));

function undo() {
  if (!boxes.pop()) return;
  found = null;
  ask();
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") endDrag(false);
  if (event.key === "Backspace" || event.key === "Delete") undo();
});
at("undo").addEventListener("click", undo);
at("whole").addEventListener("click", () => { boxes = []; found = null; ask(); });

function showThreshold() {
  at("value").textContent = Number(at("above").value).toFixed(2);
  show();
}
at("above").addEventListener("input", showThreshold);

function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${(file.name || "picture").replace(/\.\w+$/, "")}.poses.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
at("json").addEventListener("click", () => save(new Blob([JSON.stringify(found, null, 1)], { type: "application/json" }), "json"));
at("drawn").addEventListener("click", () => {
  const own = document.createElement("canvas");  // in the size of the image
  [own.width, own.height] = [bitmap.width, bitmap.height];
  paint(own.getContext("2d"), Math.max(own.width, own.height) / 1000, null);
  own.toBlob((blob) => save(blob, "png"));
});

at("file").addEventListener("change", (event) => {
  if (event.target.files[0]) open(event.target.files[0]);
  event.target.value = "";  // so that the same file can be chosen again
});
document.addEventListener("dragover", (event) => { event.preventDefault(); at("stage").classList.add("over"); });
document.addEventListener("dragleave", () => at("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("stage").classList.remove("over");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const pasted = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (pasted) open(pasted);
});
window.addEventListener("resize", fit);
let room = 0;
new ResizeObserver(() => {  // the width of the table depends on its numbers
  if (at("stage").clientWidth !== room) fit();
  room = at("stage").clientWidth;
}).observe(at("stage"));
