// Makes the code cells of a page run in the browser: edit, then "Run". Python lives in a worker, so the page stays alive.
(() => {
  const folder = new URL(".", document.currentScript.src);
  const cells = [...document.querySelectorAll("div.cell")].filter((cell) => cell.querySelector(".cell_input pre"));
  const first = cells[0];
  if (!first) return;
  const bar = document.createElement("p");
  bar.className = "lite-bar";
  first.before(bar);
  if (location.protocol === "file:") {
    bar.textContent =
      "The cells of this page can be run once the folder is served: python3 -m http.server --directory build/site";
    return;
  }

  let worker = null;
  let waiting = null;
  const start = () => {
    worker = new Worker(new URL("worker.js", folder));
    worker.onmessage = ({ data }) => waiting && waiting(data);
    worker.onerror = () => waiting && waiting({ kind: "done", error: "Python could not be started in this browser" });
  };
  const button = (text, act, place) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.onclick = act;
    place.append(made);
    return made;
  };
  const state = document.createElement("span");
  state.setAttribute("role", "status");

  const run = (cell) =>
    new Promise((finished) => {
      if (worker === null) start();
      let output = cell.querySelector(".cell_output");
      if (!output) {
        output = document.createElement("div");
        output.className = "cell_output docutils container";
        cell.append(output);
      }
      const shown = document.createElement("pre");
      output.replaceChildren(shown);
      state.textContent = "Python is at work …";
      waiting = (message) => {
        if (message.kind === "text") {
          shown.textContent += `${message.text}\n`;
          return;
        }
        waiting = null;
        state.textContent = "";
        if (message.error) {
          shown.textContent += message.error;
          shown.classList.add("lite-error");
        }
        if (!shown.textContent) output.remove();
        finished(!message.error);
      };
      worker.postMessage(cell.querySelector(".cell_input pre").textContent);
    });

  let queue = Promise.resolve();
  const later = (work) => {
    queue = queue.then(work, work);
    return queue;
  };
  button("Run all", () => later(async () => { for (const cell of cells) if (!(await run(cell))) break; }), bar);
  button("Start again", () => {
    if (worker) worker.terminate();
    worker = null;
    if (waiting) waiting({ kind: "done", error: "stopped" });
  }, bar);
  bar.append(state);
  for (const cell of cells) {
    const code = cell.querySelector(".cell_input pre");
    code.contentEditable = "plaintext-only";
    if (code.contentEditable !== "plaintext-only") code.contentEditable = "true";
    code.spellcheck = false;
    code.setAttribute("role", "textbox");
    code.setAttribute("aria-multiline", "true");
    code.setAttribute("aria-label", "Python code; Shift and Enter run it");
    const act = () => later(() => run(cell));
    code.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.shiftKey) {
        event.preventDefault();
        act();
      }
    });
    button("Run", act, cell.querySelector(".cell_input")).className = "lite-run";
  }
})();
