// Drawing. Everything is drawn anew for each frame, but only the rows and the time that are seen, and never more than a pixel holds:
// what is narrower than a pixel is skipped by bisection, and the share of running in it is a subtraction.

const BAR_FONT = '11px system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif';

/** The colours of page.css and the textures, as a canvas needs them. Made anew when the scheme changes. */
class Palette {
  constructor(ratio) {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const names = ["ground", "stripe", "line", "text", "faint", "life", "accent", "path", "hold", "raised", "bytes-in", "bytes-out", "load", "on-run", "on-ready"];
    for (const name of names) this[name.replace(/-(.)/g, (_, letter) => letter.toUpperCase())] = read(`--${name}`);
    const other = read("--kind-future");
    this.kinds = KINDS.map((kind) => read(`--kind-${kind.name}`) || other);
    this.unknown = texture("rising", read("--texture"), ratio);
    this.textures = KINDS.map((kind) => texture(kind.texture, read("--texture"), ratio));
  }
}

/** A repeating 8 by 8 pattern, or null for none. */
function texture(name, colour, ratio) {
  const lines = {
    rising: [[0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6]],
    falling: [[0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]],
    cross: [[0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6], [0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]],
    upright: [[2, 0, 2, 8], [6, 0, 6, 8]],
    level: [[0, 2, 8, 2], [0, 6, 8, 6]],
    grid: [[0, 4, 8, 4], [4, 0, 4, 8]],
    dense: [[1, 0, 1, 8], [3, 0, 3, 8], [5, 0, 5, 8], [7, 0, 7, 8]],
    dots: [[1, 2, 3, 2], [5, 6, 7, 6]],
    sparse: [[3, 4, 5, 4]],
  }[name];
  if (!lines) return null;
  const tile = document.createElement("canvas");
  tile.width = tile.height = Math.round(8 * ratio);
  const context = tile.getContext("2d");
  context.scale(tile.width / 8, tile.width / 8);
  context.strokeStyle = colour;
  context.lineWidth = 1;
  for (const [x1, y1, x2, y2] of lines) {
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
    context.stroke();
  }
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}

/** Gives a canvas as many pixels as its place on the screen has, and a context that draws in CSS pixels. */
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const across = Math.max(1, Math.round(width * ratio));
  const down = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** The axis: marks where the time is round, their times above. */
function axisMarks(view) {
  const step = axisStep(view.span, Math.max(2, view.width / 110));
  const marks = [];
  for (let index = Math.ceil(Math.max(0, view.begin) / step); index * step <= Math.min(view.end, view.duration); index++) {
    marks.push(index * step);
  }
  return { step, marks };
}

function paintRuler(canvas, view, palette, height) {
  const context = prepare(canvas, view.width, height);
  context.font = BAR_FONT;
  context.fillStyle = palette.faint;
  context.textBaseline = "middle";
  const { step, marks } = axisMarks(view);
  for (const mark of marks) {
    const x = Math.round(view.x(mark));
    context.fillRect(x, height - 5, 1, 5);
    const text = momentText(mark, step);
    const width = context.measureText(text).width;
    context.fillText(text, Math.min(Math.max(x + 4, 0), view.width - width - 2), height / 2);
  }
}

/** All of the record: how many tasks live, the loop's load before them, long callbacks at the top, and what part is seen below. */
function paintOverview(canvas, model, view, palette, height) {
  const context = prepare(canvas, view.width, height);
  const whole = new View(model.duration, () => {});
  whole.width = view.width;
  paintAlive(context, model, whole, palette, 2, height - 3);
  paintLoad(context, model, whole, palette, 2, height - 3);
  context.fillStyle = palette.unknown;
  if (model.known > 0) context.fillRect(whole.x(0), 0, whole.x(model.known) - whole.x(0), height);
  context.fillStyle = palette.hold;
  for (const { slow } of model.loops) {
    let at = 0;
    while (at < slow.count) {
      const x = whole.x(slow.begin[at]);
      context.fillRect(x, 0, Math.max(2, whole.x(slow.end[at]) - x), 4);
      at = Math.max(at + 1, firstAbove(slow.end, whole.moment(x + 1), at, slow.count));
    }
  }
  const from = whole.x(view.begin);
  const to = whole.x(view.end);
  if (view.isWhole) return;
  context.fillStyle = palette.ground;
  context.globalAlpha = 0.7;
  context.fillRect(0, 0, from, height);
  context.fillRect(to, 0, view.width - to, height);
  context.globalAlpha = 1;
  context.strokeStyle = palette.accent;
  context.lineWidth = 1.5;
  const least = Math.max(to - from, 3);
  context.strokeRect(Math.min(from + 0.75, view.width - least), 0.75, least - 1.5, height - 1.5);
}

