"use strict";
// Each place that names a stream shows its latest piece; a page whose stream has ended is read anew.
// What was focused or scrolled in a piece stays so in the next.
const named = (one) => one.getAttribute("href") ?? one.getAttribute("aria-labelledby");
for (const place of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(place.dataset.live);
  source.addEventListener("piece", (event) => {
    const parsed = new DOMParser().parseFromString(event.data, "text/html");
    const focused = place.contains(document.activeElement) ? named(document.activeElement) : null;
    const scrolled = new Map([...place.querySelectorAll(".scroll")].map((one) => [named(one), one.scrollLeft]));
    place.replaceChildren(...parsed.body.childNodes);
    for (const one of place.querySelectorAll(".scroll")) one.scrollLeft = scrolled.get(named(one)) ?? 0;
    if (focused) {
      const same = [...place.querySelectorAll("a, .scroll")].find((one) => named(one) === focused);
      same?.focus({ preventScroll: true });
    }
  });
  source.addEventListener("end", () => {
    source.close();
    location.reload();
  });
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return;
    const words = document.createElement("p");
    words.className = "note";
    words.setAttribute("role", "status");
    words.textContent = "This is no longer shown live. Load the page again to go on.";
    place.before(words);
  });
}
