// Keeps a page up to date while it can be seen. The parts that are marked `data-live` are fetched again: where the proxy
// tells its events, when something has changed, else every few seconds. What runs now is drawn by the events themselves.
// Without this a reload does the same.
"use strict";

const EVENTS = "/ccflare/api/v1/events";
const POLLED = 5000; // between two renewals where there are no events, in ms
const QUIET = 15000; // the same where there are, and nothing has happened
const CHANGED = 2000; // after a change, so that what has ended is in the record
const RETRY = 60000; // after the proxy has refused to tell its events

const open = new Map();
let events = null;
let isTold = false;
let isAsking = false;
let isDrawing = false;
let renewed = Date.now();
let changed = Infinity;
let refused = -Infinity;

// The parts

function isInUse(part) {
  const at = document.activeElement;
  return at !== null && at !== document.body && part.contains(at);
}

function isDrawnHere(part) {
  return isTold && part.contains(rows());
}

async function renew() {
  const parts = document.querySelectorAll("[data-live]");
  if (parts.length === 0 || isAsking) return;
  isAsking = true;
  renewed = Date.now();
  changed = Infinity;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts) {
      const fresh = page.getElementById(part.id);
      if (fresh !== null && !isInUse(part) && !isDrawnHere(part)) part.replaceChildren(...fresh.childNodes);
    }
  } catch {
    // The proxy is away: what is shown stays, and the next time tries again.
  } finally {
    isAsking = false;
  }
}

// What runs now

function rows() {
  return document.getElementById("running"); // on the first page alone
}

function count(number) {
  if (number === null) return "–";
  if (number < 1e5) return number.toLocaleString("en");
  if (number < 999500) return `${(number / 1e3).toFixed(0)}k`;
  return number < 999.5e6 ? `${(number / 1e6).toFixed(2)}M` : `${(number / 1e9).toFixed(2)}G`;
}

function duration(seconds) {
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [unit, name, rest] = whole < 3600 ? [60, "min", "s"] : [3600, "h", "min"];
  return `${Math.floor(whole / unit)} ${name} ${Math.floor((whole % unit) / (unit / 60))} ${rest}`;
}

function prompt(request) {
  const parts = [request.input_tokens, request.cache_read_tokens, request.cache_creation_tokens];
  return parts.every((part) => part === null) ? null : parts.reduce((sum, part) => sum + (part ?? 0), 0);
}

function row(request, now) {
  const about = request.estimated ? "~" : "";
  const texts = [
    request.account ?? "waits",
    (request.model ?? "").replace(/^claude-/, "") || request.path,
    request.client_name ?? request.client,
    request.project ?? "–",
  ];
  const numbers = [
    duration((now - request.begun) / 1000),
    count(prompt(request)),
    `${about}${count(request.output_tokens)}`,
  ];
  const line = document.createElement("tr");
  for (const text of [...texts, ...numbers]) line.insertCell().textContent = text;
  for (const cell of [...line.cells].slice(texts.length)) cell.className = "n";
  if (request.proxy !== null && request.proxy !== rows().dataset.proxy) {
    const tag = document.createElement("span");
    tag.className = "tag";
    tag.textContent = request.proxy;
    line.cells[0].append(" ", tag);
  }
  return line;
}

function nothing() {
  const line = document.createElement("tr");
  const cell = line.insertCell();
  cell.colSpan = 7;
  cell.className = "empty";
  cell.textContent = "Nothing.";
  return line;
}

function draw() {
  isDrawing = false;
  if (!isTold || rows() === null) return;
  const latestFirst = [...open.values()].sort((one, other) => other.begun - one.begun);
  rows().replaceChildren(...(latestFirst.length ? latestFirst.map((each) => row(each, Date.now())) : [nothing()]));
}

function drawSoon() {
  if (!isDrawing) requestAnimationFrame(draw);
  isDrawing = true;
}

// The events

function runs(event) {
  const request = JSON.parse(event.data);
  const begun = open.get(request.id)?.begun ?? Date.now() - request.seconds * 1000; // by this machine's clock
  open.set(request.id, { ...request, begun });
  drawSoon();
}

function ended(event) {
  open.delete(JSON.parse(event.data).id);
  drawSoon();
  note();
}

function note() {
  changed = Math.min(changed, Date.now() + CHANGED);
}

function begin() {
  isTold = true;
  open.clear();
  drawSoon();
}

function broken() {
  isTold = false; // the browser asks again by itself, unless it was refused
  if (events.readyState === EventSource.CLOSED) {
    events = null;
    refused = Date.now();
  }
}

function listen() {
  if (rows() === null || events !== null || Date.now() - refused < RETRY || !("EventSource" in window)) return;
  events = new EventSource(EVENTS);
  // A browser's own event has no data; it has the same name as ours when the connection opens.
  events.addEventListener("open", (event) => (event.data === undefined ? begin() : runs(event)));
  events.addEventListener("progress", runs);
  events.addEventListener("closed", ended);
  events.addEventListener("accounts", note);
  events.addEventListener("error", broken);
}

function leave() {
  if (events !== null) events.close();
  events = null;
  isTold = false;
}

function look() {
  if (document.hidden) {
    leave();
    return;
  }
  listen();
  if (open.size > 0) drawSoon();
  if (Date.now() >= Math.min(changed, renewed + (isTold ? QUIET : POLLED))) renew();
}

document.addEventListener("visibilitychange", look);
setInterval(look, 1000);
look();
