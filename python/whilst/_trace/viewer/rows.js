// Which rows there are, from top to bottom: the loop's own, the tasks under their parents, the transports.
//
// Siblings of the same coroutine that are many (the handlers of a server) become one group: a row that shows how many there are at
// each moment and opens into lanes, each of which holds tasks that follow one another.

const Row = Object.freeze({ SECTION: 0, LOAD: 1, SLOW: 2, TASK: 3, GROUP: 4, LANE: 5, TRAFFIC: 6, TRANSPORT: 7 });
const Section = Object.freeze({ TASKS: 0, TRANSPORTS: 1 });
const SECTION_NAMES = ["Tasks", "Connections"];

/** From so many siblings of one coroutine on they are a group. */
const MANY = 12;
/** A group of at most so many lanes is open at first, and so are the connections. */
const OPEN_LANES = 8;

/** Numbers by their keys, the least key first. */
class Heap {
  constructor(keyOf) {
    this.keyOf = keyOf;
    this.items = [];
  }

  get least() {
    return this.items[0];
  }

  push(item) {
    const { items, keyOf } = this;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const above = (at - 1) >>> 1;
      if (keyOf(items[above]) <= keyOf(item)) break;
      items[at] = items[above];
      at = above;
    }
    items[at] = item;
  }

  pop() {
    const { items, keyOf } = this;
    const least = items[0];
    const last = items.pop();
    if (items.length > 0) {
      let at = 0;
      for (;;) {
        let below = 2 * at + 1;
        if (below >= items.length) break;
        if (below + 1 < items.length && keyOf(items[below + 1]) < keyOf(items[below])) below++;
        if (keyOf(items[below]) >= keyOf(last)) break;
        items[at] = items[below];
        at = below;
      }
      items[at] = last;
    }
    return least;
  }
}

/** Many siblings of one coroutine. */
class Group {
  constructor(model, index, tasks) {
    this.model = model;
    this.index = index;
    this.tasks = tasks;
    // A task with children has a row of its own; the others share lanes.
    const childless = (task) => model.firstChild[task] === model.firstChild[task + 1];
    this.packed = tasks.filter(childless);
    this.parents = tasks.filter((task) => !childless(task));
    this.begins = Float64Array.from(tasks, (task) => model.begin[task]).sort();
    this.ends = Float64Array.from(tasks, (task) => model.end[task]).sort();
    this.peak = mostAtOnce(this.begins, this.ends);
    this.laneLists = null;
    this.runSpans = null;
    this.open = this.isClear();
  }

  /** That its lanes say something at first sight: they are few, or not so many, of tasks that are wide enough to see. */
  isClear() {
    const rows = this.peak + this.parents.length;
    if (rows <= OPEN_LANES) return true;
    const { begin, end, duration } = this.model;
    const lived = this.tasks.reduce((sum, task) => sum + end[task] - begin[task], 0) / this.tasks.length;
    return rows <= 5 * OPEN_LANES && lived > duration / 100;
  }

  /** How many of the tasks live at some time in a span. */
  alive(from, to) {
    return countAlive(this.begins, this.ends, from, to);
  }

  /** When any of them ran. One loop runs one at a time, so the first to begin is the first to end. */
  get running() {
    if (this.runSpans) return this.runSpans;
    const { first, segmentKind, segmentBegin, segmentEnd, steps } = this.model;
    const begins = new Float64Array(this.tasks.reduce((sum, task) => sum + steps[task], 0));
    const ends = new Float64Array(begins.length);
    let next = 0;
    for (const task of this.tasks) {
      for (let at = first[task]; at < first[task + 1]; at++) {
        if (segmentKind[at] !== RUN) continue;
        begins[next] = segmentBegin[at];
        ends[next++] = segmentEnd[at];
      }
    }
    this.runSpans = new Spans(begins.sort(), ends.sort());
    return this.runSpans;
  }

  /** Tasks one after another, in as few lanes as there are tasks at once; the upper lanes are filled first. */
  get lanes() {
    if (this.laneLists) return this.laneLists;
    const { begin, end } = this.model;
    const lanes = [];
    const endOf = [];
    const busy = new Heap((lane) => endOf[lane]);
    const free = new Heap((lane) => lane);
    const order = this.packed.slice().sort((a, b) => begin[a] - begin[b] || end[a] - end[b] || a - b);
    for (const task of order) {
      while (busy.items.length > 0 && endOf[busy.least] <= begin[task]) free.push(busy.pop());
      const lane = free.items.length > 0 ? free.pop() : lanes.push([]) - 1;
      lanes[lane].push(task);
      endOf[lane] = end[task];
      busy.push(lane);
    }
    this.laneLists = lanes.map((tasks) => this.lane(tasks));
    return this.laneLists;
  }

