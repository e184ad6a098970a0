// Mouse, touch and keys.

/** Zooms by so much for a key or a button. */
const STEP = 0.6;

function listenToPointer(app) {
  const lanes = byId("lanes");
  const pointers = new Map();
  let drag = null;
  const xOf = (event) => event.clientX - lanes.getBoundingClientRect().left;
  const yOf = (event) => event.clientY - lanes.getBoundingClientRect().top;

  lanes.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, event);
    lanes.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, begin: app.view.begin, end: app.view.end, top: app.scroller.scrollTop, moved: false, range: event.shiftKey ? app.view.moment(xOf(event)) : null };
  });
  lanes.addEventListener("pointermove", (event) => {
    const { view } = app;
    app.pointer = view.moment(xOf(event));
    app.changed();
    if (pointers.size === 2 && pointers.has(event.pointerId)) {
      pinch(event);
      return;
    }
    if (!drag) {
      showTip(app, app.at(xOf(event), yOf(event)), event);
      return;
    }
    const across = event.clientX - drag.x;
    const down = event.clientY - drag.y;
    if (!drag.moved && Math.hypot(across, down) < 4) return;
    drag.moved = true;
    hideTip();
    if (drag.range !== null) return;
    lanes.classList.add("dragging");
    const by = (-across / view.width) * (drag.end - drag.begin);
    view.show(drag.begin + by, drag.end + by);
    if (event.pointerType === "mouse") app.scroller.scrollTop = drag.top - down;
  });
  const up = (event) => {
    pointers.delete(event.pointerId);
    lanes.classList.remove("dragging");
    const ended = drag;
    drag = null;
    if (!ended || event.type === "pointercancel") return;
    if (ended.moved && ended.range !== null) {
      const to = app.view.moment(xOf(event));
      app.view.glide(Math.min(ended.range, to), Math.max(ended.range, to));
    } else if (!ended.moved) {
      pick(app.at(xOf(event), yOf(event)));
    }
  };
  lanes.addEventListener("pointerup", up);
  lanes.addEventListener("pointercancel", up);
  lanes.addEventListener("pointerleave", () => {
    app.pointer = null;
    hideTip();
    app.changed();
  });
  lanes.addEventListener("dblclick", (event) => {
    const { task, row } = app.at(xOf(event), yOf(event));
    if (task >= 0) app.view.focus(app.model.begin[task], app.model.end[task]);
    else if (row >= 0) app.zoomToRow(row);
  });

  function pick({ task, segment, row }) {
    if (task >= 0) app.select(task, segment);
    else if (row >= 0 && app.rows.kinds[row] === Row.GROUP) {
      app.setOpen(row, !app.rows.isOpen(row));
      app.goToRow(row);
    } else app.select(NONE);
  }

  /** Two fingers: the moments under them stay under them. */
  function pinch(event) {
    const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    const before = pointers.get(event.pointerId);
    const distance = (a, b) => Math.max(10, Math.abs(a.clientX - b.clientX));
    app.view.zoom(distance(before, other) / distance(event, other), app.view.moment(xOf(other)), false);
    pointers.set(event.pointerId, event);
    drag = null;
  }

  byId("window").addEventListener("wheel", (event) => {
    // Trackpads report a pinch as a wheel with Ctrl.
    const { view } = app;
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const turn = Math.max(-120, Math.min(120, event.deltaY * lines));
      view.zoom(Math.exp(turn * 0.004), view.moment(Math.max(0, xOf(event))), false);
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      view.pan((event.deltaX || event.deltaY) * lines * view.pixel, false);
    }
  }, { passive: false });
}

function showTip(app, { task, segment, slow }, event) {
  const tip = byId("tip");
  if (task < 0 && slow < 0) {
    hideTip();
    return;
  }
  if (task >= 0) tip.replaceChildren(...tipOf(app, task, segment).filter(Boolean));
  else {
    const { model } = app;
    const parts = [element("b", {}, model.string(model.slow.name[slow])), element("div", {}, `held the loop for ${spanText(model.slow.end[slow] - model.slow.begin[slow])}`)];
    tip.replaceChildren(...[...parts, ...placeElements(model.placeAt(model.slow.place[slow]))].filter(Boolean));
  }
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

/** The strip at the top: a drag chooses a span, a click moves what is seen there. */
function listenToOverview(app) {
  const overview = byId("overview");
  const momentOf = (event) => {
    const box = overview.getBoundingClientRect();
    const { duration, margin } = app.view;
    return -margin + ((event.clientX - box.left) / box.width) * (duration + 2 * margin);
  };
  let from = null;
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    from = { moment: momentOf(event), x: event.clientX };
  });
  overview.addEventListener("pointermove", (event) => {
    if (!from || Math.abs(event.clientX - from.x) < 4) return;
    const to = momentOf(event);
    app.view.show(Math.min(from.moment, to), Math.max(from.moment, to));
  });
  overview.addEventListener("pointerup", (event) => {
    if (from && Math.abs(event.clientX - from.x) < 4) app.view.glide(from.moment - app.view.span / 2, from.moment + app.view.span / 2);
    from = null;
  });
  overview.addEventListener("dblclick", () => app.view.fit());
}

