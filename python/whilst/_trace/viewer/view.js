// What part of the time is seen, and on how many pixels.

/** No closer than this, in µs: records are in microseconds. */
const CLOSEST = 5;

class View {
  constructor(duration, changed) {
    this.duration = duration;
    // A little room at both ends, so that what begins at 0 is seen to begin.
    this.margin = duration * 0.012;
    this.changed = changed;
    this.width = 1;
    this.begin = -this.margin;
    this.end = duration + this.margin;
    /** Where a glide under way will end. */
    this.goal = { begin: this.begin, end: this.end };
    this.motion = window.matchMedia("(prefers-reduced-motion: reduce)");
    this.going = 0;
  }

  get span() {
    return this.end - this.begin;
  }

  x(moment) {
    return ((moment - this.begin) / this.span) * this.width;
  }

  moment(x) {
    return this.begin + (x / this.width) * this.span;
  }

  /** Microseconds of one pixel. */
  get pixel() {
    return this.span / this.width;
  }

  get isMoving() {
    return this.begin !== this.goal.begin || this.end !== this.goal.end;
  }

  get isWhole() {
    return this.begin <= -this.margin && this.end >= this.duration + this.margin;
  }

  /** [begin, end], moved and stretched into what there is. */
  fitted(begin, end) {
    const whole = this.duration + 2 * this.margin;
    const span = Math.min(whole, Math.max(CLOSEST, end - begin));
    const middle = (begin + end) / 2;
    const from = Math.min(Math.max(middle - span / 2, -this.margin), this.duration + this.margin - span);
    return { begin: from, end: from + span };
  }

  place(begin, end) {
    this.begin = begin;
    this.end = end;
    this.changed();
  }

  /** Shows a span at once. */
  show(begin, end) {
    cancelAnimationFrame(this.going);
    this.goal = this.fitted(begin, end);
    this.place(this.goal.begin, this.goal.end);
  }

  /** The same in a few frames, that the eye can follow; at once for those who want no motion. */
  glide(begin, end) {
    if (this.motion.matches) {
      this.show(begin, end);
      return;
    }
    cancelAnimationFrame(this.going);
    const from = { begin: this.begin, end: this.end };
    const goal = this.fitted(begin, end);
    this.goal = goal;
    const started = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, (now - started) / 140));
      const eased = part * (2 - part);
      if (part === 1) {
        this.place(goal.begin, goal.end);
        return;
      }
      this.place(from.begin + (goal.begin - from.begin) * eased, from.end + (goal.end - from.end) * eased);
      this.going = requestAnimationFrame(step);
    };
    step(started);
  }

  // What follows goes on from where a glide under way will end, so that keys in quick succession add up.

  fit() {
    this.glide(-this.margin, this.duration + this.margin);
  }

  zoom(factor, around = (this.goal.begin + this.goal.end) / 2, glide = true) {
    const begin = around - (around - this.goal.begin) * factor;
    const end = around + (this.goal.end - around) * factor;
    if (glide) this.glide(begin, end);
    else this.show(begin, end);
  }

  pan(µs, glide = true) {
    if (glide) this.glide(this.goal.begin + µs, this.goal.end + µs);
    else this.show(this.goal.begin + µs, this.goal.end + µs);
  }

  /** Shows a span with some of what is around it. */
  focus(begin, end) {
    const around = Math.max((end - begin) * 0.15, CLOSEST);
    this.glide(begin - around, end + around);
  }

  /** Moves as little as makes a span visible; zooms out if it does not fit, in if it would be a speck. */
  reveal(begin, end) {
    const { goal } = this;
    const span = goal.end - goal.begin;
    if (end - begin < (3 * span) / this.width || end - begin > span) this.focus(begin, end);
    else if (begin < goal.begin || end > goal.end) this.glide((begin + end - span) / 2, (begin + end + span) / 2);
  }
}