function paintAlive(context, model, view, palette, top, height) {
  context.fillStyle = palette.life;
  context.globalAlpha = 0.55;
  const scale = height / Math.max(1, model.peak);
  const to = Math.min(view.width, Math.ceil(view.x(model.duration)));
  for (let x = Math.max(0, Math.floor(view.x(0))); x < to; x++) {
    const high = countAlive(model.begins, model.ends, view.moment(x), view.moment(x + 1)) * scale;
    context.fillRect(x, top + height - high, 1, high);
  }
  context.globalAlpha = 1;
}

/** The load of a loop, or of the busiest of a model's. */
function paintLoad(context, loops, view, palette, top, height) {
  context.fillStyle = palette.load;
  const from = Math.max(0, Math.floor(view.x(0)));
  const to = Math.min(view.width, Math.ceil(view.x(view.duration)));
  for (let x = from; x < to; x++) {
    const begin = Math.max(0, view.moment(x));
    const load = loops.load(begin, Math.min(view.duration, view.moment(x + 1)));
    // What is not nothing must be seen.
    const high = load > 0 ? Math.max(1.5, load * height) : 0;
    context.fillRect(x, top + height - high, 1, high);
  }
}

class Painter {
  /** @param app what is shown: model, rows, view, selection, path, found, palette */
  constructor(app) {
    this.app = app;
    this.runs = [];
  }

  paint(canvas, firstRow, lastRow, scrolled, rowHeight, height) {
    const { app } = this;
    const { view, rows, palette } = app;
    const context = prepare(canvas, view.width, height);
    this.context = context;
    context.font = BAR_FONT;
    context.textBaseline = "middle";
    const bottom = Math.min(height, rows.count * rowHeight - scrolled);
    this.paintGround(bottom);
    for (let row = firstRow; row < lastRow; row++) {
      this.paintRow(row, row * rowHeight - scrolled, rowHeight);
    }
    if (app.showsPath) this.paintPath(firstRow, lastRow, scrolled, rowHeight);
    this.paintLinks(scrolled, rowHeight);
    if (app.pointer !== null) {
      context.fillStyle = palette.faint;
      context.globalAlpha = 0.5;
      context.fillRect(Math.round(view.x(app.pointer)), 0, 1, bottom);
      context.globalAlpha = 1;
    }
  }

  paintGround(bottom) {
    const { context } = this;
    const { view, palette, model } = this.app;
    context.fillStyle = palette.line;
    for (const mark of axisMarks(view).marks) context.fillRect(Math.round(view.x(mark)), 0, 1, bottom);
    // Before the record begins and after it ends there is nothing to see.
    context.fillStyle = palette.stripe;
    context.fillRect(0, 0, view.x(0), bottom);
    context.fillRect(view.x(view.duration), 0, view.width, bottom);
    // Of what was dropped nothing is known.
    context.fillStyle = palette.unknown;
    if (model.known > 0) context.fillRect(view.x(0), 0, view.x(model.known) - view.x(0), bottom);
  }

