// The story of one task in words: who made it, each of its runs and waits, how it ended.

/** So many parts of a story are told at once, around the one that is chosen. */
const TOLD = 60;

class Story {
  constructor(app, panel) {
    this.app = app;
    this.panel = panel;
  }

  tell(task, segment) {
    const { panel } = this;
    if (task < 0) {
      panel.replaceChildren(element("p", { class: "faint" }, "Click a task, or press Enter on its row: here is then what it did, when, and where in the source."));
      return;
    }
    panel.replaceChildren(...this.head(task), ...this.birth(task), ...this.places(task), ...this.steps(task, segment));
    const current = panel.querySelector(".steps .current");
    if (current) current.scrollIntoView({ block: "nearest" });
    else panel.scrollTop = 0;
  }

  taskLink(task) {
    return linkButton(this.app.model.title(task), () => this.app.select(task, NONE, true));
  }

  head(task) {
    const { app } = this;
    const { model } = app;
    const name = model.string(model.name[task]);
    const life = model.end[task] - model.begin[task];
    const ran = model.ran[task];
    const bad = model.outcome[task] === RAISED;
    return [
      element("h2", {}, name || model.coroName(task)),
      element("p", { class: "code" }, model.string(model.coro[task])),
      element("p", {}, element("span", { class: bad ? "badge bad" : "badge" }, model.outcomeText(task)), " ",
        app.before.length > 0 ? linkButton("back", () => app.goBack(), { title: "The task that was chosen before (Backspace)" }) : null, " ",
        linkButton("zoom to it", () => app.view.focus(model.begin[task], model.end[task]))),
      element("dl", { class: "figures" },
        element("div", {}, element("dt", {}, "lived"), element("dd", {}, spanText(life))),
        element("div", {}, element("dt", {}, "ran"), element("dd", { title: `${plural(model.steps[task], "step")}` }, spanText(ran))),
        element("div", {}, element("dt", {}, "waited"), element("dd", {}, spanText(Math.max(0, life - ran))))),
    ];
  }

  birth(task) {
    const { model } = this.app;
    const parent = model.parent[task];
    const place = model.placeAt(model.madeAt[task]);
    const by = parent >= 0 ? [" by ", this.taskLink(parent)] : [" outside of any task"];
    const when = model.begin[task] > 0 ? `${whenText(model.begin[task])} after the start,` : "At the start,";
    const parts = [element("h3", {}, "Made"), element("p", {}, when, ...by), ...placeElements(place)];
    const own = model.placeAt(model.place[task]);
    if (own && model.place[task] !== model.madeAt[task]) parts.push(element("h3", {}, "Coroutine"), ...placeElements(own));
    return parts;
  }

  /** Of a task with many parts first where its time went, by what it waited for and where. */
  places(task) {
    const { model } = this.app;
    const from = model.first[task];
    const to = model.first[task + 1];
    if (to - from <= 12) return [];
    const sums = new Map();
    for (let at = from; at < to; at++) {
      const wait = model.segmentWait[at];
      const kind = model.segmentKind[at];
      const key = kind * 1e7 + (wait >= 0 ? model.waitPlace[wait] + 1 : 0);
      const sum = sums.get(key) ?? { kind, place: wait >= 0 ? model.waitPlace[wait] : NONE, count: 0, time: 0, longest: at };
      sum.count++;
      sum.time += model.segmentEnd[at] - model.segmentBegin[at];
      if (model.segmentEnd[at] - model.segmentBegin[at] > model.segmentEnd[sum.longest] - model.segmentBegin[sum.longest]) sum.longest = at;
      sums.set(key, sum);
    }
    const rows = [...sums.values()].sort((a, b) => b.time - a.time).slice(0, 8);
    return [
      element("h3", {}, "Where its time went"),
      element("ol", { class: "steps" }, rows.map(({ kind, place, count, time, longest }) =>
        element("li", { style: { "--dot": kindColour(kind) } },
          element("time", {}, spanText(time)),
          linkButton(`${KINDS[kind].did}${count > 1 ? `, ${countText(count)} times` : ""}`, () => this.app.select(task, longest, true), { title: "Go to the longest" }),
          ...placeElements(model.placeAt(place))))),
    ];
  }

  steps(task, segment) {
    const { app } = this;
    const { model } = app;
    const first = model.first[task];
    const last = model.first[task + 1];
    const middle = segment >= 0 ? segment : first;
    const from = Math.max(first, Math.min(middle - TOLD / 2, last - TOLD));
    const to = Math.min(last, from + TOLD);
    const items = [];
    const more = (count, at, words) => element("li", {}, linkButton(`${plural(count, "step")} ${words}`, () => app.select(task, at, true)));
    if (from > first) items.push(more(from - first, Math.max(first, from - TOLD / 2), "before these"));
    for (let at = from; at < to; at++) items.push(this.step(task, at, at === segment));
    if (to < last) items.push(more(last - to, Math.min(last - 1, to + TOLD / 2), "after these"));
    if (!model.isPending(task) || to === last) {
      items.push(element("li", { style: { "--dot": model.outcome[task] === RAISED ? "var(--raised)" : "var(--text)" } },
        element("time", {}, whenText(model.end[task])), element("span", {}, model.outcomeText(task))));
    }
    return [element("h3", {}, last - first > TOLD ? `Step by step (${countText(last - first)})` : "Step by step"), element("ol", { class: "steps" }, items)];
  }

  step(task, at, current) {
    const { app } = this;
    const { model } = app;
    const kind = model.segmentKind[at];
    const wait = model.segmentWait[at];
    const took = spanText(model.segmentEnd[at] - model.segmentBegin[at]);
    const open = () => {
      app.select(task, at, false);
      app.view.reveal(model.segmentBegin[at], model.segmentEnd[at]);
    };
    const parts = [element("time", { title: "after the start" }, whenText(model.segmentBegin[at])), linkButton(`${KINDS[kind].did} ${kind === RUN ? "for " : ""}${took}`, open)];
    if (wait >= 0) {
      const on = model.waitOn[wait];
      if (on >= 0 && on < model.taskCount) parts.push(": ", this.taskLink(on));
      parts.push(...placeElements(model.placeAt(model.waitPlace[wait])));
      const stack = model.waitStack[wait] >= 0 ? model.stacks[model.waitStack[wait]] : null;
      if (stack && stack.length > 1) {
        parts.push(element("details", {}, element("summary", {}, `through ${plural(stack.length, "coroutine")}`),
          stack.flatMap((place) => placeElements(model.placeAt(place)))));
      }
    }
    return element("li", { class: current ? "current" : null, style: { "--dot": kindColour(kind) } }, parts);
  }
}

/** The same in short, for the pointer. */
function tipOf(app, task, segment) {
  const { model } = app;
  const parts = [element("b", {}, model.title(task))];
  if (segment < 0) {
    parts.push(element("div", {}, `${spanText(model.end[task] - model.begin[task])}, ${model.outcomeText(task)}`));
    return parts;
  }
  const kind = model.segmentKind[segment];
  const wait = model.segmentWait[segment];
  const took = spanText(model.segmentEnd[segment] - model.segmentBegin[segment]);
  const on = wait >= 0 ? model.waitOn[wait] : NONE;
  parts.push(element("div", {}, `${KINDS[kind].did} ${kind === RUN ? "for " : ""}${took}`, on >= 0 && on < model.taskCount ? `: ${model.title(on)}` : ""));
  if (wait >= 0) parts.push(...placeElements(model.placeAt(model.waitPlace[wait])));
  return parts;
}
