// What is shown and chosen, and the frame in which all of it is drawn.

const OVERVIEW_HEIGHT = 40;
const RULER_HEIGHT = 22;
/** Heights of a row, the first with which all rows fit is taken. */
const ROW_HEIGHTS = [46, 34, 26];

class App {
  constructor(record) {
    this.model = new Model(record);
    this.rows = new Rows(this.model);
    this.view = new View(this.model.duration, () => this.changed());
    this.search = new Search(this.model);
    const steps = criticalPath(this.model);
    this.path = { steps, ends: Float64Array.from(steps, (step) => step.end) };
    this.showsPath = true;
    this.selected = NONE;
    this.segment = NONE;
    /** Tasks that were chosen before. */
    this.before = [];
    this.found = null;
    this.foundAt = NONE;
    this.currentRow = NONE;
    /** The moment under the pointer, or null. */
    this.pointer = null;
    this.palette = null;
    this.frame = 0;
    this.painter = new Painter(this);
    this.scroller = byId("scroller");
    this.tree = new Tree(this, byId("tree"));
    this.story = new Story(this, byId("story"));
    this.summary = new Summary(this, byId("summary"));
    this.story.tell(NONE, NONE);
    this.writeHead();
    this.writeLegend();
    this.summary.write();
    this.scroller.addEventListener("scroll", () => this.changed(), { passive: true });
    new ResizeObserver(() => this.changed()).observe(this.scroller);
    this.chooseTheme(remembered("theme"));
  }

  writeHead() {
    const { head } = this.model;
    const program = head.program || "a program";
    byId("program").textContent = baseName(program);
    byId("program").title = program;
    byId("facts").textContent = [spanText(this.model.duration), plural(this.model.taskCount, "task"), head.python && `Python ${head.python}`, head.driver].filter(Boolean).join(" · ");
    byId("facts").title = byId("facts").textContent;
    if (head.dropped > 0) {
      const notice = byId("notice");
      const tasks = head.dropped_tasks > 0 ? ` and ${plural(head.dropped_tasks, "task")}` : "";
      const were = head.dropped === 1 && !tasks ? "was" : "were";
      notice.textContent = `${plural(head.dropped, "event")}${tasks} of the beginning ${were} dropped: the record's memory was full, and the oldest go first. What is shown begins after ${spanText(this.model.known)}.`;
      notice.hidden = false;
    }
  }

  /** Only the kinds that there are. */
  writeLegend() {
    const there = new Set(this.model.segmentKind);
    there.add(RUN);
    const colours = [["path", "critical path"]];
    if (this.model.slow.count > 0) colours.push(["slow", `callback ${this.model.threshold}`]);
    if (this.model.traffic.count > 0) colours.push(["in", "bytes in"], ["out", "bytes out"]);
    byId("legend").replaceChildren(
      ...[...there].sort((a, b) => a - b).map((kind) =>
        element("span", {}, element("canvas", { class: "swatch", "data-kind": kind, "aria-hidden": "true" }), KINDS[kind].label)),
      ...colours.map(([name, text]) => element("span", {}, element("i", { class: `swatch ${name}` }), text)));
  }

  paintLegend() {
    for (const canvas of document.querySelectorAll("canvas[data-kind]")) {
      const kind = Number(canvas.dataset.kind);
      const context = prepare(canvas, 22, 12);
      for (const fill of [this.palette.kinds[kind], this.palette.textures[kind]]) {
        if (!fill) continue;
        context.fillStyle = fill;
        context.fillRect(0, 0, 22, 12);
      }
    }
  }

  /** "light", "dark", or as the system has it. */
  chooseTheme(theme) {
    const dark = theme ? theme === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    this.palette = null;
    this.changed();
  }