  paintRow(row, top, height) {
    const { context } = this;
    const { rows, model, palette, view, selected } = this.app;
    const item = rows.items[row];
    const kind = rows.kinds[row];
    if (row === this.app.currentRow) {
      context.fillStyle = palette.accent;
      context.globalAlpha = 0.09;
      context.fillRect(0, top, view.width, height);
      context.globalAlpha = 1;
    }
    context.fillStyle = palette.line;
    context.fillRect(0, top + height - 1, view.width, 1);
    const inset = Math.round(height * 0.15);
    const barTop = top + inset;
    const barHeight = height - 2 * inset - 1;
    switch (kind) {
      case Row.LOAD:
        paintLoad(context, model.loops[item], view, palette, top + 2, height - 3);
        this.paintDropped(top, height);
        break;
      case Row.SLOW:
        this.paintSlow(model.loops[item].slow, barTop, barHeight);
        break;
      case Row.TASK:
        this.paintTask(item, barTop, barHeight, false);
        break;
      case Row.GROUP:
        this.paintGroup(rows.groups[item], top + 2, height - 3);
        break;
      case Row.LANE:
        this.paintLane(rows.laneAt(row), barTop, barHeight);
        break;
      case Row.TRAFFIC:
        this.paintTraffic(model.traffic, top + 1, height - 3);
        break;
      case Row.TRANSPORT: {
        const from = view.x(model.transports.begin[item]);
        const end = model.transports.end[item];
        const to = view.x(end < 0 ? model.duration : end);
        context.fillStyle = palette.life;
        context.fillRect(from, top + height / 2 - 1, Math.max(1, to - from), 1);
        this.paintTraffic(model.trafficBy[item], top + 1, height - 3);
        break;
      }
    }
    if (selected >= 0 && rows.rowOfTask[selected] === row) {
      const from = Math.max(view.x(model.begin[selected]), -3);
      const to = Math.min(view.x(model.end[selected]), view.width + 3);
      context.strokeStyle = palette.text;
      context.lineWidth = 2;
      context.strokeRect(from - 1, barTop - 2, Math.max(3, to - from) + 2, barHeight + 4);
      if (this.app.segment >= 0) {
        const left = Math.max(view.x(model.segmentBegin[this.app.segment]), -3);
        const right = Math.min(view.x(model.segmentEnd[this.app.segment]), view.width + 3);
        context.strokeStyle = palette.accent;
        context.lineWidth = 3;
        context.strokeRect(left, barTop + 1, Math.max(3, right - left), barHeight - 2);
      }
      context.lineWidth = 1;
    }
  }

  /** The life of a task: its waits, pale and with their textures, then its runs upon them. */
  paintTask(task, top, height, named) {
    const { context } = this;
    const { model, view, palette, found } = this.app;
    const { segmentBegin, segmentEnd, segmentKind } = model;
    const faded = found !== null && !found.has(task);
    if (faded) context.globalAlpha = 0.25;
    const from = Math.max(view.x(model.begin[task]), -2);
    const to = Math.min(view.x(model.end[task]), view.width + 2);
    context.fillStyle = palette.life;
    context.fillRect(from, top + Math.floor(height / 2), Math.max(1, to - from), 1);

    const last = model.first[task + 1];
    this.runs.length = 0;
    let at = model.segmentFrom(task, view.begin);
    while (at < last && segmentBegin[at] < view.end) {
      const x1 = Math.max(view.x(segmentBegin[at]), -2);
      const x2 = Math.min(view.x(segmentEnd[at]), view.width + 2);
      const kind = segmentKind[at];
      if (x2 - x1 >= 1.5) {
        if (kind === RUN) this.runs.push(x1, x2 - x1, height);
        else this.paintWait(task, at, x1, x2 - x1, top, height, named);
        at++;
        continue;
      }
      // Narrower than a pixel: all that ends within this one, as one column.
      const x = Math.floor(x1);
      const until = view.moment(x + 1.5);
      const next = Math.max(at + 1, firstAbove(segmentEnd, until, at, last));
      const ran = (next < last ? model.ranBefore[next] : model.ran[task]) - model.ranBefore[at];
      if (next - at <= 2) {
        if (ran > 0 || kind === RUN) this.runs.push(x, 1.5, height);
        else this.column(x, kind, top, height);
      } else {
        this.column(x, kind === RUN ? segmentKind[at + 1] : kind, top, height);
        const share = Math.min(1, ran / Math.max(segmentEnd[next - 1] - segmentBegin[at], 1e-9));
        if (ran > 0) this.runs.push(x, 1.5, height * Math.max(0.3, share));
      }
      at = next;
    }
    context.fillStyle = palette.kinds[RUN];
    for (let index = 0; index < this.runs.length; index += 3) {
      const high = this.runs[index + 2];
      context.fillRect(this.runs[index], top + height - high, this.runs[index + 1], high);
    }
    this.paintOutcome(task, to, top, height);
    context.globalAlpha = 1;
  }

