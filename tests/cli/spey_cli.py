"""What the command-line tests share: running spey, small safetensors files, temporary folders. Standard library only."""

import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SPEY = os.environ.get("SPEY_BINARY", os.path.join(ROOT, "build/release/spey"))
DEMO = os.path.join(ROOT, "models/demo")
DATA = os.path.join(ROOT, "tests/data")


def run(*args, stdin="", env=None, timeout=600, check=False, **more):
    """Run spey; the result has returncode, stdout, stderr as text."""
    full = dict(os.environ, **(env or {}))
    result = subprocess.run([SPEY, *map(str, args)], input=stdin, capture_output=True, text=True, env=full,
                            timeout=timeout, **more)
    if check and result.returncode != 0:
        raise AssertionError(f"spey {' '.join(map(str, args))}: exit {result.returncode}\n{result.stderr}")
    return result


def run_json(*args, **more):
    return json.loads(run(*args, check=True, **more).stdout)


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(n))
        data = f.read()
    return {k: (v["dtype"], v["shape"], data[v["data_offsets"][0]:v["data_offsets"][1]])
            for k, v in header.items() if k != "__metadata__"}


def write_safetensors(path, tensors, header=None):
    """The inverse; `header` (bytes) replaces the right one."""
    described, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = header if header is not None else json.dumps(described).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


class SpeyTest(unittest.TestCase):
    """A temporary folder, a cache of its own, and assertions about failures."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="spey-test-")
        os.environ["XDG_CACHE_HOME"] = os.path.join(cls.folder, "cache")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def copy_checkpoint(self, name, source=DEMO):
        target = self.path(name)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        return target

    def assertFails(self, result, *words, code=1):
        """One clear line on stderr with all the words; the right exit code; nothing on stdout."""
        self.assertEqual(result.returncode, code, result.stderr)
        lines = [l for l in result.stderr.splitlines() if l]
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertTrue(lines[0].startswith("spey: error: "), lines[0])
        for word in words:
            self.assertIn(word, lines[0])
        self.assertEqual(result.stdout, "")

    def assertNothingLeft(self, path):
        folder, name = os.path.split(path)
        self.assertEqual([f for f in os.listdir(folder) if f.startswith(name)], [])
