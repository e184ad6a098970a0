// The names at the left: a tree for the eye, the keyboard and the screen reader. Only the rows that are seen have elements.

class Tree {
  constructor(app, container) {
    this.app = app;
    this.container = container;
    this.elements = new Map();
    container.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (!row) return;
      const index = Number(row.dataset.row);
      const { rows } = app;
      if (event.target.closest(".twist") || (rows.kinds[index] !== Row.TASK && rows.canOpen(index))) app.setOpen(index, !rows.isOpen(index));
      app.goToRow(index);
      app.openRow(index);
    });
    container.addEventListener("dblclick", (event) => {
      const row = event.target.closest(".row");
      if (row) app.zoomToRow(Number(row.dataset.row));
    });
  }

  /** Makes the elements of the rows [first, last) what they should be. */
  show(first, last, scrolled, rowHeight) {
    const { app, elements } = this;
    for (const [row, made] of elements) {
      if (row >= first && row < last) continue;
      made.element.remove();
      elements.delete(row);
    }
    for (let row = first; row < last; row++) {
      let made = elements.get(row);
      if (!made) {
        made = this.make(row, rowHeight);
        elements.set(row, made);
        this.container.append(made.element);
      }
      made.element.style.transform = `translateY(${row * rowHeight - scrolled}px)`;
      const current = row === app.currentRow;
      if (made.current !== current) {
        made.current = current;
        made.element.classList.toggle("current", current);
        made.element.setAttribute("aria-selected", String(current));
      }
      const task = app.rows.kinds[row] === Row.TASK ? app.rows.items[row] : NONE;
      const hit = task >= 0 && app.found !== null && app.found.has(task);
      if (made.hit !== hit) made.element.classList.toggle("hit", (made.hit = hit));
    }
    if (elements.has(app.currentRow)) this.container.setAttribute("aria-activedescendant", `row-${app.currentRow}`);
    else this.container.removeAttribute("aria-activedescendant");
  }

  /** All anew: the rows have changed. */
  clear() {
    this.elements.clear();
    this.container.replaceChildren();
  }

  make(row, rowHeight) {
    const { rows, model } = this.app;
    const { name, beside } = rows.label(row);
    const kind = rows.kinds[row];
    const canOpen = rows.canOpen(row);
    const open = canOpen && rows.isOpen(row);
    const bad = kind === Row.TASK && model.outcome[rows.items[row]] === RAISED;
    const task = kind === Row.TASK ? rows.items[row] : NONE;
    const made = element("div", {
      class: kind === Row.SECTION ? "row section" : "row",
      role: "treeitem",
      id: `row-${row}`,
      "data-row": row,
      "data-task": task >= 0 ? task : null,
      "aria-level": rows.depths[row] + 1,
      "aria-expanded": canOpen ? String(open) : null,
      "aria-label": `${name} ${beside}`,
      title: task >= 0 ? `${model.string(model.coro[task])} — ${model.string(model.name[task])}` : `${name} ${beside}`,
      style: { height: `${rowHeight}px`, "padding-left": `${6 + Math.min(rows.depths[row], 12) * 14}px` },
    },
      element("span", { class: "twist", "aria-hidden": "true" }, canOpen ? (open ? "▾" : "▸") : ""),
      name ? element("span", { class: "name" }, name) : null,
      element("span", { class: "beside" }, beside),
      bad ? element("span", { class: "bad", title: model.outcomeText(task) }, "!") : null);
    return { element: made, current: false, hit: false };
  }
}