  column(x, kind, top, height) {
    this.context.fillStyle = this.app.palette.kinds[kind];
    this.context.fillRect(x, top, 1.5, height);
  }

  paintWait(task, segment, x, width, top, height, named) {
    const { context } = this;
    const { model, palette } = this.app;
    const kind = model.segmentKind[segment];
    context.fillStyle = palette.kinds[kind];
    context.fillRect(x, top, width, height);
    if (palette.textures[kind] && width > 4) {
      context.fillStyle = palette.textures[kind];
      context.fillRect(x, top, width, height);
    }
    if (width < 14 || height < 11) return;
    const what = shortLabel(KINDS[kind]);
    const took = spanText(model.segmentEnd[segment] - model.segmentBegin[segment]);
    const who = named ? `${model.ownName(task) || model.string(model.name[task]) || model.coroName(task)}: ` : "";
    const text = this.fitting(width - 8, `${who}${what} ${took}`, `${what} ${took}`, what, KINDS[kind].letter);
    if (!text) return;
    const at = x + 5;
    const middle = top + height / 2 + 0.5;
    if (palette.textures[kind] && text.length > 1) {
      context.fillStyle = palette.kinds[kind];
      context.fillRect(at - 3, middle - 7, context.measureText(text).width + 6, 13);
    }
    context.fillStyle = kind === READY ? palette.onReady : palette.text;
    context.fillText(text, at, middle);
  }

  /** The first of some texts that is no wider than that. */
  fitting(width, ...texts) {
    return texts.find((text) => text && text.length * 5 < width * 1.4 && this.context.measureText(text).width <= width);
  }

  /** That a task ended badly is seen at its end. */
  paintOutcome(task, x, top, height) {
    const { context } = this;
    const { model, palette } = this.app;
    const outcome = model.outcome[task];
    if (outcome !== RAISED && outcome !== CANCELLED) return;
    context.fillStyle = outcome === RAISED ? palette.raised : palette.faint;
    context.fillRect(x - 1, top - 2, 3, height + 4);
    if (outcome === RAISED) {
      context.beginPath();
      context.moveTo(x - 1, top - 2);
      context.lineTo(x + 8, top - 2);
      context.lineTo(x - 1, top + 6);
      context.fill();
    }
  }

  /** Tasks that follow one another. */
  paintLane(lane, top, height) {
    const { context } = this;
    const { view, palette, found } = this.app;
    const { tasks, begins, ends } = lane;
    let at = firstAbove(ends, view.begin, 0, tasks.length);
    while (at < tasks.length && begins[at] < view.end) {
      const x1 = view.x(begins[at]);
      const x2 = view.x(ends[at]);
      if (x2 - x1 >= 2) {
        this.paintTask(tasks[at], top, height, true);
        // Its beginning, lest neighbours look like one.
        context.fillStyle = palette.text;
        context.fillRect(Math.max(x1, -2), top, 1, height);
        at++;
        continue;
      }
      const x = Math.floor(x1);
      const next = Math.max(at + 1, firstAbove(ends, view.moment(x + 2), at, tasks.length));
      const hit = found === null || this.anyFound(tasks, at, next);
      context.globalAlpha = hit ? 1 : 0.25;
      context.fillStyle = this.waitColour(tasks[at]);
      context.fillRect(x, top, 2, height);
      const ran = lane.ranBefore[next] - lane.ranBefore[at];
      if (ran > 0) {
        const high = Math.max(1.5, Math.min(1, ran / Math.max(ends[next - 1] - begins[at], 1e-9)) * height);
        context.fillStyle = palette.kinds[RUN];
        context.fillRect(x, top + height - high, 2, high);
      }
      context.globalAlpha = 1;
      at = next;
    }
  }

