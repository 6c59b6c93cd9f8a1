import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

import jaxencoder
from jaxencoder.cli import main as entry
from tests.tasks.conftest import classifier, home, masked  # noqa: F401

pytest.importorskip("fastapi")


def post(address: str, path: str, **body) -> object:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    request.add_header("Authorization", "Bearer secret")
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def test_two_models_are_served_until_told_to_stop(masked, classifier):  # noqa: F811
    command = [sys.executable, "-m", "jaxencoder", "serve", str(masked.folder), str(classifier.folder), "--port", "0"]
    command += ["--served-model-name", "small", "classes", "--no-warm-up"]
    environment = os.environ | {"JAXENCODER_API_KEY": "secret"}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = next(line for line in server.stderr if line.startswith("serving "))
        names, address = re.fullmatch(r"serving (.*) at (http://127.0.0.1:\d+)\n", line).groups()
        assert names == "small (embedding), classes (classifier)"
        expected = jaxencoder.load(masked.folder).embed(["a lovely film"], normalize=True)
        np.testing.assert_allclose(post(address, "/embed", inputs="a lovely film"), expected, atol=1e-6)
        assert {x["label"] for x in post(address, "/predict", inputs="a lovely film", model="classes")} == {"yes", "no"}
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/info")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name a MODEL to serve"),
        (["a", "b", "--served-model-name", "x"], "there are 2 models and the names x; give each a name of its own"),
        (["a", "a"], "there are 2 models and the names a, a"),
        (["a", "--port", "99999"], "port is 99999; give 0 to 65535"),
        (["a", "--host", "256.0.0.1"], "the server cannot listen at 256.0.0.1:3000"),
        (["./nothing", "--port", "0"], "./nothing"),
        (["a", "--max-batch-tokens", "0"], "max_batch_tokens is 0; give at least 1"),
        (["a", "--request-timeout", "nan"], "request_timeout is nan"),
    ],
)
def test_mistakes(options, message, capsys):
    assert entry.main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
