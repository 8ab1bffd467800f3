# SPDX-License-Identifier: MIT
"""Verdicts on real programs, as recorded: the whole corpus (tests/corpus), replayed as it was, under other
settings and stretched to long windows."""

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../corpus"))
import corpus  # noqa: E402
from harness import BUILD  # noqa: E402

BESIDE = True  # pure computing
BENIGN = os.path.join(os.path.dirname(__file__), "../../config/benign.yaml")
RECORDINGS = os.path.join(os.path.dirname(__file__), "../corpus/recordings")


def stretched(path, factor, to):
    """The same recording with all times longer: what half a minute was is hours."""
    begin = None
    with open(path, encoding="utf-8") as f, open(to, "w", encoding="utf-8") as out:
        for line in f:
            words = line.split()
            if words[0] == "C":
                line = "C " + " ".join(str(int(w) * factor) for w in words[1:4]) + f" {words[4]}\n"
            elif words[0] == "S":
                begin = begin or int(words[2])
                line = f"S {words[1]} {begin + (int(words[2]) - begin) * factor}\n"
            out.write(line)


class Recordings(unittest.TestCase):
    def check(self, factor):
        paths = glob.glob(f"{RECORDINGS}/*.rec")
        programs = {p.name: p for p in corpus.programs([])}
        self.assertEqual({os.path.basename(p)[:-4] for p in paths}, set(programs))
        wrong = {}
        with tempfile.TemporaryDirectory() as folder:
            for path in paths:
                program = programs[os.path.basename(path)[:-4]]
                long = path
                if factor > 1:
                    long = f"{folder}/{program.name}.rec"
                    stretched(path, factor, long)
                what = corpus.judge(program, corpus.leaders(corpus.replay(long)))
                if what:
                    wrong[program.name] = what
        self.assertEqual(wrong, {})

    def test_as_recorded(self):
        self.check(1)

    def test_at_long_windows(self):
        self.check(225)  # eight seconds are half an hour

    def test_other_settings(self):
        path = f"{RECORDINGS}/sessions.rec"
        self.assertEqual(corpus.leaders(corpus.replay(path, "--min-objects", "1000000")), {})
        self.assertEqual(corpus.leaders(corpus.replay(path, "--warmup", "1h")), {})
        half = corpus.leaders(corpus.replay(path, "--window", "4s"))
        whole = corpus.leaders(corpus.replay(path))
        self.assertLess(half["__main__.Session"] * 4, whole["__main__.Session"] * 8)

    def test_picture_and_table(self):
        with tempfile.TemporaryDirectory() as folder:
            svg = f"{folder}/a.svg"
            done = subprocess.run([f"{BUILD}/pyleakctl", "replay", f"{RECORDINGS}/sessions.rec", "-o", svg],
                                  capture_output=True, text=True, check=True)
            self.assertIn("__main__.Session", done.stdout)
            self.assertIn("leak", done.stdout)
            with open(svg, encoding="utf-8") as f:
                picture = f.read()
        self.assertIn("__main__.Session", picture)
        self.assertIn(">leak</text>", picture)
        self.assertTrue(picture.endswith("</svg>\n"))

    def test_suppressed(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            json.dump({"growth": {"interval": "400ms", "warmup": "0s", "window": "8s", "min_objects": 50,
                                  "suppress": [{"type": "__main__.*", "service": "sess*",
                                                "reason": "known", "until": "2099-01-01"}]}}, f)
            f.flush()
            document = corpus.replay(f"{RECORDINGS}/sessions.rec", "--config", f.name)
            other = corpus.replay(f"{RECORDINGS}/listeners.rec", "--config", f.name)
        self.assertNotIn("__main__.Session", corpus.leaders(document))
        self.assertIn("known", {e["suppressed"] for e in document["events"]})
        self.assertIn("__main__.Widget", corpus.leaders(other))

    def test_benign(self):
        """The shipped benign.yaml silences re's cache, and none of the leaks."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(BENIGN, folder)
            config = f"{folder}/pyleakd.yaml"
            with open(config, "w", encoding="utf-8") as f:
                json.dump({"growth": {"interval": "400ms", "warmup": "0s", "window": "8s", "min_objects": 50}}, f)
            document = corpus.replay(f"{RECORDINGS}/regex_cache.rec", "--config", config)
            told = {e["type"]: e["suppressed"] for e in document["events"]}
            self.assertIn("re keeps", told["re.Pattern"])
            for program in corpus.programs([]):
                with self.subTest(program.name):
                    found = corpus.leaders(corpus.replay(f"{RECORDINGS}/{program.name}.rec", "--config", config))
                    self.assertIsNone(corpus.judge(program, found))

    def test_suppression_ends(self):
        """Above up_to a verdict is told though it is the same."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            json.dump({"growth": {"interval": "400ms", "warmup": "0s", "window": "8s", "min_objects": 50,
                                  "suppress": [{"type": "__main__.*", "reason": "few", "up_to": 400}]}}, f)
            f.flush()
            events = corpus.replay(f"{RECORDINGS}/sessions.rec", "--config", f.name)["events"]
        events = [(e["count"], e["suppressed"]) for e in events
                  if e["type"] == "__main__.Session" and e["verdict"] == "leak"]
        self.assertLessEqual(events[0][0], 400)
        self.assertEqual(events[0][1], "few")
        self.assertGreater(events[1][0], 400)
        self.assertIsNone(events[1][1])
        self.assertEqual(len(events), 2)

    def test_not_a_recording(self):
        done = subprocess.run([f"{BUILD}/pyleakctl", "replay", __file__], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^pyleakctl: .*: line 1: no recording of this version.*\n$")


if __name__ == "__main__":
    unittest.main()