  /** The colour of what a task waits for first. */
  waitColour(task) {
    const { model, palette } = this.app;
    for (let at = model.first[task]; at < model.first[task + 1]; at++) {
      if (model.segmentKind[at] !== RUN) return palette.kinds[model.segmentKind[at]];
    }
    return palette.life;
  }

  anyFound(tasks, from, to) {
    const most = Math.min(to, from + 64);
    for (let at = from; at < most; at++) if (this.app.found.has(tasks[at])) return true;
    return false;
  }

  /** How many of a group live, by the height, and before it what part of the time any of them ran. */
  paintGroup(group, top, height) {
    const { context } = this;
    const { view, palette } = this.app;
    context.fillStyle = palette.life;
    const scale = height / Math.max(1, group.peak);
    const from = Math.max(0, Math.floor(view.x(group.begins[0])));
    const to = Math.min(view.width, Math.ceil(view.x(group.ends.at(-1))) + 1);
    for (let x = from; x < to; x++) {
      const alive = group.alive(view.moment(x), view.moment(x + 1));
      if (alive === 0) continue;
      const high = Math.min(height, Math.max(1.5, alive * scale));
      context.fillRect(x, top + height - high, 1, high);
    }
    context.fillStyle = palette.kinds[RUN];
    for (let x = from; x < to; x++) {
      const share = group.running.covered(view.moment(x), view.moment(x + 1)) / view.pixel;
      if (share < 1e-6) continue;
      const high = Math.max(1, Math.min(1, share) * height);
      context.fillRect(x, top + height - high, 1, high);
    }
    const text = this.fitting(to - from - 8, `${plural(group.tasks.length, "task")}, at most ${countText(group.peak)} at once`);
    if (text) {
      const at = Math.max(from, 0) + 6;
      const middle = top + height / 2 + 0.5;
      context.fillStyle = palette.ground;
      context.globalAlpha = 0.7;
      context.fillRect(at - 3, middle - 7, context.measureText(text).width + 6, 13);
      context.globalAlpha = 1;
      context.fillStyle = palette.text;
      context.fillText(text, at, middle);
    }
  }

  paintDropped(top, height) {
    const { context } = this;
    const { model, view, palette } = this.app;
    const from = Math.max(0, view.x(0));
    const text = model.known > 0 && this.fitting(Math.min(view.width, view.x(model.known)) - from - 12, "dropped: nothing is known of this time", "dropped");
    if (!text) return;
    context.fillStyle = palette.faint;
    context.fillText(text, from + 6, top + height / 2);
  }

  paintSlow(slow, top, height) {
    const { context } = this;
    const { model, view, palette } = this.app;
    let at = firstAbove(slow.end, view.begin, 0, slow.count);
    while (at < slow.count && slow.begin[at] < view.end) {
      const x1 = Math.max(view.x(slow.begin[at]), -2);
      const width = Math.max(1.5, Math.min(view.x(slow.end[at]), view.width + 2) - x1);
      context.fillStyle = palette.hold;
      context.fillRect(x1, top, width, height);
      const name = model.string(model.slow.name[slow.order[at]]);
      const text = this.fitting(width - 8, `${name} ${spanText(slow.end[at] - slow.begin[at])}`, name);
      if (text) {
        context.fillStyle = palette.onRun;
        context.fillText(text, x1 + 4, top + height / 2 + 0.5);
      }
      at = width > 1.5 ? at + 1 : Math.max(at + 1, firstAbove(slow.end, view.moment(Math.floor(x1) + 1.5), at, slow.count));
    }
  }

