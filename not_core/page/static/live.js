"use strict";
// Each place that names a stream shows its latest piece; a page whose stream has ended is read anew.
for (const place of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(place.dataset.live);
  source.addEventListener("piece", (event) => {
    const parsed = new DOMParser().parseFromString(event.data, "text/html");
    place.replaceChildren(...parsed.body.childNodes);
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
