// What a task can be doing: the words, the letter, the texture. The colours are in page.css, as --kind-NAME.
// Nobody needs the colour alone: each kind has a texture too, and its letter or word where the bar has room for it.

const RUN = 0;
const READY = 1;

/**
 * The first is running, the second ready; the others are the kinds of wait, by the names that the record has for them. Those that the record alone
 * has get a line of their own in Model, after these.
 */
const KINDS = [
  { name: "run", label: "running", letter: "", texture: "plain", did: "ran" },
  { name: "ready", label: "ready, waits for its turn", short: "ready", letter: "r", texture: "dense", did: "was ready and waited for its turn" },
  { name: "sleep", label: "sleep", letter: "s", texture: "plain", did: "slept" },
  { name: "socket", label: "socket", letter: "n", texture: "rising", did: "waited for the network" },
  { name: "lock", label: "lock", letter: "l", texture: "cross", did: "waited for a lock" },
  { name: "queue", label: "queue", letter: "q", texture: "upright", did: "waited for a queue" },
  { name: "executor", label: "thread (executor)", short: "thread", letter: "e", texture: "falling", did: "waited for a thread (executor)" },
  { name: "task", label: "another task", short: "task", letter: "t", texture: "level", did: "waited for another task" },
  { name: "gather", label: "several tasks (gather)", short: "gather", letter: "g", texture: "grid", did: "waited for several tasks" },
  { name: "process", label: "subprocess", letter: "p", texture: "dots", did: "waited for a subprocess" },
  { name: "future", label: "future", letter: "f", texture: "sparse", did: "waited for a future" },
];

const KNOWN_KINDS = new Map(KINDS.map((kind, index) => [kind.name, index]));

function shortLabel(kind) {
  return kind.short ?? kind.label;
}

/** Index of the kind with this name; a name that is not known gets a kind, so that a newer record can be read. */
function kindIndex(name) {
  let index = KNOWN_KINDS.get(name);
  if (index === undefined) {
    index = KINDS.length;
    KINDS.push({ name, label: name, letter: name.slice(0, 1), texture: "sparse", did: `waited (${name})` });
    KNOWN_KINDS.set(name, index);
  }
  return index;
}