  /** Bytes in above the middle, bytes out below it; each by the most of a column that is seen. */
  paintTraffic(traffic, top, height) {
    const { context } = this;
    const { view, palette } = this.app;
    if (traffic.count === 0) return;
    const wide = 2;
    const columns = [];
    let most = 1;
    let at = firstReaching(traffic.at, view.begin, 0, traffic.count);
    for (let x = 0; x < view.width && at < traffic.count; x += wide) {
      const next = firstReaching(traffic.at, view.moment(x + wide), at, traffic.count);
      if (next === at) continue;
      const bytesIn = traffic.in[next] - traffic.in[at];
      const bytesOut = traffic.out[next] - traffic.out[at];
      most = Math.max(most, bytesIn, bytesOut);
      columns.push([x, bytesIn, bytesOut]);
      at = next;
    }
    const half = height / 2;
    const high = (bytes) => (bytes > 0 ? Math.max(1, (bytes / most) * half) : 0);
    context.fillStyle = palette.bytesIn;
    for (const [x, bytes] of columns) context.fillRect(x, top + half - high(bytes), wide, high(bytes));
    context.fillStyle = palette.bytesOut;
    for (const [x, , bytes] of columns) context.fillRect(x, top + half, wide, high(bytes));
  }

  /** The critical path: a line under what is on it, and from task to task. */
  paintPath(firstRow, lastRow, scrolled, rowHeight) {
    const { context } = this;
    const { view, rows, path, palette } = this.app;
    context.fillStyle = palette.path;
    const at = (row) => (row + 1) * rowHeight - scrolled - 4;
    let before = NONE;
    let painted = -1;
    let index = firstAbove(path.ends, view.begin, 0, path.ends.length);
    if (index > 0) before = rows.rowOf(path.steps[index - 1].task);
    for (; index < path.steps.length && path.steps[index].begin < view.end; index++) {
      const { task, begin, end } = path.steps[index];
      const row = rows.rowOf(task);
      const x1 = Math.max(view.x(begin), -2);
      const x2 = Math.min(Math.max(view.x(end), x1 + 1.5), view.width + 2);
      if (row === before && x2 <= painted) continue;
      if (row >= firstRow && row < lastRow) context.fillRect(x1, at(row), x2 - x1, 3);
      if (before >= 0 && row >= 0 && before !== row) {
        const top = Math.min(before, row);
        context.fillRect(x1 - 0.75, at(top), 1.5, (Math.max(before, row) - top) * rowHeight + 3);
      }
      before = row;
      painted = x2;
    }
  }

  /** From the selected task to whom it waited for, and from the task that made it. */
  paintLinks(scrolled, rowHeight) {
    const { model, rows, view, selected } = this.app;
    if (selected < 0) return;
    const { context } = this;
    context.strokeStyle = context.fillStyle = this.app.palette.text;
    context.lineWidth = 1;
    const middle = (row) => row * rowHeight - scrolled + rowHeight / 2;
    const row = rows.rowOf(selected);
    const arrow = (moment, from, to) => {
      if (from < 0 || to < 0 || from === to || moment < view.begin || moment > view.end) return;
      const x = view.x(moment);
      const y = middle(to);
      const back = to > from ? -1 : 1;
      context.globalAlpha = 0.75;
      context.setLineDash([3, 2]);
      context.beginPath();
      context.moveTo(x, middle(from));
      context.lineTo(x, y);
      context.stroke();
      context.setLineDash([]);
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x - 3.5, y + back * 6);
      context.lineTo(x + 3.5, y + back * 6);
      context.fill();
      context.globalAlpha = 1;
    };
    if (model.parent[selected] >= 0) arrow(model.begin[selected], rows.rowOf(model.parent[selected]), row);
    const last = model.first[selected + 1];
    let drawn = 0;
    for (let at = model.segmentFrom(selected, view.begin); at < last && model.segmentBegin[at] < view.end && drawn < 50; at++) {
      const wait = model.segmentWait[at];
      const on = wait >= 0 ? model.waitOn[wait] : NONE;
      if (on < 0 || on >= model.taskCount) continue;
      arrow(Math.min(model.end[on], model.segmentEnd[at]), rows.rowOf(on), row);
      drawn++;
    }
  }
}
