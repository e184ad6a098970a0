// The record (docs/tracing.md has its format) as columns that can be searched by time.
//
// Hundreds of thousands of runs and waits are kept as typed arrays, those of one task beside each other and in order of time: a
// task's "segments" are all[first[task]] up to all[first[task + 1]]. What is drawn or told is found from there by bisection.

const NONE = -1;
/** A task that has its first turn within so many µs is not told to have waited for it. */
const LATE = 1000;
const OUTCOMES = ["pending", "returned", "raised", "cancelled"];
const [PENDING, RETURNED, RAISED, CANCELLED] = OUTCOMES.keys();

/** The first index in [low, high) whose value is above `limit`, or `high`: `values` ascend there. */
function firstAbove(values, limit, low, high) {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] > limit) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** As firstAbove, with values that reach `limit`. */
function firstReaching(values, limit, low, high) {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (values[middle] >= limit) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Indices in order of `keys`; the numbers as they are where they ascend already, as they mostly do. */
function inOrder(keys) {
  const order = Uint32Array.from({ length: keys.length }, (_, index) => index);
  for (let index = 1; index < keys.length; index++) {
    if (keys[index] < keys[index - 1]) return order.sort((a, b) => keys[a] - keys[b] || a - b);
  }
  return order;
}

/** How many of some spans overlap at most; both begins and ends ascend. */
function mostAtOnce(begins, ends) {
  let most = 0;
  for (let begun = 0, ended = 0; begun < begins.length; begun++) {
    while (ended < begun && ends[ended] <= begins[begun]) ended++;
    most = Math.max(most, begun + 1 - ended);
  }
  return most;
}

/** How many spans are there at some time of [from, to); both begins and ends ascend. */
function countAlive(begins, ends, from, to) {
  return firstReaching(begins, to, 0, begins.length) - firstReaching(ends, from, 0, ends.length);
}

/** Spans of time that do not overlap, with the sum of their lengths up to each: how much of any span they cover is two bisections. */
class Spans {
  /** Of columns those with the given indices, or all. */
  constructor(begins, ends, indices = Uint32Array.from({ length: begins.length }, (_, index) => index)) {
    const order = inOrder(indices.map((index) => begins[index])).map((at) => indices[at]);
    this.count = order.length;
    /** Where in the columns each of them is. */
    this.order = order;
    this.begin = Float64Array.from(order, (index) => begins[index]);
    this.end = Float64Array.from(order, (index) => ends[index]);
    this.sum = new Float64Array(this.count + 1);
    for (let index = 0; index < this.count; index++) {
      this.sum[index + 1] = this.sum[index] + Math.max(0, this.end[index] - this.begin[index]);
    }
  }

  /** How much of the time up to `moment` is covered. */
  coveredBefore(moment) {
    const next = firstReaching(this.begin, moment, 0, this.count);
    if (next === 0) return 0;
    return this.sum[next] - Math.max(0, this.end[next - 1] - moment);
  }

  covered(from, to) {
    return this.coveredBefore(to) - this.coveredBefore(from);
  }
}

/** A loop, or several of which each began when the one before had ended, as calls of asyncio.run do: what one row tells of. */
class LoopLane {
  constructor(record, loops, duration, known) {
    const { begin, end } = record.loops ?? { begin: [0], end: [duration] };
    const has = new Set(loops);
    const own = (columns) => {
      const all = Uint32Array.from({ length: columns.begin.length }, (_, index) => index);
      const mine = columns.loop ? all.filter((index) => has.has(columns.loop[index])) : all;
      return new Spans(columns.begin, columns.end, mine);
    };
    // A poll that was dropped must not look like work.
    const from = begin.map((moment) => Math.max(moment, known));
    const to = end.map((moment, loop) => Math.max(moment < 0 ? duration : moment, from[loop]));
    this.alive = new Spans(from, to, Uint32Array.from(loops));
    // What the recorder has counted, which no dropping makes less; else what polls leave.
    const busy = record.loops?.busy;
    const lived = loops.reduce((sum, loop) => sum + (end[loop] < 0 ? duration : end[loop]) - begin[loop], 0);
    this.share = busy && lived > 0 ? Math.min(1, loops.reduce((sum, loop) => sum + busy[loop], 0) / lived) : null;
    this.idle = own(record.polls_at ?? NOTHING);
    this.slow = own(record.callbacks ?? NOTHING);
  }

  /** Part of all its time in which callbacks ran. */
  get utilisation() {
    return this.share ?? this.load(0, this.alive.end.at(-1));
  }

  /** Part of a span in which the loop was there and not blocked in its poll. */
  load(from, to) {
    if (to <= from) return 0;
    const load = (this.alive.covered(from, to) - this.idle.covered(from, to)) / (to - from);
    // What is left of a difference of large sums is no load.
    return load < 1e-6 ? 0 : Math.min(1, load);
  }
}

const NOTHING = { begin: [], end: [] };

class Model {
  constructor(record) {
    if (record.format !== 1) throw new Error(`this page reads format 1 of a record, not ${record.format}`);
    // What is not in columns: the program, versions, counts.
    const { tasks, runs, waits, ...head } = record;
    this.head = head;
    this.runCount = runs.begin.length;
    this.strings = record.strings;
    this.places = record.places;
    this.stacks = record.stacks ?? [];
    this.duration = Math.max(record.duration, 1);
    this.readTasks(tasks);
    this.readKnown(record);
    this.readSegments(runs, waits);
    this.readChildren();
    this.readLoops(record);
    this.readTransports(record.transports, record.bytes);
    this.begins = this.begin.slice().sort();
    this.ends = this.end.slice().sort();
    this.peak = mostAtOnce(this.begins, this.ends);
  }

  readTasks(columns) {
    const count = columns.begin.length;
    this.taskCount = count;
    this.id = columns.id;
    this.name = Int32Array.from(columns.name);
    this.coro = Int32Array.from(columns.coro);
    this.place = Int32Array.from(columns.place);
    this.madeAt = Int32Array.from(columns.made_at);
    this.parent = Int32Array.from(columns.parent);
    this.begin = Float64Array.from(columns.begin);
    this.end = Float64Array.from(columns.end);
    this.outcome = Uint8Array.from(columns.outcome);
    this.error = Int32Array.from(columns.error);
    for (let task = 0; task < count; task++) {
      if (this.end[task] < 0) this.end[task] = Math.max(this.duration, this.begin[task]);
      // A task is made after the one that makes it: anything else would go round in circles.
      if (this.parent[task] >= task) this.parent[task] = NONE;
    }
  }

  readSegments(runs, waits) {
    const runCount = runs.begin.length;
    const waitCount = waits.begin.length;
    const runOrder = inOrder(runs.begin);
    const waitOrder = inOrder(waits.begin);
    const late = this.startedLate(runs, runOrder);
    const first = new Uint32Array(this.taskCount + 1);
    for (const task of runs.task) first[task + 1]++;
    for (const task of waits.task) first[task + 1]++;
    for (const task of late) first[task + 1]++;
    const total = runCount + waitCount + late.size;
    for (let task = 0; task < this.taskCount; task++) first[task + 1] += first[task];
    this.first = first;
    this.segmentCount = total;
    this.segmentBegin = new Float64Array(total);
    this.segmentEnd = new Float64Array(total);
    this.segmentKind = new Uint8Array(total);
    // Of a wait its index in the record; of a run, and of the time before the first, -1.
    this.segmentWait = new Int32Array(total).fill(NONE);
    this.waitOn = Int32Array.from(waits.on);
    this.waitPlace = Int32Array.from(waits.place);
    this.waitStack = waits.stack ? Int32Array.from(waits.stack) : new Int32Array(waitCount).fill(NONE);

    const kinds = new Map();
    const kindOf = (string) => {
      if (!kinds.has(string)) kinds.set(string, kindIndex(this.strings[string]));
      return kinds.get(string);
    };
    const next = first.slice();
    let run = 0;
    let wait = 0;
    while (run < runCount || wait < waitCount) {
      const r = runOrder[run];
      const w = waitOrder[wait];
      if (wait === waitCount || (run < runCount && runs.begin[r] <= waits.begin[w])) {
        const task = runs.task[r];
        if (next[task] === first[task] && late.has(task)) {
          const at = next[task]++;
          this.segmentBegin[at] = this.begin[task];
          this.segmentEnd[at] = runs.begin[r];
          this.segmentKind[at] = READY;
        }
        const at = next[task]++;
        this.segmentBegin[at] = runs.begin[r];
        this.segmentEnd[at] = runs.end[r] < 0 ? this.duration : runs.end[r];
        run++;
      } else {
        const at = next[waits.task[w]]++;
        this.segmentBegin[at] = waits.begin[w];
        this.segmentEnd[at] = waits.end[w] < 0 ? this.end[waits.task[w]] : waits.end[w];
        this.segmentKind[at] = kindOf(waits.kind[w]);
        this.segmentWait[at] = w;
        wait++;
      }
    }

    // How long the task had run before each of its segments, so that the share of running in any span is a subtraction.
    this.ranBefore = new Float64Array(total);
    this.ran = new Float64Array(this.taskCount);
    this.steps = new Uint32Array(this.taskCount);
    for (let task = 0; task < this.taskCount; task++) {
      let ran = 0;
      for (let at = first[task]; at < first[task + 1]; at++) {
        this.ranBefore[at] = ran;
        if (this.segmentKind[at] === RUN) {
          ran += this.segmentEnd[at] - this.segmentBegin[at];
          this.steps[task]++;
        }
      }
      this.ran[task] = ran;
    }
  }

  /** Tasks whose first turn came late: from its creation on a task is ready. */
  startedLate(runs, runOrder) {
    const seen = new Uint8Array(this.taskCount);
    const late = new Set();
    for (const run of runOrder) {
      const task = runs.task[run];
      if (seen[task]) continue;
      seen[task] = 1;
      // The first run of a task that began before the oldest event may not be its first one.
      if (runs.begin[run] - this.begin[task] >= LATE && (this.known === 0 || this.begin[task] >= this.known)) late.add(task);
    }
    return late;
  }

  /** Who made whom; those that nobody of the record has made are the children of `taskCount`. */
  readChildren() {
    const root = this.taskCount;
    const first = new Uint32Array(root + 2);
    const parentOf = (task) => (this.parent[task] < 0 ? root : this.parent[task]);
    for (let task = 0; task < root; task++) first[parentOf(task) + 1]++;
    for (let index = 0; index <= root; index++) first[index + 1] += first[index];
    const next = first.slice();
    this.children = new Uint32Array(root);
    for (let task = 0; task < root; task++) this.children[next[parentOf(task)]++] = task;
    this.firstChild = first;
  }

  /** From when on all is in the record: when the oldest event was, if older ones have been dropped. */
  readKnown(record) {
    this.known = 0;
    if (!(record.dropped > 0)) return;
    const moments = [record.runs.begin, record.polls_at?.begin, record.callbacks?.begin, record.bytes?.at];
    this.known = this.duration;
    for (const column of moments) for (const moment of column ?? []) this.known = Math.min(this.known, moment);
  }

  /** Loops of several threads have lanes beside each other. */
  readLoops(record) {
    const { begin, end } = record.loops ?? { begin: [0], end: [this.duration] };
    const lanes = [];
    for (const loop of inOrder(begin)) {
      const free = lanes.find((lane) => lane.end <= begin[loop]);
      const lane = free ?? { loops: [], end: 0 };
      if (!free) lanes.push(lane);
      lane.loops.push(loop);
      lane.end = end[loop] < 0 ? Infinity : end[loop];
    }
    this.loops = lanes.map((lane) => new LoopLane(record, lane.loops, this.duration, this.known));
    const callbacks = record.callbacks ?? { ...NOTHING, name: [], place: [] };
    this.threshold = `over ${spanText(record.threshold ?? 0)}`;
    this.slow = {
      count: callbacks.begin.length,
      name: callbacks.name,
      place: callbacks.place,
      begin: callbacks.begin,
      end: callbacks.end,
    };
  }

  readTransports(transports, bytes) {
    const columns = transports ?? { kind: [], peer: [], begin: [], end: [], in: [], out: [] };
    this.transports = columns;
    this.transportCount = columns.kind.length;
    const flow = bytes ?? { transport: [], at: [], in: [], out: [] };
    const order = inOrder(flow.at);
    this.traffic = this.trafficOf(flow, order);
    const own = Array.from({ length: this.transportCount }, () => []);
    for (const index of order) own[flow.transport[index]]?.push(index);
    this.trafficBy = own.map((indices) => this.trafficOf(flow, indices));
  }

  /** Bytes by time, as sums, so that those of any span are a subtraction. */
  trafficOf(flow, indices) {
    const count = indices.length;
    const traffic = { count, at: new Float64Array(count), in: new Float64Array(count + 1), out: new Float64Array(count + 1) };
    for (let index = 0; index < count; index++) {
      traffic.at[index] = flow.at[indices[index]];
      traffic.in[index + 1] = traffic.in[index] + flow.in[indices[index]];
      traffic.out[index + 1] = traffic.out[index] + flow.out[indices[index]];
    }
    return traffic;
  }

  string(index) {
    return index < 0 ? "" : (this.strings[index] ?? "");
  }

  /** @returns {?{path: string, file: string, line: number, function: string, source: string}} */
  placeAt(index) {
    if (index < 0 || !this.places[index]) return null;
    const [path, line, name, source] = this.places[index];
    const whole = this.string(path);
    return { path: whole, file: baseName(whole), line, function: this.string(name), source: this.string(source) };
  }

  /** The coroutine's name without what it is nested in: "handle" of "Server.serve.<locals>.handle", nor a class, if that is long. */
  coroName(task) {
    const name = this.string(this.coro[task]).split("<locals>.").at(-1);
    return (name.length > 26 ? name.slice(name.lastIndexOf(".") + 1) : name) || this.string(this.name[task]) || "task";
  }

  /** Its name, where somebody has given it one; asyncio's own are "Task-1" and so on. */
  ownName(task) {
    const name = this.string(this.name[task]);
    return /^Task-\d+$/.test(name) ? "" : name;
  }

  /** "simulated_fetch (Task-1)". */
  title(task) {
    const name = this.string(this.name[task]);
    return name ? `${this.coroName(task)} (${name})` : this.coroName(task);
  }

  isPending(task) {
    return this.outcome[task] === PENDING;
  }

  /** How its life ended, in words. */
  outcomeText(task) {
    const outcome = this.outcome[task];
    if (outcome === RETURNED) return "returned";
    if (outcome === CANCELLED) return "was cancelled";
    if (outcome === RAISED) return `raised ${this.string(this.error[task]) || "an exception"}`;
    return "was still pending when the record ended";
  }

  /** The first segment of a task that is not over at `moment`, or the end of its segments. */
  segmentFrom(task, moment) {
    return firstAbove(this.segmentEnd, moment, this.first[task], this.first[task + 1]);
  }

  /** That of the busiest loop. */
  load(from, to) {
    let most = 0;
    for (const loop of this.loops) most = Math.max(most, loop.load(from, to));
    return most;
  }
}