/** The width of the names. */
function listenToDivider(app) {
  const divider = byId("divider");
  const setWidth = (width) => {
    const most = Math.max(160, window.innerWidth * 0.5);
    const set = Math.round(Math.min(most, Math.max(90, width)));
    document.documentElement.style.setProperty("--names", `${set}px`);
    divider.setAttribute("aria-valuenow", String(set));
    app.changed();
  };
  setWidth(window.innerWidth < 700 ? 120 : 250);
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => {
    if (divider.hasPointerCapture(event.pointerId)) setWidth(event.clientX - byId("scroller").getBoundingClientRect().left);
  });
  divider.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -16, ArrowRight: 16 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    setWidth(byId("tree").offsetWidth + by);
  });
}

function listenToButtons(app) {
  const { view } = app;
  byId("zoom-in").addEventListener("click", () => view.zoom(STEP));
  byId("zoom-out").addEventListener("click", () => view.zoom(1 / STEP));
  byId("fit").addEventListener("click", () => view.fit());
  byId("path-toggle").addEventListener("click", () => togglePath(app));
  byId("panel-toggle").addEventListener("click", () => togglePanel(app));
  byId("theme").addEventListener("click", () => toggleTheme(app));
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  for (const name of ["summary", "story"]) byId(`tab-${name}`).addEventListener("click", () => app.showTab(name));
  byId("tab-summary").parentElement.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    event.stopPropagation();
    const other = byId("summary").hidden ? "summary" : "story";
    app.showTab(other);
    byId(`tab-${other}`).focus();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => app.chooseTheme(remembered("theme")));

  const search = byId("search");
  search.addEventListener("input", () => app.searchFor(search.value));
  search.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") {
      event.preventDefault();
      app.nextFound(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") {
      event.preventDefault();
      app.searchFor("");
      byId("lanes").focus();
    }
  });
}

function toggle(button) {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  return pressed;
}

function togglePath(app) {
  app.showsPath = toggle(byId("path-toggle"));
  app.changed();
}

function togglePanel(app) {
  byId("panel").hidden = !toggle(byId("panel-toggle"));
  app.changed();
}

function toggleTheme(app) {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("theme", theme);
  app.chooseTheme(theme);
}

/** Keys hold for the page but for fields and dialogs; in the tree the arrows across open and close. */
function listenToKeys(app) {
  const { view } = app;
  const inTree = () => document.activeElement === byId("tree");
  const moveRow = (by) => {
    app.goToRow(Math.max(0, Math.min(app.rows.count - 1, app.currentRow + by)));
  };
  const across = (by) => {
    if (!inTree()) view.pan(by * view.span * 0.25);
    else if (by > 0) app.setOpen(app.currentRow, true) || moveRow(app.rows.canOpen(app.currentRow) ? 1 : 0);
    else if (!app.setOpen(app.currentRow, false)) app.goToRow(app.rows.above(app.currentRow));
  };
  const rowsSeen = () => Math.max(1, Math.floor(app.scroller.clientHeight / app.rowHeight) - 1);
  const keys = {
    "+": () => view.zoom(STEP),
    "=": () => view.zoom(STEP),
    w: () => view.zoom(STEP),
    "-": () => view.zoom(1 / STEP),
    s: () => view.zoom(1 / STEP),
    a: () => view.pan(-view.span * 0.25),
    d: () => view.pan(view.span * 0.25),
    ArrowLeft: () => across(-1),
    ArrowRight: () => across(1),
    ArrowUp: () => moveRow(-1),
    ArrowDown: () => moveRow(1),
    PageUp: () => moveRow(-rowsSeen()),
    PageDown: () => moveRow(rowsSeen()),
    0: () => view.fit(),
    Home: () => view.fit(),
    ",": () => app.stepSegment(-1),
    ".": () => app.stepSegment(1),
    f: () => app.selected >= 0 && view.focus(app.model.begin[app.selected], app.model.end[app.selected]),
    c: () => togglePath(app),
    i: () => togglePanel(app),
    t: () => toggleTheme(app),
    Backspace: () => app.goBack(),
    Escape: () => app.select(NONE),
    "/": () => byId("search").select(),
    "?": () => byId("help").showModal(),
    Enter: () => {
      if (app.rows.kinds[app.currentRow] === Row.TASK || app.rows.kinds[app.currentRow] === Row.LANE) app.openRow(app.currentRow);
      else app.setOpen(app.currentRow, !app.rows.isOpen(app.currentRow));
    },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const on = event.target;
    // A button has Enter for itself, and a text that scrolls its keys.
    if (on.closest("button, summary") && event.key === "Enter") return;
    if (on.closest("[role=tabpanel]") && /^(Arrow(Up|Down)|Page|Home)/.test(event.key)) return;
    const act = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
