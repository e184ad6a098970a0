// The whole record in words: what a reader wants to know before looking closer.

/** The `most` greatest of `count` items, the greatest first: one pass, for there may be a million. */
function greatest(count, most, sizeOf) {
  const best = new Heap((item) => item.size);
  for (let index = 0; index < count; index++) {
    const size = sizeOf(index);
    if (size <= 0) continue;
    if (best.items.length < most) best.push({ index, size });
    else if (size > best.least.size) {
      best.pop();
      best.push({ index, size });
    }
  }
  return best.items.sort((a, b) => b.size - a.size);
}

/** The task to which a segment belongs. */
function taskOfSegment(model, segment) {
  return firstAbove(model.first, segment, 0, model.first.length) - 1;
}

class Summary {
  constructor(app, panel) {
    this.app = app;
    this.panel = panel;
  }

  write() {
    this.panel.replaceChildren(...this.head(), ...this.criticalPath(), ...this.holds(), ...this.busiest(), ...this.waits(), ...this.foot());
  }

  head() {
    const { model } = this.app;
    const utilisation = model.head.utilisation ?? model.load(0, model.duration);
    const ends = [0, 0, 0, 0];
    for (const outcome of model.outcome) ends[outcome]++;
    const ended = [
      ends[RETURNED] > 0 ? `${countText(ends[RETURNED])} returned` : "",
      ends[RAISED] > 0 ? `${countText(ends[RAISED])} raised` : "",
      ends[CANCELLED] > 0 ? `${countText(ends[CANCELLED])} cancelled` : "",
      ends[PENDING] > 0 ? `${countText(ends[PENDING])} still pending` : "",
    ].filter(Boolean);
    return [
      element("p", { class: "lead" }, `${plural(model.taskCount, "task")} in ${spanText(model.duration)}`, model.peak > 1 ? `, up to ${countText(model.peak)} at once` : "", "."),
      element("p", { class: "faint" }, ended.join(", "), ended.length > 0 ? "." : ""),
      element("dl", { class: "figures" },
        element("div", {}, element("dt", {}, "loop busy"), element("dd", { title: "Part of the time in which callbacks ran" }, percentText(utilisation))),
        element("div", {}, element("dt", {}, "steps run"), element("dd", {}, countText(model.runCount))),
        element("div", {}, element("dt", {}, "polls"), element("dd", { title: "How often the loop asked the kernel, and waited" }, countText(model.head.polls ?? 0)))),
    ];
  }

  criticalPath() {
    const { app } = this;
    const { model, path } = app;
    if (path.steps.length === 0) return [];
    const chapters = pathChapters(model, path.steps);
    // Only what matters for the length of the run, in order of time.
    const length = (index) => chapters[index].end - chapters[index].begin;
    const told = greatest(chapters.length, 8, (index) => (length(index) > model.duration / 500 ? length(index) : 0)).map(({ index }) => index).sort((a, b) => a - b);
    const items = told.map((index) => {
      const { task, begin, end, spent } = chapters[index];
      const [kind, most] = [...spent].sort((a, b) => b[1] - a[1])[0];
      const what = `${KINDS[kind].did}${kind === RUN ? " for" : ""} ${spanText(most)}`;
      return element("li", { style: { "--dot": kindColour(kind) } },
        element("time", {}, spanText(end - begin)),
        linkButton(model.title(task), () => {
          app.select(task, NONE, true);
          app.view.focus(begin, end);
        }),
        element("div", { class: "faint" }, what));
    });
    const left = chapters.length - told.length;
    return [
      element("h3", {}, "Critical path: why it took so long"),
      element("ol", { class: "steps", id: "critical" }, items),
      left > 0 ? element("p", { class: "faint" }, `and ${plural(left, "shorter part")}`) : null,
    ].filter(Boolean);
  }

