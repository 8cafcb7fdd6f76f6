// What a page owes to people who use a keyboard, a screen reader or tired eyes.

/** The least contrast of text, by WCAG 2.2, 1.4.3. */
const CONTRAST = 4.5;
const CONTROLS = ["button", "checkbox", "combobox", "link", "listbox", "slider", "spinbutton", "textbox"];

/** In the page: the contrast of every piece of text that is seen, as `[contrast, what]`. */
function contrasts() {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const isSeen = (e) => e.checkVisibility() && !e.closest(".unseen");
  const hasText = (e) => e.matches("input, textarea") || [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== "");
  const behind = (e) => {
    const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
    return a === 0 ? behind(e.parentElement) : [r, g, b];
  };
  const measure = (e, style, what) => {
    const [r, g, b, a = 1] = numbers(style.backgroundColor);
    const [text, back] = [luminance(numbers(style.color)), luminance(a === 0 ? behind(e) : [r, g, b])];
    // What is half transparent has no contrast that could be told from these two colours.
    const isPlain = style.opacity === "1" && [0, 1].includes(a);
    return [isPlain ? (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05) : 0, what];
  };
  const seen = [...document.body.querySelectorAll("*")].filter((e) => e.localName !== "script" && isSeen(e) && hasText(e));
  const measured = seen.map((e) => measure(e, getComputedStyle(e), `${e.localName} ${e.id || e.textContent.trim().slice(0, 30)}`));
  const file = document.querySelector("#file");
  return [...measured, measure(file, getComputedStyle(file, "::file-selector-button"), "the button of the file")];
}

/** Fails when a text of the page is too faint in this scheme; gives how many were measured, and the least contrast. */
export async function contrast(page, scheme) {
  await page.scheme(scheme);
  const measured = await page.value(`(${contrasts})()`);
  const faint = measured.filter(([ratio]) => !(ratio >= CONTRAST));
  if (measured.length < 20 || faint.length > 0) {
    throw new Error(`${scheme}: ${measured.length} texts, too faint: ${JSON.stringify(faint)}`);
  }
  return `${scheme}: ${measured.length} texts, contrast at least ${Math.min(...measured.map(([ratio]) => ratio)).toFixed(2)}`;
}

/** Fails when a control has no name for a screen reader, or a control is not told of at all. */
export async function names(page) {
  await page.call("Accessibility.enable");
  const { nodes } = await page.call("Accessibility.getFullAXTree");
  const controls = nodes.filter(({ ignored, role }) => !ignored && CONTROLS.includes(role?.value));
  const nameless = controls.filter(({ name }) => !name?.value?.trim());
  const n = await page.value(`document.querySelectorAll("input, textarea, button").length`);
  if (nameless.length > 0 || controls.length < n) {
    throw new Error(`${controls.length} of ${n} controls are told of; without a name: ${JSON.stringify(nameless.map(({ role }) => role.value))}`);
  }
  const regions = nodes.filter(({ ignored, role }) => !ignored && ["status", "region", "main", "heading"].includes(role?.value));
  return `${controls.length} controls with names, ${regions.length} landmarks, headings and states`;
}

/** Fails when Tab does not visit every control once, in the order of the page and from top to bottom in each column, with a ring. */
export async function tabs(page) {
  const label = `(e => e.id || e.ariaLabel)`;
  const wanted = await page.value(`[...document.querySelectorAll("input, textarea, button")].filter(e => !e.disabled).map(${label})`);
  // Tab goes on from where the last click was.
  await page.click("h1");
  const visited = [];
  let top = -Infinity;
  for (let i = 0; i < wanted.length; i++) {
    await page.press("Tab", "Tab", 9);
    const [name, ring, y, column] = await page.value(`(e => [${label}(e), getComputedStyle(e).outlineStyle, e.getBoundingClientRect().bottom + scrollY,
      [...document.querySelectorAll(".column")].findIndex(c => c.contains(e))])(document.activeElement)`);
    visited.push(name);
    top = visited.length > 1 && column !== top.column ? { column, y: -Infinity } : { column, y: top.y ?? -Infinity };
    // Controls of one row may differ by a few pixels.
    if (ring === "none" || y < top.y - 60) {
      throw new Error(`after ${visited}, ${name}: ${ring === "none" ? "no ring around it" : "above the control before it"}`);
    }
    top.y = y;
  }
  if (visited.join() !== wanted.join()) {
    throw new Error(`Tab went ${visited}, not ${wanted}`);
  }
  return `Tab visits ${visited.length} controls in their order`;
}
