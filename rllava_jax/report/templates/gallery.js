"use strict";
// The filters of the gallery. They stand in the address (#family=identify&right=wrong&sort=id), so that a view can be
// linked and printed. Without this script the page shows every card, the worst first.
(() => {
  const form = document.getElementById("filters");
  const list = document.getElementById("cards");
  if (!form || !list) return;
  const cards = [...list.children].map((element, place) => ({
    element, place, text: element.textContent.toLowerCase(), values: JSON.parse(element.dataset.values),
  }));
  const fields = [...form.elements].filter((field) => field.name);
  const orders = {
    "": (a, b) => a.place - b.place,
    sure: (a, b) => b.values.confidence - a.values.confidence || a.place - b.place,
    unsure: (a, b) => a.values.confidence - b.values.confidence || a.place - b.place,
    id: (a, b) => a.values.id.localeCompare(b.values.id, "en", { numeric: true }),
  };

  function matches(card) {
    return fields.every(({ name, value }) => {
      if (!value || name === "sort") return true;
      if (name === "q") return card.text.includes(value.trim().toLowerCase());
      return card.values[name] === value;
    });
  }

  function show() {
    for (const card of cards) card.element.hidden = !matches(card);
    const count = cards.filter((card) => !card.element.hidden).length;
    const order = orders[form.elements.sort.value];
    list.append(...[...cards].sort(order).map((card) => card.element));
    document.getElementById("shown").textContent =
      count ? `${count} of ${cards.length} examples` : `none of ${cards.length} examples; clear a filter`;
  }

  function read() {
    const address = location.hash.slice(1);
    if (address && !address.includes("=")) return; // a place on the page, not a choice of cards
    const given = new URLSearchParams(address);
    for (const field of fields) {
      field.value = given.get(field.name) ?? "";
      if (field.value === "" && field.options) field.selectedIndex = 0; // a value that is no option of this page
    }
    show();
  }

  function write() {
    const chosen = new URLSearchParams(fields.filter((f) => f.value).map((f) => [f.name, f.value]));
    history.replaceState(null, "", `${location.pathname}${location.search}${chosen.size ? `#${chosen}` : ""}`);
    show();
  }

  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(write)); // after the fields are empty
  addEventListener("hashchange", read);
  form.hidden = false;
  show();
  read();
})();
