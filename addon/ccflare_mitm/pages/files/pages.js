// Renews the parts of a page that are marked `data-live` while the page can be seen. Without it a reload does the same.
"use strict";

const PAUSE = 5000;
let isAsking = false;

function isInUse(part) {
  const at = document.activeElement;
  return at !== null && at !== document.body && part.contains(at);
}

async function renew() {
  const parts = document.querySelectorAll("[data-live]");
  if (parts.length === 0 || document.hidden || isAsking) return;
  isAsking = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of parts) {
      const renewed = page.getElementById(part.id);
      if (renewed !== null && !isInUse(part)) part.replaceChildren(...renewed.childNodes);
    }
  } catch {
    // The proxy is away: what is shown stays, and the next time tries again.
  } finally {
    isAsking = false;
  }
}

setInterval(renew, PAUSE);
