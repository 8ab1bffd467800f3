# SPDX-License-Identifier: MIT
"""The page and the heap snapshot where they are looked at: in Chromium, and in its developer tools'
own loader of heap snapshots; the latter also with memlab's, which comes from npm. What neither is
installed for is skipped."""

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import capturelib  # noqa: E402
import harness  # noqa: E402

CTL = os.path.abspath(os.path.join(harness.BUILD, "pyleakctl"))

PROGRAM = r"""
import threading
class Session:
    def __init__(self, n): self.n = n; self.data = {'n': n, 'x': [n] * 3}
SESSIONS = {('user', i): Session(i) for i in range(2000)}
LIST = [Session(i) for i in range(100)]
started, stop = threading.Event(), threading.Event()
def worker():
    mine = [Session(i) for i in range(50)]
    started.set(); stop.wait()
threading.Thread(target=worker, daemon=True, name='worker').start()
started.wait()
say('up')
hear()
"""


class Browser:
    """Headless Chromium over its DevTools protocol: a WebSocket, of which only this much is needed."""

    def __init__(self, test, chromium):
        self.folder = tempfile.mkdtemp()
        self.process = subprocess.Popen(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             "--remote-allow-origins=*", f"--user-data-dir={self.folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, TMPDIR=self.folder))
        test.addCleanup(self.end)
        end = time.monotonic() + 60
        port_file = os.path.join(self.folder, "DevToolsActivePort")
        while True:
            try:
                with open(port_file, encoding="ascii") as f:
                    self.port = int(f.readline())
                break
            except (FileNotFoundError, ValueError):
                if time.monotonic() > end or self.process.poll() is not None:
                    raise AssertionError("Chromium does not start") from None
                time.sleep(0.1)
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            url = json.load(answer)["webSocketDebuggerUrl"]
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        self.socket.sendall(
            f"GET /{url.split('/', 3)[3]} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode())
        self.stream = self.socket.makefile("rb")
        while self.stream.readline().strip():
            pass
        self.last, self.events = 0, []

    def end(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def receive(self):
        text = b""
        while True:
            first, second = self.stream.read(2)
            n = second & 0x7f
            if n == 126:
                n, = struct.unpack(">H", self.stream.read(2))
            elif n == 127:
                n, = struct.unpack(">Q", self.stream.read(8))
            text += self.stream.read(n)
            if first & 0x80:
                return json.loads(text)

    def call(self, method, **params):
        self.last += 1
        text = json.dumps({"id": self.last, "method": method, "params": params}).encode()
        mask = os.urandom(4)
        length = (struct.pack(">B", 0x80 | len(text)) if len(text) < 126 else
                  struct.pack(">BQ", 0x80 | 127, len(text)))
        wide = int.from_bytes((mask * (len(text) // 4 + 1))[:len(text)], "big")
        masked = (int.from_bytes(text, "big") ^ wide).to_bytes(len(text), "big")
        self.socket.sendall(b"\x81" + length + mask + masked)
        while True:
            answer = self.receive()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, url):
        self.events.clear()
        self.call("Page.enable")
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.receive())

    def run(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")


class Looking(harness.RootTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)

    def setUp(self):
        super().setUp()
        self.snapshot = os.path.join(self.folder, "snapshot")
        if os.path.exists(self.snapshot):
            return
        target = harness.Target(self, PROGRAM)
        target.hear()
        with open(self.snapshot, "w+b") as f:
            result = capturelib.capture(target.pid, f)
        self.assertEqual(result.code, capturelib.DONE, result.text)

    def ask(self, *args):
        done = subprocess.run([CTL, *args], capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), args)
        return done.stdout

    def save(self, name, *args):
        path = os.path.join(self.folder, name)
        self.ask(args[0], self.snapshot, *args[1:], "-o", path)
        return path

    def browser(self):
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if not chromium:
            self.skipTest("chromium is not installed")
        return Browser(self, chromium)

    def retained(self):
        """Counts and bytes that our dominators find, of the class and of one instance."""
        d = json.loads(self.ask("--json", "dominators", self.snapshot, "-n", "0"))
        one = next(h for h in d["holders"] if h["type"] == "__main__.Session" and "SESSIONS" in h["label"])
        return next(t for t in d["types"] if t["type"] == "__main__.Session"), one

    def test_page(self):
        page = self.save("report.html", "chain", "--type", "Session")
        b = self.browser()
        b.call("Runtime.enable")
        b.call("Log.enable")
        for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")):
            b.call("Emulation.setDeviceMetricsOverride", width=width, height=850, deviceScaleFactor=1,
                   mobile=width < 500)
            b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            b.open("file://" + page)
            said = [e for e in b.events if e.get("method") in
                    ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")]
            self.assertEqual(said, [], "nothing on the console")
            self.assertLessEqual(b.run("document.documentElement.scrollWidth"), width, "no scrolling aside")
            self.assertEqual(b.run("performance.getEntriesByType('resource').length"), 0)
            dark = b.run("getComputedStyle(document.body).backgroundColor") == "rgb(25, 23, 22)"
            self.assertEqual(dark, scheme == "dark")
            size = "document.querySelector('.view svg').getBoundingClientRect().width"
            before = b.run(size)
            b.run("document.querySelector('button[data-zoom=\"1.3\"]').click()")
            self.assertAlmostEqual(b.run(size) / before, 1.3, places=1)
            b.run("document.querySelector('button[data-zoom=\"0\"]').click()")
            self.assertAlmostEqual(b.run(size), b.run("document.querySelector('.view').clientWidth"), delta=2)
            # Larger than its frame, it is dragged.
            for _ in range(3):
                b.run("document.querySelector('button[data-zoom=\"1.3\"]').click()")
            spot = json.loads(b.run("JSON.stringify(document.querySelector('.view').getBoundingClientRect())"))
            x, y = spot["x"] + spot["width"] / 2, min(spot["y"] + spot["height"] / 2, 800)
            left = "document.querySelector('.view').scrollLeft"
            before = b.run(left)
            if width > 500:
                b.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
                b.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 60, y=y, button="left", buttons=1)
                b.call("Input.dispatchMouseEvent", type="mouseReleased", x=x - 60, y=y, button="left")
                self.assertAlmostEqual(b.run(left) - before, 60, delta=2)

    def test_developer_tools(self):
        path = self.save("heap.heapsnapshot", "types")
        with open(path, encoding="utf-8") as f:
            text = f.read()
        whole = json.loads(text)["snapshot"]
        ours, one = self.retained()
        b = self.browser()
        b.open("devtools://devtools/bundled/js_app.html")
        b.run("globalThis.parts = []; 0")
        for i in range(0, len(text), 500000):
            b.run(f"parts.push({json.dumps(text[i:i + 500000])}); 0")
        answer = b.run("""(async () => {
            const from = 'devtools://devtools/bundled/', found = {};
            for (const file of ['models/heap_snapshot/heap_snapshot.js', 'panels/profiler/profiler.js',
                                'models/heap_snapshot_model/heap_snapshot_model.js'])
                try { Object.assign(found, await import(from + file)); } catch (e) { /* moved */ }
            if (!found.HeapSnapshotProxy || !found.HeapSnapshotModel)
                return null;
            const worker = new found.HeapSnapshotProxy.HeapSnapshotWorkerProxy(() => {});
            let loader;
            const loaded = new Promise(done => { loader = worker.createLoader(1, done); });
            for (const part of parts) await loader.write(part);
            await loader.close();
            const s = await loaded;
            await s.updateStaticData();
            const classes = await s.aggregatesWithFilter(new found.HeapSnapshotModel.NodeFilter());
            const session = Object.values(classes).find(c => c.name === '__main__.Session');
            const way = [], beside = [];
            for (let at = session.idxs[0]; way.length < 8;) {
                const p = s.createRetainingEdgesProvider(at);
                const items = (await p.serializeItemsRange(0, 50)).items
                    .sort((a, b) => a.node.distance - b.node.distance);
                p.dispose();
                if (!items.length) break;
                if (way.length === 2) beside.push(...items.map(i => [i.name, i.node.name]));
                way.push([items[0].name, items[0].node.name]);
                at = items[0].node.nodeIndex;
            }
            return {nodes: s.staticData.nodeCount, bytes: s.staticData.totalSize, count: session.count,
                    self: session.self, retained: session.maxRet, way, beside};
        })()""")
        if answer is None:
            self.skipTest("these developer tools keep their loader elsewhere")
        self.assertEqual(answer["nodes"], whole["node_count"])
        self.assertEqual((answer["count"], answer["self"], answer["retained"]),
                         (2150, ours["bytes"], ours["retained_bytes"]))
        # The module's dict is as near by the function that runs.
        self.assertEqual(answer["way"][:2], [["['…']", "dict"], ["SESSIONS", "dict"]])
        self.assertIn(["__dict__", "module __main__"], answer["beside"])

    def test_memlab(self):
        npm, node = shutil.which("npm"), shutil.which("node")
        if not npm or not node:
            self.skipTest("npm is not installed")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund",
                                   "@memlab/heap-analysis"], cwd=folder, capture_output=True, text=True,
                                  timeout=600, check=False)
            if done.returncode:
                self.skipTest("memlab cannot be had from npm: " + done.stderr[-200:])
            path = self.save("memlab.heapsnapshot", "types")
            with open(os.path.join(folder, "t.js"), "w", encoding="ascii") as f:
                f.write("""
                    const {getFullHeapFromFile} = require('@memlab/heap-analysis');
                    (async () => {
                        const heap = await getFullHeapFromFile(process.argv[2]);
                        let count = 0, one = null;
                        heap.nodes.forEach(n => {
                            if (n.name !== '__main__.Session') return;
                            count++;
                            one = one || n;
                        });
                        const way = [];
                        for (let n = one; n && n.pathEdge; n = n.pathEdge.fromNode)
                            way.push([String(n.pathEdge.name_or_index), n.pathEdge.fromNode.name]);
                        require('fs').writeFileSync(process.argv[3], JSON.stringify({
                            nodes: heap.nodes.length, edges: heap.edges.length, count, way,
                            retained: one.retainedSize}));
                    })();""")
            subprocess.run([node, "t.js", path, "answer.json"], cwd=folder, capture_output=True,
                           timeout=300, check=True, env=dict(os.environ, TMPDIR=folder))
            with open(os.path.join(folder, "answer.json"), encoding="utf-8") as f:
                answer = json.load(f)
        with open(path, encoding="utf-8") as f:
            whole = json.load(f)["snapshot"]
        _, one = self.retained()
        self.assertEqual((answer["nodes"], answer["edges"], answer["count"]),
                         (whole["node_count"], whole["edge_count"], 2150))
        self.assertEqual(answer["retained"], one["retained_bytes"])
        self.assertEqual(answer["way"][:3], [["['…']", "dict"], ["SESSIONS", "dict"],
                                             ["__dict__", "module __main__"]])


if __name__ == "__main__":
    unittest.main()
