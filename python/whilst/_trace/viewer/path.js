// The critical path of the run: what would have to be shorter for the whole to be shorter.
//
// Backwards from the end of the task that ended last: what it did before that, and before that, and so on. Where it waited for
// another task, that task's own doings are the reason, so they are followed instead; before a task was made, its maker's are, and
// before one that no task has made, those of the one that had ended by then (as asyncio.run makes tasks after main's).

/** Times are rounded in the record: what ends so much later, in µs, may have ended before. */
const ROUNDING = 1;

/** Siblings in order of their ends, to ask for the last one that ended by some moment. */
class Endings {
  constructor(model) {
    this.model = model;
    this.sorted = new Map();
  }

  of(parent) {
    let endings = this.sorted.get(parent);
    if (!endings) {
      const { model } = this;
      const children = model.children.subarray(model.firstChild[parent], model.firstChild[parent + 1]);
      const tasks = children.filter((task) => !model.isPending(task)).sort((a, b) => model.end[a] - model.end[b]);
      endings = { tasks, ends: Float64Array.from(tasks, (task) => model.end[task]) };
      this.sorted.set(parent, endings);
    }
    return endings;
  }

  /** The child of `parent` that ended last by `moment`, if that was after `since`. */
  last(parent, since, moment) {
    const { tasks, ends } = this.of(parent);
    const at = firstAbove(ends, moment + ROUNDING, 0, ends.length) - 1;
    return at >= 0 && ends[at] > since ? tasks[at] : NONE;
  }
}

/** @returns {{task: number, segment: number, begin: number, end: number}[]} its steps in order of time */
function criticalPath(model, most = 100_000) {
  const steps = [];
  const endings = new Endings(model);
  let task = endings.last(model.taskCount, -Infinity, Infinity);
  let moment = task < 0 ? 0 : model.end[task];
  // Tasks that were passed through at this very moment: those that wait for each other must not be followed for ever.
  const passed = new Set([task]);
  const goTo = (next, when) => {
    if (when < moment) passed.clear();
    moment = when;
    if (next < 0 || passed.has(next)) return false;
    passed.add(next);
    task = next;
    return true;
  };

  while (task >= 0 && steps.length < most) {
    let moved = false;
    let at = firstReaching(model.segmentBegin, moment, model.first[task], model.first[task + 1]) - 1;
    for (; at >= model.first[task] && !moved; at--) {
      const since = model.segmentBegin[at];
      const end = Math.min(moment, model.segmentEnd[at]);
      const awaited = awaitedTask(model, endings, task, at, end);
      if (awaited >= 0 && model.end[awaited] > since && goTo(awaited, Math.min(end, model.end[awaited]))) {
        moved = true;
      } else {
        if (end > since) steps.push({ task, segment: at, begin: since, end });
        if (since < moment) passed.clear();
        moment = Math.min(moment, since);
      }
    }
    if (moved) continue;
    const made = Math.min(moment, model.begin[task]);
    const parent = model.parent[task];
    if (parent >= 0 ? !goTo(parent, made) : !goTo(endings.last(model.taskCount, -Infinity, made), made)) break;
    moment = Math.min(moment, model.end[task]);
  }
  return steps.reverse();
}

/** The task that a segment, a wait, was for, or -1: of several the one that ended last by `end`. */
function awaitedTask(model, endings, task, segment, end) {
  const wait = model.segmentWait[segment];
  if (wait < 0) return NONE;
  const on = model.waitOn[wait];
  if (on >= 0 && on < model.taskCount && on !== task) return on;
  const kind = KINDS[model.segmentKind[segment]].name;
  return kind === "gather" || kind === "task" ? endings.last(task, model.segmentBegin[segment], end) : NONE;
}

/** Steps of one task that follow each other as one, for telling: {task, begin, end, spent: kind => µs}. */
function pathChapters(model, steps) {
  const chapters = [];
  for (const { task, segment, begin, end } of steps) {
    let chapter = chapters.at(-1);
    if (chapter?.task !== task) chapters.push((chapter = { task, begin, end, spent: new Map() }));
    const kind = model.segmentKind[segment];
    chapter.spent.set(kind, (chapter.spent.get(kind) ?? 0) + end - begin);
    chapter.end = end;
  }
  return chapters;
}