  holds() {
    const { app } = this;
    const { model } = app;
    // More than are told, for of several at one place the longest is.
    const segments = greatest(model.segmentCount, 60, (at) => (model.segmentKind[at] === RUN ? model.segmentEnd[at] - model.segmentBegin[at] : 0));
    const slow = greatest(model.slow.count, 60, (at) => model.slow.end[at] - model.slow.begin[at]);
    const holds = [
      ...segments.map(({ index, size }) => {
        const task = taskOfSegment(model, index);
        return { size, text: model.coroName(task), place: this.resumedAt(task, index), go: () => app.select(task, index, true) };
      }),
      ...slow.map(({ index, size }) => ({
        size,
        text: model.string(model.slow.name[index]),
        place: withoutSource(model.placeAt(model.slow.place[index])),
        go: () => app.view.focus(model.slow.begin[index], model.slow.end[index]),
      })),
    ].sort((a, b) => b.size - a.size);
    const places = new Map();
    for (const hold of holds) {
      const key = `${hold.text} ${hold.place?.path}:${hold.place?.line}`;
      if (!places.has(key)) places.set(key, hold);
    }
    const told = [...places.values()].slice(0, 5);
    if (told.length === 0) return [];
    return [
      element("h3", {}, "Longest holds of the loop"),
      table(told.map(({ size, text, place, go }) => [spanText(size), [linkButton(text, go), ...placeElements(place, "from ")]])),
    ];
  }

  foot() {
    const { head } = this.app.model;
    const when = head.started ? new Date(head.started * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
    const by = [`whilst ${head.whilst ?? ""}`, head.python && `Python ${head.python}`, head.driver && `the driver ${head.driver}`].filter(Boolean);
    return [element("p", { class: "faint foot" }, `Recorded${when ? ` on ${when}` : ""} by ${by.join(", ")}.`)];
  }

  /** Where a run went on: where the wait before it was, or the coroutine's first line. */
  resumedAt(task, segment) {
    const { model } = this.app;
    const before = segment > model.first[task] ? model.segmentWait[segment - 1] : NONE;
    return withoutSource(model.placeAt(before >= 0 ? model.waitPlace[before] : model.place[task]));
  }

  busiest() {
    const { app } = this;
    const { model } = app;
    const tasks = greatest(model.taskCount, 5, (task) => model.ran[task]);
    const coroutines = new Map();
    for (let task = 0; task < model.taskCount; task++) {
      const sum = coroutines.get(model.coro[task]) ?? { count: 0, ran: 0, task };
      sum.count++;
      sum.ran += model.ran[task];
      coroutines.set(model.coro[task], sum);
    }
    const parts = [
      element("h3", {}, "Busiest tasks"),
      table(tasks.map(({ index, size }) => [spanText(size), linkButton(model.title(index), () => app.select(index, NONE, true))])),
    ];
    const many = [...coroutines.values()].filter(({ count, ran }) => count > 1 && ran > 0).sort((a, b) => b.ran - a.ran).slice(0, 5);
    if (many.length > 0 && model.taskCount > 5) {
      parts.push(element("h3", {}, "Busiest coroutines"), table(many.map(({ count, ran, task }) => [
        spanText(ran),
        [linkButton(model.coroName(task), () => app.searchFor(model.string(model.coro[task])), { title: "Find its tasks" }), ` × ${countText(count)}`],
      ])));
    }
    return tasks.length > 0 ? parts : [];
  }

  /** For what all tasks together waited. */
  waits() {
    const { model } = this.app;
    const sums = new Float64Array(KINDS.length);
    for (let at = 0; at < model.segmentCount; at++) sums[model.segmentKind[at]] += model.segmentEnd[at] - model.segmentBegin[at];
    const kinds = [...sums.keys()].filter((kind) => kind !== RUN && sums[kind] > 0).sort((a, b) => sums[b] - sums[a]);
    if (kinds.length === 0) return [];
    const total = kinds.reduce((sum, kind) => sum + sums[kind], 0);
    return [
      element("h3", {}, "What tasks waited for, all together"),
      element("div", { class: "share", "aria-hidden": "true" },
        kinds.map((kind) => element("i", { style: { width: `${(100 * sums[kind]) / total}%`, background: kindColour(kind) } }))),
      table(kinds.map((kind) => [spanText(sums[kind]), KINDS[kind].label])),
    ];
  }
}

/** A place whose line is not shown too, where there are many. */
function withoutSource(place) {
  return place && { ...place, source: "" };
}

/** Rows of a figure and what it is of. */
function table(rows) {
  return element("table", {}, element("tbody", {}, rows.map(([figure, what]) =>
    element("tr", {}, element("td", { class: "number" }, figure), element("td", {}, what)))));
}