  lane(tasks) {
    const { begin, end, ran } = this.model;
    const ranBefore = new Float64Array(tasks.length + 1);
    tasks.forEach((task, index) => (ranBefore[index + 1] = ranBefore[index] + ran[task]));
    return {
      tasks: Uint32Array.from(tasks),
      begins: Float64Array.from(tasks, (task) => begin[task]),
      ends: Float64Array.from(tasks, (task) => end[task]),
      ranBefore,
    };
  }
}

class Rows {
  constructor(model) {
    this.model = model;
    const count = model.taskCount;
    this.taskOpen = new Uint8Array(count).fill(1);
    this.sectionOpen = [true, model.transportCount > 0 && model.transportCount <= OPEN_LANES];
    this.groups = [];
    this.groupOf = new Int32Array(count).fill(NONE);
    /** By parent (the roots' is `taskCount`): what is under it, tasks as their number and groups as -1 - number. */
    this.under = new Map();
    for (let parent = 0; parent <= count; parent++) {
      const low = model.firstChild[parent];
      const high = model.firstChild[parent + 1];
      if (high > low) this.under.set(parent, this.grouped(model.children.subarray(low, high)));
    }
    this.flatten();
  }

  grouped(siblings) {
    if (siblings.length < MANY) return Array.from(siblings);
    const byCoroutine = new Map();
    for (const task of siblings) {
      const same = byCoroutine.get(this.model.coro[task]);
      if (same) same.push(task);
      else byCoroutine.set(this.model.coro[task], [task]);
    }
    const items = [];
    for (const tasks of byCoroutine.values()) {
      if (tasks.length < MANY) {
        for (const task of tasks) items.push(task);
        continue;
      }
      const group = new Group(this.model, this.groups.length, tasks);
      this.groups.push(group);
      for (const task of tasks) this.groupOf[task] = group.index;
      items.push(-1 - group.index);
    }
    const began = (item) => this.model.begin[item >= 0 ? item : this.groups[-1 - item].tasks[0]];
    return items.sort((a, b) => began(a) - began(b));
  }

  /** The rows as they are with what is open and what is not: `kinds`, `items` (what the kind says it is), `depths` and, of lanes, `owners`. */
  flatten() {
    const { model } = this;
    this.kinds = [];
    this.items = [];
    this.depths = [];
    this.owners = [];
    this.rowOfTask = new Int32Array(model.taskCount).fill(NONE);
    this.rowOfGroup = new Int32Array(this.groups.length).fill(NONE);
    const add = (kind, item, depth, owner = NONE) => {
      this.owners.push(owner);
      this.kinds.push(kind);
      this.items.push(item);
      this.depths.push(depth);
      return this.kinds.length - 1;
    };

    model.loops.forEach((loop, index) => {
      add(Row.LOAD, index, 0);
      if (loop.slow.count > 0) add(Row.SLOW, index, 0);
    });

    add(Row.SECTION, Section.TASKS, 0);
    if (this.sectionOpen[Section.TASKS]) {
      // A stack of its own: a chain of tasks may be longer than JavaScript's stack is deep.
      const pending = [];
      const descend = (parent, depth) => {
        const items = this.under.get(parent);
        for (let at = (items?.length ?? 0) - 1; at >= 0; at--) pending.push([items[at], depth]);
      };
      descend(model.taskCount, 1);
      while (pending.length > 0) {
        const [item, depth] = pending.pop();
        if (item >= 0) {
          this.rowOfTask[item] = add(Row.TASK, item, depth);
          if (this.taskOpen[item]) descend(item, depth + 1);
          continue;
        }
        const group = this.groups[-1 - item];
        this.rowOfGroup[group.index] = add(Row.GROUP, group.index, depth);
        if (!group.open) continue;
        group.lanes.forEach((lane, index) => {
          const row = add(Row.LANE, index, depth + 1, group.index);
          for (const task of lane.tasks) this.rowOfTask[task] = row;
        });
        for (let at = group.parents.length - 1; at >= 0; at--) pending.push([group.parents[at], depth + 1]);
      }
    }

    if (model.transportCount > 0) {
      add(Row.SECTION, Section.TRANSPORTS, 0);
      if (this.sectionOpen[Section.TRANSPORTS]) {
        for (let transport = 0; transport < model.transportCount; transport++) add(Row.TRANSPORT, transport, 1);
      } else {
        add(Row.TRAFFIC, 0, 1);
      }
    }
    this.count = this.kinds.length;
  }

