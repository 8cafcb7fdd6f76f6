// How things are shown: bytes, the plan and its map, the models that are here.

/** An element with properties and children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A number of bytes for people. */
export function inWords(n) {
  const [unit, shift] = n < 1 << 20 ? ["KiB", 10] : n < 2 ** 30 ? ["MiB", 20] : ["GiB", 30];
  return n < 1024 ? `${n} B` : `${(n / 2 ** shift).toFixed(shift === 10 ? 1 : 2)} ${unit}`;
}

/** The same with the exact number behind it. */
export function bytes(n) {
  return make("data", { value: String(n), title: `${n} bytes` }, inWords(n));
}

/** A colour for each span: hues that are far from the one before, by the golden angle. */
function colour(i) {
  return `hsl(${(205 + i * 137.5) % 360} 48% var(--light))`;
}

function showMap(map, label, spans) {
  map.replaceChildren(...spans.map(({ name, bytes: n, part }) => {
    const share = make("div", { title: `${name}: ${inWords(n)}` });
    share.style.setProperty("--part", part);
    share.style.flex = String(n);
    return share;
  }));
  map.setAttribute("aria-label", `${label}: ${spans.map(({ name, bytes: n }) => `${name} ${inWords(n)}`).join(", ")}`);
}

/** The plan: its sum, two maps, and a row for each span. */
export function showPlan(plan) {
  const spans = plan.spans.map((span, i) => ({ ...span, part: colour(i) }));
  const rows = spans.map(({ name, bytes: n, part }) => {
    const row = make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, bytes(n)));
    row.style.setProperty("--part", part);
    return row;
  });
  rows.push(make("tr", { className: "sum" }, make("th", { scope: "row" }, "in all"), make("td", {}, bytes(plan.totalBytes))));
  document.querySelector("#plan").replaceChildren(...rows);
  document.querySelector("#total").replaceChildren("This model takes ", bytes(plan.totalBytes), ", itself included.");
  showMap(document.querySelector("#map"), "Shares of the memory", spans);
  showMap(document.querySelector("#rest"), "Shares of what is not the model", spans.filter(({ name }) => name !== "model"));
}

/** The models that are here: each can be opened, each that is kept can be removed. */
export function showModels(list, kept, current, { open, remove }) {
  const rows = [{ name: "" }, ...kept].map((model) => {
    const title = model.name || "The built-in model";
    const name = make("span", { className: "name" }, title);
    if (model.bytes !== undefined) {
      name.append(" ", make("small", {}, inWords(model.bytes)));
    }
    const row = make("li", {}, name, make("button", { type: "button", onclick: () => open(model.name), ariaLabel: `Open ${title}` }, "Open"));
    if (model.name) {
      row.append(make("button", { type: "button", onclick: () => remove(model.name), ariaLabel: `Remove ${title}` }, "Remove"));
    }
    if (model.name === current) {
      row.setAttribute("aria-current", "true");
    }
    return row;
  });
  const focused = list.contains(document.activeElement) ? document.activeElement.ariaLabel : undefined;
  list.replaceChildren(...rows);
  // The keyboard's place is kept; where its button is gone, it is the first one's.
  const buttons = [...list.querySelectorAll("button")];
  if (focused) {
    (buttons.find((button) => button.ariaLabel === focused) ?? buttons[0]).focus();
  }
}
