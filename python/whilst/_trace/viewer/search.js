// Search by task's name, coroutine, file and line, function or source line.

class Search {
  constructor(model) {
    this.model = model;
    this.lower = model.strings.map((string) => String(string).toLowerCase());
  }

  /** @returns {?{has: function(number): boolean, tasks: Uint32Array}} the tasks that a text is found in, by their begin; null for no text */
  find(text) {
    const wanted = text.trim().toLowerCase();
    if (wanted === "") return null;
    const { model } = this;
    const strings = Uint8Array.from(this.lower, (string) => (string.includes(wanted) ? 1 : 0));
    const places = Uint8Array.from(model.places, ([path, line, name, source]) =>
      strings[name] || (source >= 0 && strings[source]) || `${this.lower[path]}:${line}`.includes(wanted) ? 1 : 0);
    const hit = new Uint8Array(model.taskCount);
    for (let task = 0; task < model.taskCount; task++) {
      if (strings[model.name[task]] || strings[model.coro[task]] || places[model.place[task]] || places[model.madeAt[task]]) hit[task] = 1;
      else {
        const last = model.first[task + 1];
        for (let at = model.first[task]; at < last; at++) {
          const wait = model.segmentWait[at];
          if (wait >= 0 && places[model.waitPlace[wait]]) {
            hit[task] = 1;
            break;
          }
        }
      }
    }
    const tasks = Uint32Array.from(hit.keys()).filter((task) => hit[task]);
    return { tasks, has: (task) => hit[task] === 1 };
  }
}