  laneAt(row) {
    return this.groups[this.owners[row]].lanes[this.items[row]];
  }

  /** The row in which a task is seen: its own, or that of whatever is closed over it. */
  rowOf(task) {
    while (task >= 0) {
      if (this.rowOfTask[task] >= 0) return this.rowOfTask[task];
      const group = this.groupOf[task];
      if (group >= 0 && this.rowOfGroup[group] >= 0) return this.rowOfGroup[group];
      task = this.model.parent[task];
    }
    return NONE;
  }

  /** Opens all that a task is under. */
  reveal(task) {
    if (this.rowOfTask[task] >= 0) return false;
    this.sectionOpen[Section.TASKS] = true;
    for (let at = task; at >= 0; at = this.model.parent[at]) {
      if (at !== task) this.taskOpen[at] = 1;
      if (this.groupOf[at] >= 0) this.groups[this.groupOf[at]].open = true;
    }
    this.flatten();
    return true;
  }

  canOpen(row) {
    const item = this.items[row];
    const kind = this.kinds[row];
    return kind === Row.SECTION || kind === Row.GROUP || (kind === Row.TASK && this.under.has(item));
  }

  isOpen(row) {
    const item = this.items[row];
    const kind = this.kinds[row];
    if (kind === Row.SECTION) return this.sectionOpen[item];
    return kind === Row.GROUP ? this.groups[item].open : this.taskOpen[item] === 1;
  }

  setOpen(row, open) {
    if (!this.canOpen(row) || this.isOpen(row) === open) return false;
    const item = this.items[row];
    const kind = this.kinds[row];
    if (kind === Row.SECTION) this.sectionOpen[item] = open;
    else if (kind === Row.GROUP) this.groups[item].open = open;
    else this.taskOpen[item] = open ? 1 : 0;
    this.flatten();
    return true;
  }

  /** The row that a row is under, or -1. */
  above(row) {
    const depth = this.depths[row];
    let at = row - 1;
    while (at >= 0 && this.depths[at] >= depth) at--;
    return at;
  }

  /** What a row says of itself at the left: its name and what is beside it in a fainter colour. */
  label(row) {
    const { model } = this;
    const item = this.items[row];
    switch (this.kinds[row]) {
      case Row.SECTION:
        return { name: SECTION_NAMES[item], beside: countText(item === Section.TASKS ? model.taskCount : model.transportCount) };
      case Row.LOAD:
        return { name: model.loops.length > 1 ? `Loop ${item + 1} busy` : "Loop busy", beside: percentText(model.loops[item].utilisation) };
      case Row.SLOW:
        return { name: "Callbacks", beside: `${countText(model.loops[item].slow.count)} ${model.threshold}` };
      case Row.TASK:
        return { name: model.ownName(item) || model.coroName(item), beside: model.ownName(item) ? model.coroName(item) : model.string(model.name[item]) };
      case Row.GROUP: {
        const group = this.groups[item];
        return { name: model.coroName(group.tasks[0]), beside: `× ${countText(group.tasks.length)}` };
      }
      case Row.LANE: {
        const { tasks } = this.laneAt(row);
        return { name: "", beside: tasks.length === 1 ? model.string(model.name[tasks[0]]) : `${countText(tasks.length)} tasks` };
      }
      case Row.TRAFFIC:
        return { name: "all", beside: `${bytesText(model.traffic.in.at(-1))} in, ${bytesText(model.traffic.out.at(-1))} out` };
      default: {
        const { kind, peer, in: bytesIn, out: bytesOut } = model.transports;
        const name = `${model.string(kind[item])} ${model.string(peer[item])}`.trim();
        return { name, beside: `${bytesText(bytesIn[item])} in, ${bytesText(bytesOut[item])} out` };
      }
    }
  }
}
