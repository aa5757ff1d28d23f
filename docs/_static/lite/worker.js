// Python in a worker: runs what it is sent, one text after the other, in one namespace.
importScripts("../pyodide/pyodide.js");

const ready = (async () => {
  const python = await loadPyodide({ indexURL: new URL("../pyodide/", location).href });
  await python.loadPackage("numpy", { messageCallback: () => {} });
  const features = await fetch("features.npz");
  if (features.ok) python.FS.writeFile("features.npz", new Uint8Array(await features.arrayBuffer()));
  python.setStdout({ batched: (text) => postMessage({ kind: "text", text }) });
  python.setStderr({ batched: (text) => postMessage({ kind: "text", text }) });
  python.runPython(`
import pyodide.code, traceback
space = {"__name__": "__main__"}
def run(code):
    try:
        value = pyodide.code.eval_code(code, space, filename="<cell>")
        if value is not None:
            print(repr(value))
    except BaseException as problem:
        lines = [f.lineno for f in traceback.extract_tb(problem.__traceback__) if f.filename == "<cell>"]
        place = f" (line {lines[0]} of this cell)" if lines else ""
        return "".join(traceback.format_exception_only(problem)).strip() + place
`);
  return python.globals.get("run");
})();

onmessage = async ({ data }) => {
  try {
    postMessage({ kind: "done", error: (await ready)(data) || "" });
  } catch (problem) {
    postMessage({ kind: "done", error: String(problem) });
  }
};