  changed() {
    if (this.frame === 0) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  /** The height of a row: generous where there are few. */
  get rowHeight() {
    return ROW_HEIGHTS.find((height) => height * this.rows.count <= this.scroller.clientHeight) ?? ROW_HEIGHTS.at(-1);
  }

  draw() {
    const { view, rows, scroller } = this;
    const ratio = window.devicePixelRatio || 1;
    if (!this.palette || this.palette.ratio !== ratio) {
      this.palette = new Palette(ratio);
      this.palette.ratio = ratio;
      this.paintLegend();
    }
    const rowHeight = this.rowHeight;
    if (rowHeight !== this.drawnHeight) this.tree.clear();
    this.drawnHeight = rowHeight;
    const height = scroller.clientHeight;
    view.width = Math.max(50, scroller.clientWidth - byId("tree").offsetWidth);
    byId("spacer").style.height = `${Math.max(height, rows.count * rowHeight)}px`;
    byId("window").style.height = `${height}px`;
    const scrolled = Math.min(scroller.scrollTop, Math.max(0, rows.count * rowHeight - height));
    const first = Math.floor(scrolled / rowHeight);
    const last = Math.min(rows.count, Math.ceil((scrolled + height) / rowHeight));
    this.tree.show(first, last, scrolled, rowHeight);
    paintOverview(byId("overview"), this.model, view, this.palette, OVERVIEW_HEIGHT);
    paintRuler(byId("ruler"), view, this.palette, RULER_HEIGHT);
    this.painter.paint(byId("lanes"), first, last, scrolled, rowHeight, height);
    this.tellRange();
  }

  tellRange() {
    const { view } = this;
    const begin = Math.max(0, view.begin);
    const end = Math.min(view.duration, view.end);
    const step = axisStep(view.span, 100);
    const text = view.isWhole ? `all of ${spanText(view.duration)}` : `${spanText(end - begin)} from ${momentText(begin, step)}`;
    const range = byId("range");
    if (range.textContent !== text) range.textContent = text;
    byId("ruler").setAttribute("aria-label", `Time: ${text}`);
    const { dataset } = byId("lanes");
    dataset.begin = String(view.begin);
    dataset.end = String(view.end);
    byId("lanes").toggleAttribute("data-moving", view.isMoving);
  }

  // -- Choosing ---------------------------------------------------------------------------------------------------------------

  /** Chooses a task, or with -1 none, and one of its segments, and tells its story; `reveal` brings it into view. */
  select(task, segment = NONE, reveal = false) {
    if (task !== this.selected && this.selected >= 0) this.before.push(this.selected);
    this.choose(task, segment, reveal);
  }

  goBack() {
    if (this.before.length > 0) this.choose(this.before.pop(), NONE, true);
  }

  choose(task, segment, reveal) {
    this.selected = task;
    this.segment = segment;
    if (task < 0) this.before.length = 0;
    if (reveal && task >= 0) {
      if (this.rows.reveal(task)) this.tree.clear();
      const { model, view } = this;
      if (segment >= 0) view.reveal(model.segmentBegin[segment], model.segmentEnd[segment]);
      else view.reveal(model.begin[task], model.end[task]);
    }
    if (task >= 0) this.goToRow(this.rows.rowOf(task), reveal);
    this.story.tell(task, segment);
    this.showTab(task >= 0 ? "story" : "summary");
    this.changed();
  }

  showTab(name) {
    for (const other of ["summary", "story"]) {
      byId(other).hidden = other !== name;
      byId(`tab-${other}`).setAttribute("aria-selected", String(other === name));
      byId(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    }
  }

  goToRow(row, scroll = true) {
    if (row < 0 || row >= this.rows.count) return;
    this.currentRow = row;
    const { scroller, rowHeight } = this;
    const top = row * rowHeight;
    // The spacer has its height from the last frame, which may be of fewer rows.
    byId("spacer").style.height = `${Math.max(scroller.clientHeight, this.rows.count * rowHeight)}px`;
    if (scroll && (top < scroller.scrollTop || top + rowHeight > scroller.scrollTop + scroller.clientHeight)) {
      scroller.scrollTop = top - scroller.clientHeight / 2;
    }
    this.changed();
  }

  setOpen(row, open) {
    if (!this.rows.setOpen(row, open)) return false;
    this.tree.clear();
    this.changed();
    return true;
  }

  /** What a row is about: a task's story. In a lane, of the task in the middle of what is seen. */
  openRow(row) {
    const { rows } = this;
    const item = rows.items[row];
    if (rows.kinds[row] === Row.TASK) this.select(item);
    else if (rows.kinds[row] === Row.LANE) {
      const { tasks, begins } = rows.laneAt(row);
      const middle = Math.max(0, firstAbove(begins, (this.view.begin + this.view.end) / 2, 0, tasks.length) - 1);
      this.select(tasks[middle]);
    }
  }

  zoomToRow(row) {
    const { rows, model } = this;
    const item = rows.items[row];
    if (rows.kinds[row] === Row.TASK) this.view.focus(model.begin[item], model.end[item]);
    else if (rows.kinds[row] === Row.GROUP) this.view.focus(rows.groups[item].begins[0], rows.groups[item].ends.at(-1));
  }

  /** The task and the segment that are drawn at a place of the lanes. */
  at(x, y) {
    const { rows, view, model, scroller, rowHeight } = this;
    const row = Math.floor((y + scroller.scrollTop) / rowHeight);
    const nothing = { row: row < rows.count ? row : NONE, task: NONE, segment: NONE, slow: NONE };
    if (nothing.row < 0) return nothing;
    const near = 3 * view.pixel;
    const moment = view.moment(x);
    let task = NONE;
    if (rows.kinds[row] === Row.TASK) task = rows.items[row];
    else if (rows.kinds[row] === Row.LANE) {
      const { tasks, begins } = rows.laneAt(row);
      const at = firstAbove(begins, moment + near, 0, tasks.length) - 1;
      if (at >= 0) task = tasks[at];
    } else if (rows.kinds[row] === Row.SLOW) {
      const { slow } = model.loops[rows.items[row]];
      const at = firstAbove(slow.end, moment - near, 0, slow.count);
      return at < slow.count && slow.begin[at] <= moment + near ? { ...nothing, slow: slow.order[at] } : nothing;
    }
    if (task < 0 || model.begin[task] > moment + near || model.end[task] < moment - near) return nothing;
    return { row, task, segment: this.segmentAt(task, moment, near), slow: NONE };
  }

  /** What a task did at a moment. Runs are often narrower than the pointer is sure, so a run that is near is taken first. */
  segmentAt(task, moment, near) {
    const { model } = this;
    const last = model.first[task + 1];
    let best = NONE;
    for (let at = model.segmentFrom(task, moment - near), seen = 0; at < last && seen < 200; at++, seen++) {
      if (model.segmentBegin[at] > moment + near) break;
      const inside = model.segmentBegin[at] <= moment && moment <= model.segmentEnd[at];
      if (model.segmentKind[at] === RUN) return at;
      if (best < 0 || inside) best = at;
    }
    return best;
  }

  /** The segment before (-1) or after (+1) the chosen one. */
  stepSegment(by) {
    const { model, selected } = this;
    if (selected < 0) return;
    const first = model.first[selected];
    const last = model.first[selected + 1];
    if (first === last) return;
    const next = this.segment < 0 ? (by > 0 ? first : last - 1) : this.segment + by;
    if (next >= first && next < last) this.choose(selected, next, true);
  }

  // -- Search -----------------------------------------------------------------------------------------------------------------

  searchFor(text) {
    if (byId("search").value !== text) byId("search").value = text;
    this.found = this.search.find(text);
    this.foundAt = NONE;
    this.tellFound();
    this.changed();
  }

  tellFound() {
    const count = this.found?.tasks.length ?? 0;
    byId("found").textContent = this.found === null ? "" : this.foundAt < 0 ? countText(count) : `${countText(this.foundAt + 1)} of ${countText(count)}`;
  }

  /** Goes to the next task that was found, or with -1 to the one before. */
  nextFound(by) {
    const count = this.found?.tasks.length ?? 0;
    if (count === 0) return;
    this.foundAt = this.foundAt < 0 ? (by > 0 ? 0 : count - 1) : (this.foundAt + by + count) % count;
    this.tellFound();
    this.select(this.found.tasks[this.foundAt], NONE, true);
  }
}

/** What this page was told before; a page that is opened as a file may have no memory. */
function remembered(name) {
  try {
    return localStorage.getItem(`whilst-trace-${name}`);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`whilst-trace-${name}`, value);
  } catch {
    // Then it is forgotten.
  }
}
