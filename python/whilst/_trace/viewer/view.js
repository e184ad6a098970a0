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

  get isWhole() {
    return this.begin <= -this.margin && this.end >= this.duration + this.margin;
  }

  /** Shows [begin, end], moved and stretched into what there is. */
  show(begin, end) {
    cancelAnimationFrame(this.going);
    const whole = this.duration + 2 * this.margin;
    const span = Math.min(whole, Math.max(CLOSEST, end - begin));
    if (end - begin !== span) begin = (begin + end - span) / 2;
    begin = Math.min(Math.max(begin, -this.margin), this.duration + this.margin - span);
    this.begin = begin;
    this.end = begin + span;
    this.changed();
  }

  /** The same in a few frames, that the eye can follow; at once for those who want no motion. */
  glide(begin, end) {
    if (this.motion.matches) {
      this.show(begin, end);
      return;
    }
    const from = [this.begin, this.end];
    const started = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, (now - started) / 140));
      const eased = part * (2 - part);
      this.show(from[0] + (begin - from[0]) * eased, from[1] + (end - from[1]) * eased);
      if (part < 1) this.going = requestAnimationFrame(step);
    };
    step(started);
  }

  fit() {
    this.glide(-this.margin, this.duration + this.margin);
  }

  zoom(factor, around = (this.begin + this.end) / 2, glide = true) {
    const begin = around - (around - this.begin) * factor;
    const end = around + (this.end - around) * factor;
    if (glide) this.glide(begin, end);
    else this.show(begin, end);
  }

  pan(µs, glide = true) {
    const go = Math.min(Math.max(µs, -this.margin - this.begin), this.duration + this.margin - this.end);
    if (glide) this.glide(this.begin + go, this.end + go);
    else this.show(this.begin + go, this.end + go);
  }

  /** Shows a span with some of what is around it; µs. */
  focus(begin, end) {
    const around = Math.max((end - begin) * 0.15, CLOSEST);
    this.glide(begin - around, end + around);
  }

  /** Moves as little as makes a span visible; zooms out if it does not fit, in if it would be a speck. */
  reveal(begin, end) {
    if ((end - begin) / this.pixel < 3 || end - begin > this.span) this.focus(begin, end);
    else if (begin < this.begin || end > this.end) this.glide((begin + end - this.span) / 2, (begin + end + this.span) / 2);
  }
}
