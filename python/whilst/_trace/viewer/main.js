// Starts the page. Its mark "ready" is when the first frame has been drawn.

function start() {
  const holder = byId("record");
  const record = JSON.parse(holder.textContent);
  // The text is large and has been read.
  holder.remove();
  const app = new App(record);
  listenToPointer(app);
  listenToOverview(app);
  listenToDivider(app);
  listenToButtons(app);
  listenToKeys(app);
  app.draw();
  performance.mark("ready");
  document.documentElement.dataset.ready = "yes";
}

try {
  start();
} catch (error) {
  document.body.prepend(element("p", { role: "alert" }, `This record cannot be shown: ${error.message}`));
  throw error;
}
