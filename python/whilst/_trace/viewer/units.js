// Times, sizes and counts in words.

/** A span of time as people say it: "41 µs", "4.12 ms", "2.00 s", "3 min 20 s". */
function spanText(µs) {
  const size = Math.abs(µs);
  if (size === 0) return "0";
  if (size < 9.95) return `${+µs.toFixed(1)} µs`;
  if (size < 999.5) return `${µs.toFixed(0)} µs`;
  if (size < 999_500) return `${threeDigits(µs / 1e3)} ms`;
  if (size < 59_950_000) return `${threeDigits(µs / 1e6)} s`;
  const seconds = Math.round(µs / 1e6);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function threeDigits(value) {
  const size = Math.abs(value);
  return value.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

/** A moment of the record, with as many digits as tell it from one that is `step` later. */
function momentText(µs, step) {
  const size = Math.abs(µs);
  const [unit, name] = size >= 1e6 || step >= 1e5 ? [1e6, "s"] : size >= 1e3 || step >= 100 ? [1e3, "ms"] : [1, "µs"];
  const digits = Math.min(7, Math.max(0, Math.ceil(-Math.log10(step / unit) - 1e-9)));
  return µs === 0 ? "0" : `${(µs / unit).toFixed(digits)} ${name}`;
}

/** A moment for reading, not for calculating: "41 µs", "940.5 ms", "2.0013 s". */
function whenText(µs) {
  return momentText(µs, µs >= 1e5 ? 100 : µs >= 1e3 ? 10 : 1);
}

/** The steps that an axis may have: 1, 2 and 5 of each power of ten, and the clock's own above a minute. */
function axisStep(span, marks) {
  const least = span / marks;
  const second = 1e6;
  if (least > 30 * second) {
    const clock = [60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400].map((count) => count * second);
    return clock.find((step) => step >= least) ?? Math.ceil(least / clock.at(-1)) * clock.at(-1);
  }
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999);
}

function bytesText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let unit = -1;
  let value = bytes;
  do {
    value /= 1000;
    unit += 1;
  } while (value >= 999.5 && unit < units.length - 1);
  return `${threeDigits(value)} ${units[unit]}`;
}

/** 1234567 as "1 234 567", with spaces that do not break. */
function countText(count) {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
}

function plural(count, one, many = `${one}s`) {
  return `${countText(count)} ${count === 1 ? one : many}`;
}

function percentText(part) {
  const percent = part * 100;
  const number = percent === 0 ? "0" : percent < 0.1 ? "< 0.1" : percent.toFixed(percent < 10 ? 1 : 0);
  return `${number} %`.replaceAll(" ", "\u00a0");
}

/** The last part of a path; the whole is shown as a title where there is room for one. */
function baseName(path) {
  return path.slice(path.lastIndexOf("/") + 1);
}
